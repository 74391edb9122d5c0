"""Prepares one call of a sinabs layer: dtype, parameters and states as the kernels take them, or why they cannot.

sinabs lets torch promote dtypes as it goes: a 0-d parameter never widens a result, a tensor of neurons does; spikes are
fp32 whatever the input. The rules here lead to the same roundings, or refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import sinabs.layers as sl
import torch
from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack

from plugin_accel import backends
from plugin_accel.hosts import sinabs_options as so
from plugin_accel.hosts.constants import beside, constant, one
from plugin_accel.hosts.inputs import check_input
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.sinabs_decays import ADAPT, MEM, SYN, Decay, decay, never_decays, parameter
from plugin_accel.modes import capturing
from plugin_accel.neurons import SINABS_ALIF, SINABS_LIF, Config, Derived, Neuron, Result, ops, run_unchecked

FP32, FP64 = torch.float32, torch.float64
LOW = (torch.float16, torch.bfloat16)

_PLAIN = (Tensor, nn.Parameter)

StateShape = tuple[int, ...]


class Call(NamedTuple):
    """A layer call that is ready to run, over a sequence or step by step."""

    config: Config
    names: tuple[str, ...]
    """Of the states, in the kernels' order."""
    dtype: torch.dtype
    low_gain: Tensor | None
    """1 - alpha_mem, where the host multiplies a 16-bit input by it in 16 bits."""
    function: Callable[..., Result]
    reads_low: bool = False
    """The backend takes an input of 16 bits as it is."""

    def run(self, x: Tensor, first: Sequence[Tensor], *, keep: bool = False, record: bool = False) -> Result:
        """Run from states `first`; `x` may still have the dtype the layer was given."""
        if x.dtype is not self.dtype:
            if self.low_gain is not None and x.dtype in LOW:
                x = self.low_gain * x
            if not (self.reads_low and x.dtype in LOW):
                x = x.to(self.dtype)
        return self.function(self.config, x, first, keep=keep, record=record)


def as_param(value: Any, x: Tensor, dtype: torch.dtype, through: torch.dtype | None = None) -> Tensor:
    """A number or tensor as a parameter of `dtype`, beside `x`; rounded to `through` first where sinabs does."""
    if isinstance(value, Tensor):
        if value.dim() and value.dtype is FP64 and dtype is FP32:
            raise Refused("an option is a float64 tensor, with which sinabs continues in float64; the input is float32")
        if through is not None:
            value = _cast(value, through)
    elif isinstance(value, (int, float)):
        value = constant(value, through or dtype, x.device)
    else:
        raise Refused(f"an option is a {type(value).__name__}, neither a number nor a tensor")
    return _cast(value, dtype)


def _cast(p: Tensor, dtype: torch.dtype) -> Tensor:
    if p.dtype is dtype:
        return p
    if p.dtype.is_complex or p.dtype is torch.bool:
        raise Refused(f"a parameter is {p.dtype}")
    return p.to(dtype)


def own_states(layer: Any, call: Call, fresh: bool = False) -> list[Tensor]:
    """The layer's states as the kernels take them; `fresh`: sinabs has just made them.

    Raises:
        Refused: they are of another dtype than the data, so that sinabs would mix precisions.
    """
    states = []
    for name in call.names:
        state = layer._buffers[name]
        if state.dtype is not call.dtype:
            # Zeros widen exactly, and ALIF's b stays fp32; anything else sinabs would round once in fp32.
            exact = fresh or name == "b" or not (torch.compiler.is_compiling() or state.requires_grad or _any(state))
            if call.dtype is FP32 or not exact:
                raise Refused(f"state {name} is {state.dtype}, the input needs {call.dtype}: reset the states first")
            state = state.to(call.dtype)
        elif name == "i_syn" and "b" in call.names:
            state = state.clone()  # ALIF never replaces this buffer: it may be reset before backward needs it
        states.append(state)
    return states


def _any(state: Tensor) -> bool:
    """Whether a state is anything but zeros; it waits for a GPU."""
    if capturing(state.device):
        raise Refused("a CUDA graph is captured, in which a state of another dtype cannot be looked at")
    return bool(state.any())


def _check(layer: Any, x: Tensor, options: so.Options, states: tuple[str, ...]) -> torch.dtype:
    """Checks that hold for every layer; gives the dtype to compute in."""
    if options.reasons:
        raise Refused("; ".join(options.reasons))
    compiling = torch.compiler.is_compiling()
    check_input(x)
    buffers = layer._buffers
    if len(buffers) != len(states):
        raise Refused(f"the layer has buffers {sorted(buffers)}, not only its states {sorted(states)}")
    device = x.device
    for name in states:
        state = buffers.get(name)
        if state is None or state.device != device:
            raise Refused(f"state {name} is missing or not on {device}, where the input is")
        if type(state) not in _PLAIN and not compiling:
            raise Refused(f"state {name} is a {type(state).__name__}")
    dtype = x.dtype
    if dtype is FP32 or dtype is FP64:
        return dtype
    if dtype.is_complex or (dtype.is_floating_point and dtype not in LOW):
        raise Refused(f"input is {dtype}")
    return FP32


def _fits(name: str, p: Tensor, state_shape: StateShape, dtype: torch.dtype) -> None:
    """Refuses a parameter that would widen or enlarge the state."""
    if p.dtype is FP64 and dtype is FP32:
        raise Refused(f"{name} is a float64 tensor, with which sinabs continues in float64; the input is float32")
    if p.dim() > len(state_shape) or any(
        n not in (1, m) for n, m in zip(reversed(p.shape), reversed(state_shape), strict=False)
    ):
        raise Refused(f"{name} of shape {tuple(p.shape)} does not broadcast to the state's {state_shape}")


def derived_from(found: Decay, alpha: int, rest: int | None) -> tuple[Derived, ...]:
    """The time constant behind the parameters at these positions, if its gradient is wanted."""
    if found.tau is None or found.slope is None:
        return ()
    return (Derived(found.tau, found.slope, alpha, rest),)


def _call(
    neuron: Neuron,
    config: Config,
    x: Tensor,
    dtype: torch.dtype,
    values: Sequence[Tensor],
    state_shape: StateShape,
    low_gain: Tensor | None,
    surrogate_fn: Any,
    derived: tuple[Derived, ...],
) -> Call:
    params, device, compiling = [], x.device, torch.compiler.is_compiling()
    for i, p in enumerate(values):
        if type(p) not in _PLAIN and not compiling:
            raise Refused(f"{neuron.params(config)[i]} is a {type(p).__name__}")
        if p.dim():
            _fits(neuron.params(config)[i], p, state_shape, dtype)
        if p.device != device and (p := beside(p, device)).device != device:
            raise Refused(f"{neuron.params(config)[i]} is on {p.device}, the input on {device}")
        params.append(p if p.dtype is dtype else _cast(p, dtype))
    if compiling or _len_torch_dispatch_stack():  # a mode that watches operations must see one
        if surrogate_fn is not None:
            raise Refused("a surrogate without a kernel is not compiled, nor seen by dispatch modes")
        return Call(config, neuron.states(config), dtype, low_gain, partial(ops.call, neuron, params=params))
    backend = backends.choose(device, dtype, neuron.name)
    if backend is None:
        raise Refused(f"no backend for {dtype} on {device}")
    function = partial(run_unchecked, neuron, backend, params=params, surrogate_fn=surrogate_fn, derived=derived)
    return Call(config, neuron.states(config), dtype, low_gain, function, getattr(backend, "reads_low", False))


def _membrane(layer: Any, x: Tensor, dtype: torch.dtype, synapse: bool) -> tuple[Decay, Tensor | None, Tensor]:
    """The membrane's decay, the gain that a 16-bit input is multiplied by beforehand, and the kernel's gain."""
    norm = layer.norm_input
    if never_decays(layer) and x.device.type != "cpu":  # sinabs's own 1 is one of the CPU, to be copied at each call
        unit = one(dtype, x.device)
        return Decay(unit, None), None, constant(0.0, dtype, x.device) if norm else unit
    low = norm and x.dtype in LOW and not synapse
    mem = decay(layer, MEM, rest=norm, in_torch=low)
    assert mem is not None
    if mem.rest is None:
        return mem, None, one(dtype, x.device)
    return (mem, mem.rest, one(dtype, x.device)) if low and mem.rest.dim() == 0 else (mem, None, mem.rest)


def lif_call(layer: Any, x: Tensor, state_shape: StateShape, time_dim: int) -> Call:
    """A call of LIF, IAF, ExpLeak and their recurrent forms.

    Raises:
        Refused: sinabs's own forward must run.
    """
    options = so.read(layer)
    syn = decay(layer, SYN, rest=False)
    synapse = syn is not None
    dtype = _check(layer, x, options, ("v_mem", "i_syn") if synapse else ("v_mem",))
    low, threshold = parameter(layer, "min_v_mem"), parameter(layer, "spike_threshold")
    spiking = options.spike != "none"
    if spiking and threshold is None:
        raise Refused("the layer has no threshold")
    config = so.config(options, synapse, low is not None, time_dim)
    mem, low_gain, gain = _membrane(layer, x, dtype, synapse)
    params, derived = [mem.alpha, gain], derived_from(mem, 0, 1 if gain is mem.rest else None)
    if syn is not None:
        derived += derived_from(syn, 2, None)
        params.append(syn.alpha)
    if spiking:
        params.append(threshold)
        value = so.reset_value(layer.reset_fn)
        round32 = dtype is FP64
        if round32 and FP64 in (threshold.dtype, getattr(value, "dtype", None)):
            raise Refused("threshold or reset value is float64, so that sinabs mixes precisions in the reset")
        if value is not None:
            params.append(as_param(value, x, dtype, FP32 if round32 and options.reset == "subtract" else None))
    if low is not None:
        params.append(low)
    surrogate_fn = layer.surrogate_grad_fn if spiking and options.surrogate is None else None
    return _call(SINABS_LIF, config, x, dtype, params, state_shape, low_gain, surrogate_fn, derived)


def alif_call(layer: Any, x: Tensor, state_shape: StateShape, time_dim: int) -> Call:
    """A call of ALIF and its recurrent form; see `lif_call`."""
    options = so.read(layer)
    syn = decay(layer, SYN, rest=False)
    synapse = syn is not None
    states = ("v_mem", "b", "spike_threshold", "i_syn") if synapse else ("v_mem", "b", "spike_threshold")
    dtype = _check(layer, x, options, states)
    round32 = dtype is FP64
    value = so.reset_value(layer.reset_fn)
    adapt = decay(layer, ADAPT, rest=True)
    assert adapt is not None
    assert adapt.rest is not None
    adaptation = (adapt.alpha, layer.b0, layer.adapt_scale)
    if round32 and any(getattr(p, "dtype", None) is FP64 for p in (*adaptation, layer.b, value)):
        raise Refused("threshold adaptation is float64, which sinabs mixes with its float32 spikes")
    config = so.config(options, synapse, layer.min_v_mem is not None, time_dim)
    mem, low_gain, gain = _membrane(layer, x, dtype, synapse)
    params, derived = [mem.alpha, gain], derived_from(mem, 0, 1 if gain is mem.rest else None)
    if syn is not None:
        derived += derived_from(syn, 2, None)
        params.append(syn.alpha)
    derived += derived_from(adapt, len(params), len(params) + 1)
    params += [adapt.alpha, adapt.rest]
    params += [p if isinstance(p, Tensor) else as_param(p, x, FP32) for p in adaptation[1:]]
    if value is not None:
        params.append(as_param(value, x, dtype, FP32 if round32 and options.reset == "subtract" else None))
    if layer.min_v_mem is not None:
        params.append(as_param(layer.min_v_mem, x, dtype))
    surrogate_fn = layer.surrogate_grad_fn if options.surrogate is None else None
    return _call(SINABS_ALIF, config, x, dtype, params, state_shape, low_gain, surrogate_fn, derived)


def shape_states(layer: Any, state_shape: StateShape) -> bool:
    """What sinabs's LIF does about states of another shape, by its own methods; whether all are zeros now."""
    for state in layer._buffers.values():
        if state.shape != state_shape:
            break
    else:
        return False
    if not layer.is_state_initialised():
        layer.init_state_with_shape(state_shape)
        if layer.state_has_shape(state_shape):
            return _makes_zeros(layer)
    if not layer.state_has_shape(state_shape):
        if layer.has_trailing_dimension(state_shape[1:]):
            layer.handle_state_batch_size_mismatch(state_shape[0])
        else:
            layer.init_state_with_shape(state_shape)
            return _makes_zeros(layer)
    return False


def _makes_zeros(layer: Any) -> bool:
    """Whether the layer's states are made by sinabs's own method, which is known to give zeros."""
    if torch.compiler.is_compiling():
        return False
    made, reset = type(layer).init_state_with_shape, type(layer).reset_states
    own = layer.__dict__
    return (
        made is sl.StatefulLayer.init_state_with_shape
        and reset is sl.StatefulLayer.reset_states
        and not ("init_state_with_shape" in own or "reset_states" in own)
    )


def shape_states_or_zero(layer: Any, state_shape: StateShape) -> bool:
    """What sinabs's recurrent layers and ALIF do about states of another shape; whether all are zeros now."""
    if all(state.shape == state_shape for state in layer._buffers.values()):
        return False
    layer.init_state_with_shape(state_shape)
    return _makes_zeros(layer)
