"""Reads the options of a sinabs layer: which of them the kernels know, in the kernels' own terms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sinabs.activation as sa
import sinabs.layers as sl
import torch
from torch import Tensor, nn

from plugin_accel.neurons import SinabsConfig
from plugin_accel.surrogates import Surrogate

_SURROGATES: dict[type, tuple[str, Callable[[Any], Any]]] = {
    sa.SingleExponential: ("single_exponential", lambda fn: (fn.grad_width, fn.grad_scale)),
    sa.PeriodicExponential: ("periodic_exponential", lambda fn: (fn.grad_width, fn.grad_scale)),
    sa.Heaviside: ("heaviside", lambda fn: (fn.window,)),
    sa.Gaussian: ("gaussian", lambda fn: (fn.mu, fn.sigma, fn.grad_scale)),
    sa.MultiGaussian: ("multi_gaussian", lambda fn: (fn.mu, fn.sigma, fn.h, fn.s, fn.grad_scale)),
}


@dataclass(frozen=True, eq=False)
class Options:
    """What a layer's constructor options mean for the kernels; compared by identity, made once per combination.

    Attributes:
        spike: As in `SinabsConfig`.
        reset: As in `SinabsConfig`.
        max_spikes: As in `SinabsConfig`.
        surrogate: One with a kernel, or None: the layer's own callable is then evaluated in torch.
        reasons: Why sinabs's own forward must run; empty if the kernels can.
        key: Constants from which torch.compile finds these options again; empty for ExpLeak.
    """

    spike: str
    reset: str
    max_spikes: float
    surrogate: Surrogate | None
    reasons: tuple[str, ...]
    key: tuple[Any, ...] = ()


_EXP_LEAK = Options("none", "subtract_threshold", math.inf, None, ())


_SPIKES = {id(sa.MultiSpike): "multi", id(sa.SingleSpike): "single"}
"""By identity, the one way in which torch.compile compares classes of autograd functions."""


def _nothing(surrogate: object) -> tuple[Any, ...]:
    return ()


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _name(value: object) -> str:
    if torch.compiler.is_compiling():
        return "given"
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def reset_value(reset_fn: Any) -> Any:
    """The value that a layer's reset subtracts or sets; None for the threshold."""
    return getattr(reset_fn, "reset_value" if type(reset_fn) is sa.MembraneReset else "subtract_value", None)


def read(layer: Any) -> Options:
    """The options of a layer as they are now."""
    if isinstance(layer, sl.ExpLeak):
        return _EXP_LEAK
    spike_fn, reset_fn, surrogate = layer.spike_fn, layer.reset_fn, layer.surrogate_grad_fn
    if type(spike_fn) is sa.MaxSpike:
        most = spike_fn.max_num_spikes_per_bin
        spike: Any = math.inf if most is None else most if _number(most) else (_name(most),)
    else:
        spike = _SPIKES.get(id(spike_fn)) or (_name(spike_fn),)
    value = reset_value(reset_fn)
    reset: Any = type(reset_fn) if type(reset_fn) in (sa.MembraneSubtract, sa.MembraneReset) else _name(reset_fn)
    kind = "none" if value is None else "value" if _number(value) or isinstance(value, Tensor) else _name(type(value))
    known = _SURROGATES.get(type(surrogate))
    name, values = known if known is not None else (None if callable(surrogate) else _name(surrogate), _nothing)
    key = (spike, reset, kind, name, values(surrogate))
    return _constant_options(_constants(key)) if torch.compiler.is_compiling() else _options(*key)


@lru_cache(maxsize=512)
def _options(spike: Any, reset: Any, value: str, surrogate: str | None, values: tuple[Any, ...]) -> Options:
    reasons = []
    if isinstance(spike, tuple):
        reasons.append(f"spike_fn {spike[0]} has no kernel (SingleSpike, MultiSpike and MaxSpike have)")
    if isinstance(reset, str):
        reasons.append(f"reset_fn {reset} has no kernel (MembraneSubtract and MembraneReset have)")
    elif value not in ("none", "value"):
        reasons.append(f"reset value is a {value}, neither a number nor a tensor")
    if surrogate is not None and not values:
        reasons.append(f"surrogate_grad_fn {surrogate} is not callable")
    named = (
        Surrogate(surrogate, tuple(map(float, values))) if surrogate and all(map(_number, values)) and values else None
    )
    # torch clamps fp32 spikes: the bound counts as fp32
    bound = torch.tensor(spike, dtype=torch.float32, device="cpu").item() if _number(spike) else math.inf
    if math.isnan(bound):
        reasons.append("the bound of MaxSpike is not a number")
    how = "value" if reset is sa.MembraneReset else "subtract_threshold" if value == "none" else "subtract"
    return Options("single" if spike == "single" else "multi", how, bound, named, tuple(reasons))


def config(options: Options, synapse: bool, clamp: bool, time_dim: int) -> SinabsConfig:
    """The configuration of a call."""
    if torch.compiler.is_compiling():
        return _constant_config(options.key, synapse, clamp, time_dim)
    return _config(options, synapse, clamp, time_dim)


@lru_cache(maxsize=1024)
def _config(options: Options, synapse: bool, clamp: bool, time_dim: int) -> SinabsConfig:
    return SinabsConfig(synapse, options.spike, options.reset, clamp, options.max_spikes, options.surrogate, time_dim)


# While torch.compile traces, options and configurations are constants, found by a key of constants by which the
# compiled program is guarded. The mark is what torch.compiler.assume_constant_result sets; that decorator would import
# the whole compiler.


def _constants(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """A key whose numbers the compiler must know by value: it would make variables of those that change."""
    spike, reset, value, surrogate, values = key
    if _number(spike):
        spike = math.frexp(spike)
    known = all(_number(v) for v in values)
    return spike, reset, value, surrogate, tuple([math.frexp(v) for v in values]) if known else (None,)


def _from_constants(spike: Any, reset: Any, value: str, surrogate: str | None, values: tuple[Any, ...]) -> Options:
    if isinstance(spike, tuple) and len(spike) == 2:
        spike = math.ldexp(*spike)
    return _options(spike, reset, value, surrogate, tuple(v and math.ldexp(*v) for v in values))


def _constant_options(key: tuple[Any, ...]) -> Options:
    return dataclasses.replace(_from_constants(*key), key=key)


def _constant_config(key: tuple[Any, ...], synapse: bool, clamp: bool, time_dim: int) -> SinabsConfig:
    made = _config(_from_constants(*key) if key else _EXP_LEAK, synapse, clamp, time_dim)
    assert made.encoded  # computed here, not in the compiled program
    return made


_constant_options._dynamo_marked_constant = True  # type: ignore[attr-defined]
_constant_config._dynamo_marked_constant = True  # type: ignore[attr-defined]


def reasons(layer: Any) -> tuple[str, ...]:
    """Why a layer's configuration is left to sinabs's own forward."""
    found = read(layer).reasons
    connection = getattr(layer, "rec_connect", None)
    if isinstance(connection, nn.Module) and any(True for _ in connection.buffers()):
        found += ("rec_connect has buffers, with which sinabs cannot initialise the layer's state",)
    return found
