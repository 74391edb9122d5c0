"""Accelerated sinabs layers: sinabs's own classes with another `forward`, and nothing else.

Each class subclasses the layer of the same name, adds no constructor, member or state, and falls back to
`super().forward()` for what it cannot take. Numbers, recordings and quirks are sinabs's (3.1.3); see docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sinabs.layers as sl
import torch
from sinabs.layers import SqueezeMixin, alif
from torch import Tensor, nn

from plugin_accel.hosts import compiled, fallbacks, sinabs_options, sinabs_sequence
from plugin_accel.hosts.fallbacks import refused
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.sinabs_call import (
    alif_call,
    lif_call,
    own_states,
    shape_states,
    shape_states_or_zero,
)
from plugin_accel.hosts.sinabs_quick import quick_call
from plugin_accel.hosts.sinabs_recurrent import late_recordings, recurrent, state_shape_of
from plugin_accel.neurons import SINABS_ALIF, SINABS_LIF

last_fallback = fallbacks.last_fallback
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)  # torch >= 2.7


def _assign(layer: Any, states: dict[str, Tensor], **attributes: Any) -> None:
    """`setattr` for each, without what nn.Module.__setattr__ looks up for names that it knows already."""
    if torch.compiler.is_compiling():
        for name, value in states.items():
            if _is_exporting() and layer._buffers[name].shape == value.shape:
                layer._buffers[name].copy_(value.detach())  # an exported program keeps no other assignment
            else:
                setattr(layer, name, value)
        for name, value in attributes.items():
            setattr(layer, name, value)
        return
    layer._buffers.update(states)
    layer.__dict__.update(attributes)


def _late(before_reset: Tensor, last: Tensor) -> Tensor:
    """A recording as sinabs's recurrent layers and ALIF make it: at step t what step t + 1 holds before its reset."""
    return torch.cat([before_reset[:, 1:], last.unsqueeze(1)], 1)


class LIF(sl.LIF):
    __doc__ = sl.LIF.__doc__

    def forward(self, input_data: Tensor) -> Tensor:
        quick = quick_call(self, input_data)
        if quick is not None:
            attributes = self.__dict__
            attributes["recordings"], attributes["firing_rate"] = {}, quick[-1]
            if "i_syn" not in self._buffers:  # without a synapse sinabs leaves a plain None behind
                attributes["i_syn"] = None
            return quick[0]
        try:
            state_shape = state_shape_of(input_data)
            call = lif_call(self, input_data, state_shape, 1)
            states = own_states(self, call, shape_states(self, state_shape))
        except Refused as why:
            refused(self, why)
            return super().forward(input_data)  # type: ignore[no-any-return]
        record = self.record_states
        result = call.run(input_data, states, record=record)
        last = dict(zip(call.names, result.last))  # noqa: B905 (strict costs)
        recordings = dict(zip(call.names, result.records, strict=True)) if record else {}
        if len(last) == 1:  # without a synapse sinabs leaves a plain None behind
            _assign(self, last, recordings=recordings, firing_rate=result.mean, i_syn=None)
        else:
            _assign(self, last, recordings=recordings, firing_rate=result.mean)
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
        try:
            out, last, recorded = recurrent(self, input_data, lif_call)
        except Refused as why:
            refused(self, why)
            return super().forward(input_data)  # type: ignore[no-any-return]
        attributes = {"recordings": late_recordings(recorded, last), "firing_rate": out.sum() / out.numel()}
        _assign(self, last, **attributes, **({} if "i_syn" in last else {"i_syn": None}))
        return out


class IAFRecurrent(sl.IAFRecurrent, LIFRecurrent):
    __doc__ = sl.IAFRecurrent.__doc__


def _threshold_after(layer: Any, b: Tensor) -> Tensor:
    return layer.b0 + layer.adapt_scale * b  # type: ignore[no-any-return]


class ALIF(sl.ALIF):
    __doc__ = sl.ALIF.__doc__

    def forward(self, input_data: Tensor) -> Tensor:
        record = self.record_states
        try:
            state_shape = state_shape_of(input_data)
            call = alif_call(self, input_data, state_shape, 1)
            states = own_states(self, call, shape_states_or_zero(self, state_shape))
        except Refused as why:
            refused(self, why)
            return super().forward(input_data)  # type: ignore[no-any-return]
        b_dtype = self.b.dtype
        result = call.run(input_data, states, keep=record, record=record)
        last = dict(zip(call.names, result.last, strict=True))
        b = last["b"].to(b_dtype)
        recordings = {}
        if result.kept is not None:
            records = dict(zip(call.names, result.records, strict=True))
            b_records = records["b"].to(b_dtype)
            recordings["v_mem"] = _late(result.kept, last["v_mem"])
            if "i_syn" in records:
                recordings["i_syn"] = _late(records["i_syn"], last["i_syn"])
            recordings |= {"b": b_records, "spike_threshold": _threshold_after(self, b_records)}
        # i_syn is not written back: sinabs's ALIF starts every call from the buffer as it is
        states_after = {"v_mem": last["v_mem"], "b": b, "spike_threshold": _threshold_after(self, b)}
        _assign(self, states_after, recordings=recordings, firing_rate=result.mean)
        return result.out


class ALIFSqueeze(alif.ALIFSqueeze, ALIF):
    __doc__ = alif.ALIFSqueeze.__doc__


class ALIFRecurrent(sl.ALIFRecurrent):
    __doc__ = sl.ALIFRecurrent.__doc__

    def forward(self, input_data: Tensor) -> Tensor:
        try:
            out, last, recorded = recurrent(self, input_data, alif_call)
        except Refused as why:
            refused(self, why)
            return super().forward(input_data)  # type: ignore[no-any-return]
        b = last["b"].to(self.b.dtype)
        made = late_recordings(recorded, last)
        if recorded:
            b_records = torch.stack(list(recorded["b"]), 1).to(b.dtype)
            made |= {"b": b_records, "spike_threshold": _threshold_after(self, b_records)}
        states = {"v_mem": last["v_mem"], "b": b, "spike_threshold": _threshold_after(self, b)}
        _assign(self, states, recordings=made, firing_rate=out.sum() / out.numel())
        return out


sequence = sinabs_sequence.sequence


def has_sequence(module: nn.Module) -> bool:
    """Whether `sequence` knows this layer, which is converted."""
    # Recurrent layers forget their spikes between calls, the squeezing ones have time in the batch.
    return isinstance(module, (LIF, ALIF)) and not isinstance(module, SqueezeMixin)


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
compiled.readable(_CLASSES.values())


def classes() -> Mapping[type[nn.Module], type[nn.Module]]:
    """sinabs's classes and their accelerated subclasses."""
    return _CLASSES


def owns(module: nn.Module) -> bool:
    """Whether this is a stateful sinabs layer."""
    return isinstance(module, sl.StatefulLayer)


def reasons(module: nn.Module) -> tuple[str, ...]:
    """Why a layer, converted, runs sinabs's own forward as it is configured now."""
    return sinabs_options.reasons(module)


def emits_spikes(module: nn.Module) -> bool:
    """Whether what a layer gives is spikes; the membrane of ExpLeak is none."""
    return getattr(module, "spike_fn", None) is not None


def neuron(module: nn.Module) -> str:
    """Name of the neuron that a backend runs for this layer."""
    return (SINABS_ALIF if isinstance(module, sl.ALIF) else SINABS_LIF).name
