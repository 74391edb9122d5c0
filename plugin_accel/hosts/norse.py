"""Accelerated Norse layers: Norse's own classes with another `forward`, and nothing else.

Each class subclasses the layer of the same name, adds no constructor, member or state, and falls back to
`super().forward()` for what it cannot take. Numbers and quirks are Norse's (1.1.0); see docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import norse.torch as nt
import torch
from torch import Tensor, nn

from plugin_accel.hosts import compiled, fallbacks, norse_call
from plugin_accel.hosts import norse_forms as nf
from plugin_accel.hosts import norse_products as nq
from plugin_accel.hosts import norse_recurrent as nr
from plugin_accel.hosts.fallbacks import refused
from plugin_accel.hosts.norse_call import call
from plugin_accel.hosts.norse_step import quick_sequence, quick_step
from plugin_accel.hosts.sequences import Refused, SequenceResult
from plugin_accel.neurons.layout import STEP

last_fallback = fallbacks.last_fallback
emits_spikes = nf.emits_spikes


class _Cell(nn.Module):
    """One step of a feed-forward neuron."""

    def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
        if isinstance(self, nt.LIBoxCell) and input_tensor.numel() < norse_call.FEW:
            return super().forward(input_tensor, state)
        try:
            if not torch.compiler.is_compiling() and (quick := quick_step(self, input_tensor, state)) is not None:
                return quick
            form, made = call(self, input_tensor, state, STEP)
            return made.out, form.make(made.last)
        except Refused as why:
            refused(self, why)
            return super().forward(input_tensor, state)


class _Sequence(nn.Module):
    """All steps of a feed-forward neuron."""

    def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
        try:
            if not torch.compiler.is_compiling() and (quick := quick_sequence(self, input_tensor, state)) is not None:
                return quick
            form, made = call(self, input_tensor, state, 0, record=bool(self.record_states))
            return made.out, form.make(made.records if self.record_states else made.last)
        except Refused as why:
            refused(self, why)
            return super().forward(input_tensor, state)


class _RecurrentCell(nn.Module):
    """One step of a recurrent neuron."""

    def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
        try:
            return nq.recurrent_step(_recurrent_form(self), self, input_tensor, state)
        except Refused as why:
            refused(self, why)
            return super().forward(input_tensor, state)


class _RecurrentSequence(nn.Module):
    """All steps of a recurrent neuron."""

    def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
        try:
            return nr.recurrent_sequence(_recurrent_form(self), self, input_tensor, state)
        except Refused as why:
            refused(self, why)
            return super().forward(input_tensor, state)


class LIFCell(_Cell, nt.LIFCell):
    __doc__ = nt.LIFCell.__doc__


class LIF(_Sequence, nt.LIF):
    __doc__ = nt.LIF.__doc__


class LICell(_Cell, nt.LICell):
    __doc__ = nt.LICell.__doc__


class LI(_Sequence, nt.LI):
    __doc__ = nt.LI.__doc__


class LIFBoxCell(_Cell, nt.LIFBoxCell):
    __doc__ = nt.LIFBoxCell.__doc__


class LIBoxCell(_Cell, nt.LIBoxCell):
    __doc__ = nt.LIBoxCell.__doc__


class IAFCell(_Cell, nt.IAFCell):
    __doc__ = nt.IAFCell.__doc__


class IAF(_Sequence, nt.IAF):
    __doc__ = nt.IAF.__doc__


class LIFExCell(_Cell, nt.LIFExCell):
    __doc__ = nt.LIFExCell.__doc__


class LIFEx(_Sequence, nt.LIFEx):
    __doc__ = nt.LIFEx.__doc__


class LIFAdExCell(_Cell, nt.LIFAdExCell):
    __doc__ = nt.LIFAdExCell.__doc__


class LIFAdEx(_Sequence, nt.LIFAdEx):
    __doc__ = nt.LIFAdEx.__doc__


class LSNNCell(_Cell, nt.LSNNCell):
    __doc__ = nt.LSNNCell.__doc__


class LSNN(_Sequence, nt.LSNN):
    __doc__ = nt.LSNN.__doc__


class IzhikevichCell(_Cell, nt.IzhikevichCell):
    __doc__ = nt.IzhikevichCell.__doc__


class Izhikevich(_Sequence, nt.Izhikevich):
    __doc__ = nt.Izhikevich.__doc__


class LIFRefracCell(_Cell, nt.LIFRefracCell):
    __doc__ = nt.LIFRefracCell.__doc__


class LIFRecurrentCell(_RecurrentCell, nt.LIFRecurrentCell):
    __doc__ = nt.LIFRecurrentCell.__doc__


class LIFRecurrent(_RecurrentSequence, nt.LIFRecurrent):
    __doc__ = nt.LIFRecurrent.__doc__


class LIFExRecurrentCell(_RecurrentCell, nt.LIFExRecurrentCell):
    __doc__ = nt.LIFExRecurrentCell.__doc__


class LIFExRecurrent(_RecurrentSequence, nt.LIFExRecurrent):
    __doc__ = nt.LIFExRecurrent.__doc__


class LIFAdExRecurrentCell(_RecurrentCell, nt.LIFAdExRecurrentCell):
    __doc__ = nt.LIFAdExRecurrentCell.__doc__


class LIFAdExRecurrent(_RecurrentSequence, nt.LIFAdExRecurrent):
    __doc__ = nt.LIFAdExRecurrent.__doc__


class LSNNRecurrentCell(_RecurrentCell, nt.LSNNRecurrentCell):
    __doc__ = nt.LSNNRecurrentCell.__doc__


class LSNNRecurrent(_RecurrentSequence, nt.LSNNRecurrent):
    __doc__ = nt.LSNNRecurrent.__doc__


class IzhikevichRecurrentCell(_RecurrentCell, nt.IzhikevichRecurrentCell):
    __doc__ = nt.IzhikevichRecurrentCell.__doc__


class IzhikevichRecurrent(_RecurrentSequence, nt.IzhikevichRecurrent):
    __doc__ = nt.IzhikevichRecurrent.__doc__


class LIFRefracRecurrentCell(_RecurrentCell, nt.LIFRefracRecurrentCell):
    __doc__ = nt.LIFRefracRecurrentCell.__doc__


class LIFRefracRecurrent(_RecurrentSequence, nt.LIFRefracRecurrent):
    __doc__ = nt.LIFRefracRecurrent.__doc__


class LIFAdExRefracCell(_Cell, nt.LIFAdExRefracCell):
    __doc__ = nt.LIFAdExRefracCell.__doc__


class LIFAdExRefracRecurrentCell(_RecurrentCell, nt.LIFAdExRefracRecurrentCell):
    __doc__ = nt.LIFAdExRefracRecurrentCell.__doc__


class LIFAdExRefracRecurrent(_RecurrentSequence, nt.LIFAdExRefracRecurrent):
    __doc__ = nt.LIFAdExRefracRecurrent.__doc__


_FEED_FORWARD: list[type[nn.Module]] = [
    *(LIFCell, LIF, LICell, LI, LIFBoxCell, LIBoxCell, IAFCell, IAF, LIFExCell, LIFEx, LIFAdExCell, LIFAdEx),
    *(LSNNCell, LSNN, IzhikevichCell, Izhikevich, LIFRefracCell, LIFAdExRefracCell),
    *(nq.LILinearCell, nq.LIFMCRefracRecurrentCell, nq.CobaLIFCell),
]
_HEARING: list[tuple[type[nn.Module], nr.RecurrentForm]] = [
    *((LIFRecurrentCell, nr.LIF), (LIFRecurrent, nr.LIF)),
    *((LIFExRecurrentCell, nr.LIF_EX), (LIFExRecurrent, nr.LIF_EX)),
    *((LIFAdExRecurrentCell, nr.LIF_ADEX), (LIFAdExRecurrent, nr.LIF_ADEX)),
    *((LSNNRecurrentCell, nr.LSNN), (LSNNRecurrent, nr.LSNN)),
    *((IzhikevichRecurrentCell, nr.IZHIKEVICH), (IzhikevichRecurrent, nr.IZHIKEVICH)),
    *((LIFRefracRecurrentCell, nr.LIF_REFRAC), (LIFRefracRecurrent, nr.LIF_REFRAC)),
    *((LIFAdExRefracRecurrentCell, nr.LIF_ADEX_REFRAC), (LIFAdExRefracRecurrent, nr.LIF_ADEX_REFRAC)),
    (nq.LIFMCRecurrentCell, nr.LIF_MC),
]
for _name in ("LIFBox", "LIBox"):  # sequences that only newer releases of Norse have
    if hasattr(nt, _name):
        _base = getattr(nt, _name)
        globals()[_name] = type(_name, (_Sequence, _base), {"__doc__": _base.__doc__, "__module__": __name__})
        _FEED_FORWARD.append(globals()[_name])


_RECURRENT = {cls.__bases__[-1]: form for cls, form in _HEARING}
for _cls, _form in _RECURRENT.items():
    if issubclass(_cls, nt.module.snn.SNNRecurrentCell) and _form is not nr.IZHIKEVICH:
        nf.FORMS[_cls] = _form.within
_CLASSES = {cls.__bases__[-1]: cls for cls in (*_FEED_FORWARD, *(c for c, _ in _HEARING))}
compiled.readable(_CLASSES.values())


def _recurrent_form(module: nn.Module) -> Any:
    """Its `RecurrentForm`; None of a layer that has none."""
    return next((_RECURRENT[c] for c in type(module).__mro__ if c in _RECURRENT), None)


def sequence(
    module: nn.Module, x: Tensor, states: Sequence[Tensor | None], *, record: Sequence[bool]
) -> SequenceResult:
    """All time steps of a cell at once; see `plugin_accel.hosts.sequences`.

    `states` are the tensors of one of Norse's states, in the order of its fields; nested ones flattened.
    """
    form = nf.form_of(type(module))
    if isinstance(module, _RecurrentCell):
        return nr.sequence_of_cell(_recurrent_form(module), module, x, states, record)
    if form is None or not has_sequence(module):
        raise Refused(f"{type(module).__name__} has no kernel for sequences")
    given = None if all(s is None for s in states) else form.make(states)
    if isinstance(module, nq.LILinearCell):
        made = nq.linear_sequence(module, x, given, any(record))
    else:
        _, made = call(module, x, given, 0, record=any(record))
    records = tuple(made.records[i] if want else None for i, want in enumerate(record))
    return SequenceResult((made.out, *records), made.last)


def has_sequence(module: nn.Module) -> bool:
    """Whether `sequence` knows this layer, which is converted."""
    return isinstance(module, (_Cell, _RecurrentCell, nq.LILinearCell))


def classes() -> Mapping[type[nn.Module], type[nn.Module]]:
    """Norse's classes and their accelerated subclasses."""
    return _CLASSES


def why_left(module: nn.Module) -> str | None:
    """Why a layer's class has no accelerated version, if there is more to say than that."""
    return _LEFT.get(type(module).__name__)


_LEFT = {"LIFCorrelation": "LIFCorrelation has no kernel: Norse's own fails for batches of more than one sample"}


def owns(module: nn.Module) -> bool:
    """Whether this is a neuron layer of Norse."""
    bases = nt.module.snn
    families = (bases.SNNCell, bases.SNN, bases.SNNRecurrentCell, bases.SNNRecurrent)
    return isinstance(module, (*families, nt.LILinearCell, nt.CobaLIFCell, nt.LIFCorrelation))


def reasons(module: nn.Module) -> tuple[str, ...]:
    """Why a layer, converted, runs Norse's own forward as it is configured now."""
    form = nf.form_of(type(module)) or _recurrent_form(module)
    return () if form is None else form.reasons(module)


def neuron(module: nn.Module) -> str:
    """Name of the neuron that a backend runs for this layer."""
    form = nf.form_of(type(module))
    return str((form or _recurrent_form(module).form).neuron.name)
