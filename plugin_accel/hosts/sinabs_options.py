"""Reads the options of a sinabs layer: which of them the kernels know, in the kernels' own terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

import sinabs.activation as sa
import sinabs.layers as sl
import torch
from torch import Tensor, nn

from plugin_accel.neurons import Config
from plugin_accel.surrogates import Surrogate

_SURROGATES: dict[type, tuple[str, Callable[[Any], Any]]] = {
    sa.SingleExponential: ("single_exponential", attrgetter("grad_width", "grad_scale")),
    sa.PeriodicExponential: ("periodic_exponential", attrgetter("grad_width", "grad_scale")),
    sa.Heaviside: ("heaviside", lambda fn: (fn.window,)),
    sa.Gaussian: ("gaussian", attrgetter("mu", "sigma", "grad_scale")),
    sa.MultiGaussian: ("multi_gaussian", attrgetter("mu", "sigma", "h", "s", "grad_scale")),
}


@dataclass(frozen=True, eq=False)
class Options:
    """What a layer's constructor options mean for the kernels; compared by identity, made once per combination.

    Attributes:
        spike: As in `Config`.
        reset: As in `Config`.
        max_spikes: As in `Config`.
        surrogate: One with a kernel, or None: the layer's own callable is then evaluated in torch.
        reasons: Why sinabs's own forward must run; empty if the kernels can.
    """

    spike: str
    reset: str
    max_spikes: float
    surrogate: Surrogate | None
    reasons: tuple[str, ...]


_EXP_LEAK = Options("none", "subtract_threshold", math.inf, None, ())


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _name(value: object) -> str:
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def reset_value(reset_fn: Any) -> Any:
    """The value that a layer's reset subtracts or sets; None for the threshold."""
    return getattr(reset_fn, "reset_value" if type(reset_fn) is sa.MembraneReset else "subtract_value", None)


def read(layer: Any) -> Options:
    """The options of a layer as they are now."""
    if isinstance(layer, sl.ExpLeak):
        return _EXP_LEAK
    spike_fn, reset_fn, surrogate = layer.spike_fn, layer.reset_fn, layer.surrogate_grad_fn
    if spike_fn is sa.MultiSpike or spike_fn is sa.SingleSpike:
        spike: Any = spike_fn
    elif type(spike_fn) is sa.MaxSpike:
        most = spike_fn.max_num_spikes_per_bin
        spike = math.inf if most is None else most if _number(most) else _name(spike_fn)
    else:
        spike = _name(spike_fn)
    value = reset_value(reset_fn)
    reset = type(reset_fn) if type(reset_fn) in (sa.MembraneSubtract, sa.MembraneReset) else _name(reset_fn)
    kind = "none" if value is None else "value" if _number(value) or isinstance(value, Tensor) else _name(type(value))
    known = _SURROGATES.get(type(surrogate))
    if known is None:
        return _options(spike, reset, kind, None if callable(surrogate) else _name(surrogate), ())
    return _options(spike, reset, kind, known[0], known[1](surrogate))


@lru_cache(maxsize=512)
def _options(spike: Any, reset: Any, value: str, surrogate: str | None, values: tuple[Any, ...]) -> Options:
    reasons = []
    if isinstance(spike, str):
        reasons.append(f"spike_fn {spike} has no kernel (SingleSpike, MultiSpike and MaxSpike have)")
    if isinstance(reset, str):
        reasons.append(f"reset_fn {reset} has no kernel (MembraneSubtract and MembraneReset have)")
    elif value not in ("none", "value"):
        reasons.append(f"reset value is a {value}, neither a number nor a tensor")
    if surrogate is not None and not values:
        reasons.append(f"surrogate_grad_fn {surrogate} is not callable")
    named = Surrogate(surrogate, tuple(map(float, values))) if surrogate and all(map(_number, values)) and values else None
    # torch clamps fp32 spikes: the bound counts as fp32
    bound = torch.tensor(spike, dtype=torch.float32).item() if _number(spike) else math.inf
    how = "value" if reset is sa.MembraneReset else "subtract_threshold" if value == "none" else "subtract"
    return Options("single" if spike is sa.SingleSpike else "multi", how, bound, named, tuple(reasons))


@lru_cache(maxsize=1024)
def config(options: Options, synapse: bool, clamp: bool, time_dim: int) -> Config:
    """The configuration of a call."""
    return Config(
        synapse, options.spike, options.reset, clamp, options.max_spikes, options.surrogate, time_dim
    )


def reasons(layer: Any) -> tuple[str, ...]:
    """Why a layer's configuration is left to sinabs's own forward."""
    found = read(layer).reasons
    connection = getattr(layer, "rec_connect", None)
    if isinstance(connection, nn.Module) and any(True for _ in connection.buffers()):
        found += ("rec_connect has buffers, with which sinabs cannot initialise the layer's state",)
    return found
