"""Accelerated sinabs layers: sinabs's own classes with another `forward`, and nothing else.

Each class subclasses the layer of the same name, adds no constructor, member or state, and falls back to
`super().forward()` for what it cannot take. Numbers, recordings and quirks are sinabs's (3.1.3); see docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import sinabs.layers as sl
import torch
from sinabs.layers import alif
from torch import Tensor, nn

from plugin_accel import backends
from plugin_accel.hosts import sinabs_options as so
from plugin_accel.hosts.sinabs_options import FP32, FP64, Refused
from plugin_accel.neurons import SINABS_ALIF, SINABS_LIF, Config, Neuron, Result, ops, run
from plugin_accel.neurons.layout import STEP

_LOW = (torch.float16, torch.bfloat16)
_ONE = {dtype: torch.ones((), dtype=dtype) for dtype in (FP32, FP64)}
_fallbacks: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

StateShape = tuple[int, ...]


class _Call(NamedTuple):
    """One layer call, ready to run over a sequence or step by step."""

    run: Callable[..., Result]
    names: tuple[str, ...]
    scale_low: Tensor | None
    """1 - alpha_mem, if the host multiplies a 16-bit input by it in 16 bits."""
    dtype: torch.dtype


def last_fallback(module: nn.Module) -> str | None:
    """Why the last call of a converted layer ran sinabs's own forward."""
    return _fallbacks.get(module)


def _refuse(layer: nn.Module, why: str) -> None:
    if not torch.compiler.is_compiling():
        _fallbacks[layer] = why


def _own_states(layer: Any, names: Sequence[str], state_shape: StateShape, dtype: torch.dtype) -> list[Tensor]:
    """The layer's states as the kernels take them.

    Raises:
        Refused: they are of another dtype than the data, so that sinabs would mix precisions.
    """
    states = []
    for name in names:
        state = getattr(layer, name)
        if state.dtype is not dtype:
            # Zeros widen exactly; anything else sinabs rounds once in the narrower dtype.
            if dtype is FP32 or name != "b" and (state.dtype is not FP32 or state.requires_grad or bool(state.any())):
                raise Refused(f"state {name} is {state.dtype}, the input needs {dtype}: reset the states first")
            state = state.to(dtype)
        states.append(state)
    return states


def _compute_dtype(x: Tensor) -> torch.dtype:
    if x.dtype in (FP32, FP64):
        return x.dtype
    if x.dtype.is_complex or x.dtype.is_floating_point and x.dtype not in _LOW:
        raise Refused(f"input is {x.dtype}")
    return FP32


def _common(layer: Any, x: Tensor, expected: set[str], state_shape: StateShape) -> torch.dtype:
    """Checks that hold for every layer; the dtype to compute in.

    Raises:
        Refused: sinabs's own forward must run.
    """
    why = so.reasons(layer)
    if why:
        raise Refused("; ".join(why))
    if type(x) is not Tensor and not isinstance(x, nn.Parameter) and not torch.compiler.is_compiling():
        raise Refused(f"input is a {type(x).__name__}")
    if x.dim() < 2 or x.shape[1] == 0:
        raise Refused(f"input has shape {tuple(x.shape)}: batch, time >= 1, ... is what the kernels take")
    if layer._buffers.keys() != expected:
        raise Refused(f"the layer has buffers {sorted(layer._buffers)}, not only its states {sorted(expected)}")
    if any(layer._buffers[name].device != x.device for name in expected):
        raise Refused("input and states are on different devices")
    return _compute_dtype(x)


def _mem_params(layer: Any, alpha_mem: Tensor, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    """alpha_mem and the input's gain for the kernel, and the gain that is applied beforehand to a 16-bit input."""
    if not layer.norm_input:
        return so.as_param(alpha_mem, dtype), _ONE[dtype], None
    gain = 1 - alpha_mem
    if x.dtype in _LOW and gain.dim() == 0 and layer.alpha_syn_calculated is None:
        return so.as_param(alpha_mem, dtype), _ONE[dtype], gain
    return so.as_param(alpha_mem, dtype), so.as_param(gain, dtype), None


def _reset_params(o: so.Options, dtype: torch.dtype, subtract_in: torch.dtype | None) -> tuple[Tensor, ...]:
    if o.config.reset == "subtract_threshold":
        return ()
    return (so.as_param(o.reset_value, dtype, None if o.config.reset == "value" else subtract_in),)


def _make(
    layer: Any, neuron: Neuron, x: Tensor, dtype: torch.dtype, o: so.Options, params: Sequence[Tensor],
    state_shape: StateShape, low: Tensor | None,
) -> _Call:  # fmt: skip
    for name, p in zip(neuron.params(o.config), params, strict=True):
        so.fits(name, p, state_shape, dtype)
        if p.device != x.device:
            raise Refused(f"{name} is on {p.device}, the input on {x.device}")
    names = neuron.states(o.config)
    if torch.compiler.is_compiling():
        if o.surrogate_fn is not None:
            raise Refused("a surrogate without a kernel is not compiled")
        return _Call(partial(ops.call, neuron, params=params), names, low, dtype)
    backend = backends.choose(x.device, dtype, neuron.name)
    if backend is None:
        raise Refused(f"no backend for {dtype} on {x.device}")
    return _Call(partial(run, neuron, backend, params=params, surrogate_fn=o.surrogate_fn), names, low, dtype)


def _lif_call(layer: Any, x: Tensor, state_shape: StateShape, time_dim: int) -> tuple[_Call, Config]:
    """A call of LIF, IAF, ExpLeak.

    Raises:
        Refused: sinabs's own forward must run.
    """
    alpha_syn = layer.alpha_syn_calculated
    synapse = alpha_syn is not None
    dtype = _common(layer, x, {"v_mem", "i_syn"} if synapse else {"v_mem"}, state_shape)
    low_bound, threshold = layer.min_v_mem, layer.spike_threshold
    round32 = dtype is FP64 and not isinstance(layer, sl.ExpLeak)
    o = so.options(layer, synapse=synapse, clamp=low_bound is not None, round32=round32, time_dim=time_dim)
    alpha_mem, gain, low = _mem_params(layer, layer.alpha_mem_calculated, x, dtype)
    params = [alpha_mem, gain]
    if synapse:
        params.append(so.as_param(alpha_syn, dtype))
    if o.config.spike != "none":
        params.append(so.as_param(threshold, dtype))
        if round32 and (threshold.dtype is FP64 or isinstance(o.reset_value, Tensor) and o.reset_value.dtype is FP64):
            raise Refused("threshold or reset value is float64, so that sinabs mixes precisions in the reset")
        params.extend(_reset_params(o, dtype, FP32 if round32 else None))
    if low_bound is not None:
        params.append(so.as_param(low_bound, dtype))
    return _make(layer, SINABS_LIF, x, dtype, o, params, state_shape, low), o.config


def _alif_call(layer: Any, x: Tensor, state_shape: StateShape, time_dim: int) -> tuple[_Call, Config]:
    """A call of ALIF; see `_lif_call`."""
    alpha_syn = layer.alpha_syn_calculated
    synapse = alpha_syn is not None
    dtype = _common(layer, x, {"v_mem", "b", "spike_threshold", *(("i_syn",) if synapse else ())}, state_shape)
    round32 = dtype is FP64
    alpha_adapt, b0, scale = layer.alpha_adapt_calculated, layer.b0, layer.adapt_scale
    if round32 and (
        layer.b.dtype is not FP32
        or any(isinstance(p, Tensor) and p.dtype is FP64 for p in (alpha_adapt, b0, scale))
        or isinstance(o_value := so.reset_value(layer.reset_fn), Tensor) and o_value.dtype is FP64
    ):  # fmt: skip
        raise Refused("threshold adaptation is float64, which sinabs mixes with its float32 spikes")
    o = so.options(layer, synapse=synapse, clamp=layer.min_v_mem is not None, round32=round32, time_dim=time_dim)
    alpha_mem, gain, low = _mem_params(layer, layer.alpha_mem_calculated, x, dtype)
    params = [alpha_mem, gain]
    if synapse:
        params.append(so.as_param(alpha_syn, dtype))
    params += [so.as_param(p, dtype, FP32) for p in (alpha_adapt, 1 - alpha_adapt, b0, scale)]
    params.extend(_reset_params(o, dtype, FP32 if round32 else None))
    if layer.min_v_mem is not None:
        params.append(so.as_param(layer.min_v_mem, dtype))
    return _make(layer, SINABS_ALIF, x, dtype, o, params, state_shape, low), o.config


def _ready(x: Tensor, call: _Call) -> Tensor:
    """The input in the dtype to compute in, rounded as the host rounds it."""
    if call.scale_low is not None and x.dtype in _LOW:
        x = call.scale_low * x
    return x if x.dtype is call.dtype else x.to(call.dtype)


def _shape_states(layer: Any, state_shape: StateShape) -> None:
    """What sinabs's LIF does about states of another shape, by its own methods."""
    if all(b is not None and b.shape == state_shape for b in layer._buffers.values()):
        return
    if not layer.is_state_initialised():
        layer.init_state_with_shape(state_shape)
    if not layer.state_has_shape(state_shape):
        if layer.has_trailing_dimension(state_shape[1:]):
            layer.handle_state_batch_size_mismatch(state_shape[0])
        else:
            layer.init_state_with_shape(state_shape)


def _shape_states_or_zero(layer: Any, state_shape: StateShape) -> None:
    """What sinabs's recurrent layers and ALIF do about states of another shape."""
    if not all(b is not None and b.shape == state_shape for b in layer._buffers.values()):
        layer.init_state_with_shape(state_shape)


def _late(before_reset: Tensor, last: Tensor) -> Tensor:
    """A recording as sinabs's recurrent layers and ALIF make it: at step t what step t + 1 holds before its reset."""
    return torch.cat([before_reset[:, 1:], last.unsqueeze(1)], 1)


def _recurrent(
    layer: Any, x: Tensor, make: Callable[..., tuple[_Call, Config]], state_shape: StateShape
) -> tuple[Tensor, dict[str, Tensor], dict[str, list[Tensor]]]:
    """The host's loop over time with one fused step each: (spikes, last states, what was recorded of each step).

    The recurrent input is zero at the first step of every call, and `rec_connect` also sees the last step's spikes.

    Raises:
        Refused: before anything ran or changed.
    """
    feedback = torch.zeros(state_shape, device=x.device)
    total = x[:, 0] + feedback
    call, config = make(layer, total.unsqueeze(1), state_shape, STEP)
    _shape_states_or_zero(layer, state_shape)
    states: Sequence[Tensor] = _own_states(layer, call.names, state_shape, call.dtype)
    recorded: dict[str, list[Tensor]] = {name: [] for name in ("kept", *call.names)} if layer.record_states else {}
    out = []
    for x_t in x.unbind(1):
        given = total.dtype
        total = x_t + feedback
        if total.dtype is not given:  # autocast: rec_connect's output may be narrower than the zeros before it
            call, config = make(layer, total.unsqueeze(1), state_shape, STEP)
        step = call.run(config, _ready(total, call), states, keep=bool(recorded), record=bool(recorded))
        states = step.last
        out.append(step.out)
        if recorded:
            for name, value in zip(recorded, (step.kept, *step.records), strict=True):
                recorded[name].append(value)
        feedback = layer.rec_connect(step.out).reshape(state_shape)
    return torch.stack(out, 1), dict(zip(call.names, states, strict=True)), recorded


def _stacked_late(recorded: dict[str, list[Tensor]], last: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Recordings of a recurrent LIF: those of step t are what step t + 1 overwrites them with."""
    made = {"v_mem": torch.stack([*recorded["kept"][1:], last["v_mem"]], 1)}
    if "i_syn" in recorded:
        made["i_syn"] = torch.stack([*recorded["i_syn"][1:], last["i_syn"]], 1)
    return made


class LIF(sl.LIF):
    __doc__ = sl.LIF.__doc__

    def forward(self, input_data: Tensor) -> Tensor:
        x = input_data
        try:
            if x.dim() < 2:
                raise Refused("input has no batch and time dimension")
            state_shape = (x.shape[0], *x.shape[2:])
            call, config = _lif_call(self, x, state_shape, 1)
            _shape_states(self, state_shape)
            states = _own_states(self, call.names, state_shape, call.dtype)
        except Refused as why:
            _refuse(self, str(why))
            return super().forward(input_data)  # type: ignore[no-any-return]
        result = call.run(config, _ready(x, call), states, record=self.record_states)
        self.v_mem = result.last[0]
        self.i_syn = result.last[1] if config.synapse else None
        self.recordings = dict(zip(call.names, result.records, strict=False))
        self.firing_rate = result.mean
        return result.out


class IAF(sl.IAF, LIF):
    __doc__ = sl.IAF.__doc__


class ExpLeak(sl.ExpLeak, LIF):
    __doc__ = sl.ExpLeak.__doc__


class LIFSqueeze(sl.LIFSqueeze, LIF):
    __doc__ = sl.LIFSqueeze.__doc__


class IAFSqueeze(sl.IAFSqueeze, IAF):
    __doc__ = sl.IAFSqueeze.__doc__


class ExpLeakSqueeze(sl.ExpLeakSqueeze, ExpLeak):
    __doc__ = sl.ExpLeakSqueeze.__doc__


class LIFRecurrent(sl.LIFRecurrent):
    __doc__ = sl.LIFRecurrent.__doc__

    def forward(self, input_data: Tensor) -> Tensor:
        x = input_data
        try:
            if x.dim() < 2 or x.shape[1] == 0:
                raise Refused("input has no time steps")
            out, last, recorded = _recurrent(self, x, _lif_call, (x.shape[0], *x.shape[2:]))
        except Refused as why:
            _refuse(self, str(why))
            return super().forward(input_data)  # type: ignore[no-any-return]
        self.v_mem = last["v_mem"]
        self.i_syn = last.get("i_syn")
        self.recordings = _stacked_late(recorded, last) if recorded else {}
        self.firing_rate = out.sum() / out.numel()
        return out


class IAFRecurrent(sl.IAFRecurrent, LIFRecurrent):
    __doc__ = sl.IAFRecurrent.__doc__


def _threshold_after(layer: Any, b: Tensor) -> Tensor:
    return layer.b0 + layer.adapt_scale * b  # type: ignore[no-any-return]


class ALIF(sl.ALIF):
    __doc__ = sl.ALIF.__doc__

    def forward(self, input_data: Tensor) -> Tensor:
        x = input_data
        try:
            if x.dim() < 2:
                raise Refused("input has no batch and time dimension")
            state_shape = (x.shape[0], *x.shape[2:])
            call, config = _alif_call(self, x, state_shape, 1)
            _shape_states_or_zero(self, state_shape)
            b_dtype = self.b.dtype
            states = _own_states(self, call.names, state_shape, call.dtype)
        except Refused as why:
            _refuse(self, str(why))
            return super().forward(input_data)  # type: ignore[no-any-return]
        record = self.record_states
        result = call.run(config, _ready(x, call), states, keep=record, record=record)
        last = dict(zip(call.names, result.last, strict=True))
        self.v_mem = last["v_mem"]
        self.b = last["b"].to(b_dtype)
        self.spike_threshold = _threshold_after(self, self.b)
        self.recordings = {}
        if record:
            records = dict(zip(call.names, result.records, strict=True))
            b = records["b"].to(b_dtype)
            assert result.kept is not None
            self.recordings = {"v_mem": _late(result.kept, self.v_mem)}
            if config.synapse:
                self.recordings["i_syn"] = _late(records["i_syn"], last["i_syn"])
            self.recordings |= {"b": b, "spike_threshold": _threshold_after(self, b)}
        self.firing_rate = result.mean
        return result.out


class ALIFSqueeze(alif.ALIFSqueeze, ALIF):
    __doc__ = alif.ALIFSqueeze.__doc__


class ALIFRecurrent(sl.ALIFRecurrent):
    __doc__ = sl.ALIFRecurrent.__doc__

    def forward(self, input_data: Tensor) -> Tensor:
        x = input_data
        try:
            if x.dim() < 2 or x.shape[1] == 0:
                raise Refused("input has no time steps")
            b_dtype = self.b.dtype
            out, last, recorded = _recurrent(self, x, _alif_call, (x.shape[0], *x.shape[2:]))
        except Refused as why:
            _refuse(self, str(why))
            return super().forward(input_data)  # type: ignore[no-any-return]
        self.v_mem = last["v_mem"]
        self.b = last["b"].to(b_dtype)
        self.spike_threshold = _threshold_after(self, self.b)
        self.recordings = {}
        if recorded:
            b = torch.stack(recorded["b"], 1).to(b_dtype)
            self.recordings = _stacked_late(recorded, last) | {"b": b, "spike_threshold": _threshold_after(self, b)}
        self.firing_rate = out.sum() / out.numel()
        return out


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    sl.LIF: LIF,
    sl.IAF: IAF,
    sl.ExpLeak: ExpLeak,
    sl.ALIF: ALIF,
    sl.LIFSqueeze: LIFSqueeze,
    sl.IAFSqueeze: IAFSqueeze,
    sl.ExpLeakSqueeze: ExpLeakSqueeze,
    alif.ALIFSqueeze: ALIFSqueeze,
    sl.LIFRecurrent: LIFRecurrent,
    sl.IAFRecurrent: IAFRecurrent,
    sl.ALIFRecurrent: ALIFRecurrent,
}


def classes() -> Mapping[type[nn.Module], type[nn.Module]]:
    """sinabs's classes and their accelerated subclasses."""
    return _CLASSES


def owns(module: nn.Module) -> bool:
    """Whether this is a stateful sinabs layer."""
    return isinstance(module, sl.StatefulLayer)


def reasons(module: nn.Module) -> tuple[str, ...]:
    """Why a layer, converted, runs sinabs's own forward as it is configured now."""
    return so.reasons(module)
