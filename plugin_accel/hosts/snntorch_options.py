"""Reads the options of a snnTorch layer: which of them the kernels know, in the kernels' own terms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType
from typing import Any

import snntorch as snn
import torch
from snntorch import surrogate
from torch.utils.weak import WeakTensorKeyDictionary

from plugin_accel.hosts.known import Known
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.snntorch_callables import behaviour, conclusions
from plugin_accel.modes import capturing
from plugin_accel.neurons import SnnTorchConfig
from plugin_accel.neurons.config import decode
from plugin_accel.neurons.snntorch_leaky import NO_GRADIENT
from plugin_accel.surrogates import Surrogate, trial

_RESETS = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}
_RESET_VALUES = {"subtract": 0, "zero": 1, "none": 2}

# Factory of snntorch.surrogate: the kernels' name for what it makes, and the parameters, from its variables by name.
_FACTORIES: dict[str, tuple[str, Callable[..., tuple[float, ...]]]] = {
    "straight_through_estimator": ("constant", lambda: (1.0,)),
    "triangular": ("triangular", lambda threshold: (threshold,)),
    "fast_sigmoid": ("fast_sigmoid", lambda slope: (slope, -math.inf)),
    "SFS": ("fast_sigmoid", lambda slope, B: (slope, B)),
    "atan": ("atan", lambda alpha: (alpha,)),
    "heaviside": ("above_threshold", lambda: ()),
    "sigmoid": ("sigmoid", lambda slope: (slope,)),
    "spike_rate_escape": ("spike_rate_escape", lambda beta, slope: (beta, slope)),
}


@dataclass(frozen=True, eq=False)
class Options:
    """What a layer's constructor options mean for the kernels; compared by identity, made once per combination.

    Attributes:
        reset: As in `SnnTorchConfig`.
        delay: As in `SnnTorchConfig`.
        surrogate: One with a kernel.
        inhibition: Only the neuron with the highest membrane spikes.
        reasons: Why snnTorch's own forward must run; empty if the kernels can.
        spikes_learn: Whether spikes have a gradient.
        called: The layer's own `spike_grad` makes the spikes, see `snntorch_callables`.
        key: A configuration with these options, encoded: a constant, as torch.compile wants it.
    """

    reset: str
    delay: bool
    surrogate: Surrogate | None
    inhibition: bool
    reasons: tuple[str, ...]
    spikes_learn: bool = True
    called: bool = False
    key: str = ""


def _variables(function: FunctionType) -> dict[str, Any]:
    cells = function.__closure__ or ()
    return dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in cells), strict=True))


@Known
def recognised(spike_grad: Callable[..., Any]) -> Surrogate | None:
    """The kernels' form of a callable that snnTorch's own surrogate module made; None for any other.

    What releases of snnTorch make of a factory is not guessed by their version: the callable is run on a few values
    and must fire and differentiate as ours.
    """
    if spike_grad is snn.SpikingNeuron._surrogate_bypass or spike_grad is snn.LeakyParallel._surrogate_bypass:
        return NO_GRADIENT
    variables: dict[str, Any]
    if getattr(spike_grad, "__self__", None) is snn.LeakyParallel.ATan:
        name, variables = "atan", {"alpha": 2.0}
    elif isinstance(spike_grad, FunctionType) and spike_grad.__module__ == surrogate.__name__:
        name, variables = spike_grad.__qualname__.removesuffix(".<locals>.inner"), _variables(spike_grad)
    elif type(spike_grad).__module__ == surrogate.__name__ and type(spike_grad).__name__ == "ATanSurrogate":
        name, variables = "atan", {"alpha": getattr(spike_grad, "alpha", None)}
    else:
        return None
    if name not in _FACTORIES:
        return None
    kernel, parameters = _FACTORIES[name]
    try:
        made = Surrogate(kernel, tuple(float(value) for value in parameters(**variables)))
    except (TypeError, ValueError):
        return None
    return made if _behaves(spike_grad, made) else None


def _behaves(spike_grad: Callable[..., Any], ours: Surrogate) -> bool:
    with trial():
        z = torch.tensor([-1.5, -0.4, -0.01, 0.0, 0.01, 0.4, 1.2, 2.5], device="cpu", requires_grad=True)
        spikes = spike_grad(z)
        (slope,) = torch.autograd.grad(spikes.sum(), z)
        fires = (z > 0).float()
        same = torch.allclose(slope, ours(z.detach(), torch.zeros((), device="cpu")), rtol=1e-4, atol=1e-7)
        double = spike_grad(z.detach().double())
        return same and torch.equal(spikes, fires) and double.dtype is torch.float32


def draws(spike_grad: Any) -> bool:
    """Whether going back through a surrogate takes random numbers."""
    with torch._C.DisableTorchFunction():  # time fusion, which asks, records what goes through torch
        return spike_grad is not None and recognised(spike_grad) is None and behaviour(spike_grad).draws


def is_narrow(layer: Any) -> bool:
    """Whether a callable of the user's own gives fp32 spikes whatever the membrane."""
    return _constant_narrow(layer) if torch.compiler.is_compiling() else behaviour(layer.spike_grad).narrow


def read(layer: Any, zero: str, delayable: bool) -> Options:
    """The options of a layer as they are now.

    Args:
        layer: A stepwise neuron of snnTorch.
        zero: What its reset to zero is, as in `SnnTorchConfig`.
        delayable: Whether it has the option `reset_delay`.
    """
    function = layer.state_function
    facts = (
        _reset_of(function) if getattr(function, "__self__", None) is layer else None,
        bool(getattr(layer, "reset_delay", True)),
        delayable,
        bool(layer.state_quant),
        bool(layer.inhibition),
        zero,
    )
    if not torch.compiler.is_compiling():
        return _options(layer.spike_grad, *facts)
    if _constant_known(layer):
        return _constant_options(layer.spike_grad, *facts)
    return _constant_called(layer, *facts)  # the callable is guarded when it is called, in the trace


def _reset_of(function: Any) -> str | None:
    """The reset that a `state_function` makes; None if it is not one of snnTorch's."""
    of_snntorch = getattr(function, "__module__", "").startswith("snntorch.")
    return _RESETS.get(getattr(function, "__name__", "")) if of_snntorch else None


@Known
def _made(spike_grad: Callable[..., Any]) -> dict[tuple[Any, ...], Options]:
    return {}


conclusions.append(_made)


def _options(spike_grad: Callable[..., Any], *facts: Any) -> Options:
    known = _made(spike_grad)
    found = known.get(facts)
    if found is None:
        found = known[facts] = _make(spike_grad, *facts)
    return found


def _make(
    spike_grad: Callable[..., Any],
    reset: str | None,
    delay: bool,
    delayable: bool,
    quantised: bool,
    inhibition: bool,
    zero: str,
) -> Options:
    reasons = []
    if reset is None:
        reasons.append("state_function is not one of snnTorch's own, bound to this layer")
    made, called = recognised(spike_grad), False
    if made is None:
        name, seen = getattr(spike_grad, "__qualname__", type(spike_grad).__qualname__), behaviour(spike_grad)
        if why := seen.unknown if reset == "none" else seen.refusal:
            reasons.append(f"spike_grad {name} {why}")
        elif not delay and reset != "none":
            reasons.append(f"spike_grad {name} has no kernel, which reset_delay=False needs")
        made, called = NO_GRADIENT, True
    if quantised:
        reasons.append("state_quant has no kernel")
    if not delay and not delayable:
        reasons.append("reset_delay=False has no effect in snnTorch here, or raises")
    delay = delay or reset == "none"
    if inhibition and not delay:
        reasons.append("inhibition together with reset_delay=False has no kernel")
    kind = zero if reset == "zero" else reset or "none"
    key = SnnTorchConfig(kind, delay, surrogate=made).encoded
    return Options(kind, delay, made, inhibition, tuple(reasons), called or made is not NO_GRADIENT, called, key)


_values = WeakTensorKeyDictionary()


def _value(t: torch.Tensor) -> int:
    """Of a tensor of one value; of one on a GPU it is asked once, since that waits for the GPU."""
    if t.is_cpu or t.is_inference():
        return int(t)
    known = _values.get(t)
    if known is None or known[0] != t._version:
        if capturing(t.device):
            raise Refused(
                "a CUDA graph is captured, in which the reset mechanism cannot be looked at: call the layer before"
            )
        known = _values[t] = (t._version, int(t))
    value: int = known[1]
    return value


def mechanism_differs(layer: Any) -> str | None:
    """Without a delay the host looks at two places for the reset mechanism; why that is left to it, if they differ."""
    return _constant_mechanism(layer) if torch.compiler.is_compiling() else _mechanism_differs(layer)


def _mechanism_differs(layer: Any) -> str | None:
    chosen = _RESET_VALUES[_RESETS[layer.state_function.__name__]]
    if _value(layer.reset_mechanism_val) != chosen:
        return "reset_mechanism was changed after construction, which snnTorch's dynamics follow only in part"
    return None


def without_reset(spike_grad: Callable[..., Any], quantised: bool) -> Options:
    """The options of a layer that has neither states nor a reset."""
    make = _constant_options if torch.compiler.is_compiling() else _options
    return make(spike_grad, "none", True, False, quantised, False, "zero_after")


def config(options: Options, recurrent: bool, narrow: bool, time_dim: int) -> SnnTorchConfig:
    """The configuration of a call."""
    make = _constant_config if torch.compiler.is_compiling() else _config
    return make(options.key, recurrent, narrow, time_dim)


@lru_cache(maxsize=1024)
def _config(key: str, recurrent: bool, narrow: bool, time_dim: int) -> SnnTorchConfig:
    like = decode(key)
    assert isinstance(like, SnnTorchConfig)
    return dataclasses.replace(like, recurrent=recurrent, narrow=narrow, time_dim=time_dim)


# While torch.compile traces, options and configurations are constants, made outside of the trace; what they were made
# of is guarded, since the trace has read it. The mark is what torch.compiler.assume_constant_result sets; that
# decorator would import the whole compiler.


def _constant_options(*facts: Any) -> Options:
    return _options(*facts)


def _constant_known(layer: Any) -> bool:
    return recognised(layer.spike_grad) is not None


def _constant_called(layer: Any, *facts: Any) -> Options:
    return _options(layer.spike_grad, *facts)


def _constant_narrow(layer: Any) -> bool:
    return behaviour(layer.spike_grad).narrow


def _constant_config(key: str, recurrent: bool, narrow: bool, time_dim: int) -> SnnTorchConfig:
    made = _config(key, recurrent, narrow, time_dim)
    assert made.encoded  # computed here, not in the compiled program
    return made


def _constant_mechanism(layer: Any) -> str | None:
    return _mechanism_differs(layer)


_constants: tuple[Any, ...] = (
    _constant_options,
    _constant_known,
    _constant_called,
    _constant_narrow,
    _constant_config,
    _constant_mechanism,
)
for _constant in _constants:
    _constant._dynamo_marked_constant = True
