"""Reads a sinabs layer: which of its options the kernels know, and its parameters as they must reach a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sinabs.activation as sa
import sinabs.layers as sl
import torch
from torch import Tensor, nn

from plugin_accel.neurons import Config
from plugin_accel.surrogates import Surrogate, SurrogateFn

FP32, FP64 = torch.float32, torch.float64

_SURROGATES: dict[type, tuple[str, tuple[str, ...]]] = {
    sa.SingleExponential: ("single_exponential", ("grad_width", "grad_scale")),
    sa.PeriodicExponential: ("periodic_exponential", ("grad_width", "grad_scale")),
    sa.Heaviside: ("heaviside", ("window",)),
    sa.Gaussian: ("gaussian", ("mu", "sigma", "grad_scale")),
    sa.MultiGaussian: ("multi_gaussian", ("mu", "sigma", "h", "s", "grad_scale")),
}


def _name(value: object) -> str:
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def surrogate_of(layer: Any) -> Surrogate | SurrogateFn | None:
    """The layer's surrogate as one with a kernel, or as the callable that it is."""
    fn = layer.surrogate_grad_fn
    known = _SURROGATES.get(type(fn))
    if known is None:
        return fn  # type: ignore[no-any-return]
    values = tuple(getattr(fn, field) for field in known[1])
    return Surrogate(known[0], tuple(map(float, values))) if all(map(_number, values)) else fn


def reasons(layer: Any) -> tuple[str, ...]:
    """Why a layer's configuration is left to sinabs's own forward."""
    found = []
    if isinstance(layer, sl.ExpLeak):
        return ()
    if layer.spike_fn not in (sa.SingleSpike, sa.MultiSpike) and not (
        type(layer.spike_fn) is sa.MaxSpike
        and (layer.spike_fn.max_num_spikes_per_bin is None or _number(layer.spike_fn.max_num_spikes_per_bin))
    ):
        found.append(f"spike_fn {_name(layer.spike_fn)} has no kernel (SingleSpike, MultiSpike and MaxSpike have)")
    value = reset_value(layer.reset_fn)
    if type(layer.reset_fn) not in (sa.MembraneSubtract, sa.MembraneReset):
        found.append(f"reset_fn {_name(layer.reset_fn)} has no kernel (MembraneSubtract and MembraneReset have)")
    elif not (value is None or _number(value) or isinstance(value, Tensor)):
        found.append(f"reset value is a {type(value).__name__}, neither a number nor a tensor")
    if not callable(layer.surrogate_grad_fn):
        found.append("surrogate_grad_fn is not callable")
    if any(True for _ in _connection_buffers(layer)):
        found.append("rec_connect has buffers, with which sinabs cannot initialise the layer's state")
    return tuple(found)


def _connection_buffers(layer: Any) -> Any:
    connection = getattr(layer, "rec_connect", None)
    return connection.buffers() if isinstance(connection, nn.Module) else iter(())


def reset_value(reset_fn: Any) -> Any:
    return getattr(reset_fn, "reset_value" if type(reset_fn) is sa.MembraneReset else "subtract_value", None)


@dataclass(frozen=True)
class Options:
    """A layer's options in the terms of the kernels; those of `Config` that do not depend on the call."""

    config: Config
    surrogate_fn: SurrogateFn | None
    reset_value: Any


def options(layer: Any, *, synapse: bool, clamp: bool, round32: bool, time_dim: int) -> Options:
    """The configuration of a call; `reasons(layer)` must be empty."""
    if isinstance(layer, sl.ExpLeak):
        return Options(_config(False, "none", "subtract_threshold", clamp, math.inf, None, False, time_dim), None, None)
    most = getattr(layer.spike_fn, "max_num_spikes_per_bin", None)
    surrogate = surrogate_of(layer)
    named = surrogate if isinstance(surrogate, Surrogate) else None
    value = reset_value(layer.reset_fn)
    reset = "subtract_threshold" if value is None else "subtract"
    if type(layer.reset_fn) is sa.MembraneReset:
        reset = "value"
    # torch clamps fp32 spikes: the bound counts as fp32
    bound = math.inf if most is None else torch.tensor(most, dtype=FP32).item()
    spike = "single" if layer.spike_fn is sa.SingleSpike else "multi"
    config = _config(synapse, spike, reset, clamp, bound, named, round32, time_dim)
    return Options(config, None if named else surrogate, value)  # type: ignore[arg-type]


@lru_cache(maxsize=1024)
def _config(*fields: Any) -> Config:
    return Config(*fields)


class Refused(Exception):
    """This call is left to sinabs's own forward; the text says why."""


def fits(name: str, value: Tensor, state_shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse a parameter that would enlarge or widen the state.

    Raises:
        Refused: with the reason.
    """
    if value.dim() == 0:
        return
    if value.dtype is FP64 and dtype is FP32:
        raise Refused(f"{name} is a float64 tensor, with which sinabs continues in float64; the input is float32")
    if value.dim() > len(state_shape) or any(
        n not in (1, m) for n, m in zip(reversed(value.shape), reversed(state_shape), strict=False)
    ):
        raise Refused(f"{name} of shape {tuple(value.shape)} does not broadcast to the state's {state_shape}")


def as_param(value: Any, dtype: torch.dtype, through: torch.dtype | None = None) -> Tensor:
    """A number or tensor as a parameter of `dtype`, rounded to `through` first where sinabs does."""
    if not isinstance(value, Tensor):
        value = torch.tensor(value, dtype=through or dtype)
    elif through is not None and value.dtype is not through:
        value = value.to(through)
    return value if value.dtype is dtype else value.to(dtype)
