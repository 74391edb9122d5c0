"""Accelerated snnTorch layers: snnTorch's own classes with another `forward`, and nothing else.

Each class subclasses the layer of the same name, adds no constructor, member or state, and falls back to
`super().forward()` for what it cannot take. Numbers and quirks are snnTorch's (1.0.0); see docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn

from plugin_accel.hosts import compiled
from plugin_accel.hosts import snntorch_delta as sd
from plugin_accel.hosts import snntorch_layers as sl
from plugin_accel.hosts import snntorch_options as so
from plugin_accel.hosts.fallbacks import last_fallback, refused
from plugin_accel.hosts.sequences import Refused, SequenceResult
from plugin_accel.hosts.snntorch_call import Form, call
from plugin_accel.hosts.snntorch_params import BETA, BETA_AND_ALPHA, alpha_beta_tau, beta, beta_and_alpha, lapicque
from plugin_accel.hosts.snntorch_probe import differs, host_class
from plugin_accel.hosts.snntorch_recurrent import one_to_one, recurrent_call, recurrent_sequence
from plugin_accel.hosts.snntorch_step import quick_step
from plugin_accel.neurons import SNNTORCH_ALPHA, SNNTORCH_LAPICQUE, SNNTORCH_LEAKY, SNNTORCH_SYNAPTIC
from plugin_accel.neurons.layout import STEP


def _returned(layer: Any, spikes: Any, states: Sequence[Any]) -> Any:
    """What a call returns, by the options `output` and `init_hidden`."""
    return spikes if layer.init_hidden and not layer.output else (spikes, *states)


def _step(layer: Any, form: Form, x: Tensor, *given: Tensor | None) -> Any:
    if not torch.compiler.is_compiling() and (quick := quick_step(form, layer, x, given)) is not None:
        return quick[0] if layer.init_hidden and not layer.output else quick
    spikes, last, _ = call(form, layer, x, given, STEP)
    return _returned(layer, spikes, last)


def _recurrent_step(layer: Any, form: Form, x: Tensor, spk: Tensor | None, *given: Tensor | None) -> Any:
    if not torch.compiler.is_compiling() and (quick := one_to_one(form, layer, x, spk, given)) is not None:
        return quick[0] if layer.init_hidden and not layer.output else quick
    spikes, last, _ = recurrent_call(form, layer, x, spk, given)
    return _returned(layer, spikes, last)


_LEAKY = Form(SNNTORCH_LEAKY, ("mem",), (0,), beta, "zero", True, low=True, direct=BETA)
_LAPICQUE = Form(SNNTORCH_LAPICQUE, ("mem",), (0,), lapicque, direct=BETA[1:], computed_from=("R", "C", "time_step"))
_SYNAPTIC = Form(SNNTORCH_SYNAPTIC, ("syn", "mem"), (1, 0), beta_and_alpha, delayable=True, direct=BETA_AND_ALPHA)
_ALPHA = Form(
    SNNTORCH_ALPHA,
    ("syn_exc", "syn_inh", "mem"),
    (2, 0, 1),
    alpha_beta_tau,
    direct=BETA[1:],
    computed_from=("alpha", "beta"),
)
_RLEAKY = Form(SNNTORCH_LEAKY, ("mem",), (0,), beta, delayable=True, recurrent=True, low=True, direct=BETA)
_RSYNAPTIC = Form(SNNTORCH_SYNAPTIC, ("syn", "mem"), (1, 0), beta_and_alpha, recurrent=True, direct=BETA_AND_ALPHA)


class Leaky(snn.Leaky):
    __doc__ = snn.Leaky.__doc__

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        try:
            return _step(self, _LEAKY, input_, mem)
        except Refused as why:
            refused(self, why)
            return super().forward(input_, mem)


class Lapicque(snn.Lapicque):
    __doc__ = snn.Lapicque.__doc__

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        try:
            return _step(self, _LAPICQUE, input_, mem)
        except Refused as why:
            refused(self, why)
            return super().forward(input_, mem)


class Synaptic(snn.Synaptic):
    __doc__ = snn.Synaptic.__doc__

    def forward(self, input_: Tensor, syn: Tensor | None = None, mem: Tensor | None = None) -> Any:
        try:
            return _step(self, _SYNAPTIC, input_, syn, mem)
        except Refused as why:
            refused(self, why)
            return super().forward(input_, syn, mem)


class Alpha(snn.Alpha):
    __doc__ = snn.Alpha.__doc__

    def forward(
        self, input_: Tensor, syn_exc: Tensor | None = None, syn_inh: Tensor | None = None, mem: Tensor | None = None
    ) -> Any:
        try:
            return _step(self, _ALPHA, input_, syn_exc, syn_inh, mem)
        except Refused as why:
            refused(self, why)
            return super().forward(input_, syn_exc, syn_inh, mem)


class RLeaky(snn.RLeaky):
    __doc__ = snn.RLeaky.__doc__

    def forward(self, input_: Tensor, spk: Tensor | None = None, mem: Tensor | None = None) -> Any:
        try:
            return _recurrent_step(self, _RLEAKY, input_, spk, mem)
        except Refused as why:
            refused(self, why)
            return super().forward(input_, spk, mem)


class RSynaptic(snn.RSynaptic):
    __doc__ = snn.RSynaptic.__doc__

    def forward(
        self, input_: Tensor, spk: Tensor | None = None, syn: Tensor | None = None, mem: Tensor | None = None
    ) -> Any:
        try:
            return _recurrent_step(self, _RSYNAPTIC, input_, spk, syn, mem)
        except Refused as why:
            refused(self, why)
            return super().forward(input_, spk, syn, mem)


__all__ = ["classes", "last_fallback", "neuron", "owns", "reasons", "sequence"]

_ACCELERATED: tuple[type[nn.Module], ...] = (
    *(Leaky, Lapicque, Synaptic, Alpha, RLeaky, RSynaptic, sd.DeltaLeaky),
    *(sl.StateLeaky, sl.LinearLeaky, sl.LeakyParallel, sl.SLSTM, sl.SConv2dLSTM),
)
_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    host_class(ours.__name__): ours for ours in _ACCELERATED if hasattr(snn, ours.__name__)
}
compiled.readable(_CLASSES.values())
_FORMS: dict[type[nn.Module], Form] = {
    Leaky: _LEAKY,
    Lapicque: _LAPICQUE,
    Synaptic: _SYNAPTIC,
    Alpha: _ALPHA,
    RLeaky: _RLEAKY,
    RSynaptic: _RSYNAPTIC,
    sd.DeltaLeaky: sd.DELTA,
}


def _form(module: nn.Module) -> Form | None:
    """Of a host layer, converted or not, or of a parametrised one."""
    for cls in type(module).__mro__:
        if cls in _CLASSES or cls in _FORMS:
            return _FORMS.get(_CLASSES.get(cls, cls))
    return None


def sequence(
    module: nn.Module, x: Tensor, states: Sequence[Tensor | None], *, record: Sequence[bool]
) -> SequenceResult:
    """All time steps of a layer at once; see `plugin_accel.hosts.sequences`."""
    layer: Any = module
    form = _form(module)
    if form is None or form is sd.DELTA:  # its states are a tuple in a call's arguments and results
        raise Refused(f"{type(module).__name__} has no kernel for sequences")
    count = len(form.states)  # a layer with hidden states may return none of them
    record = (*record, *[False] * count)[:count]
    if form.recurrent:
        spikes, last, records = recurrent_sequence(form, layer, x, states, record)
        last = (layer._buffers["spk"], *last)
    else:
        spikes, last, records = call(form, layer, x, states, 0, record)
    outputs = _returned(layer, spikes, records)
    return SequenceResult(outputs if isinstance(outputs, tuple) else (outputs,), last)


def has_sequence(module: nn.Module) -> bool:
    """Whether `sequence` knows this layer, which is converted."""
    return any(cls in _FORMS and cls is not sd.DeltaLeaky for cls in type(module).__mro__)


@cache
def _different() -> dict[type[nn.Module], str]:
    """Classes that the snnTorch at hand computes otherwise than the kernels, and what is different."""
    found = {cls: differs(cls, ours) for cls, ours in _CLASSES.items()}
    return {cls: why for cls, why in found.items() if why is not None}


def classes() -> Mapping[type[nn.Module], type[nn.Module]]:
    """snnTorch's classes and their accelerated subclasses."""
    return {cls: ours for cls, ours in _CLASSES.items() if cls not in _different()}


def why_left(module: nn.Module) -> str | None:
    """Why a layer's class has no accelerated version, if there is more to say than that."""
    if type(module) is getattr(snn, "AssociativeLeaky", None):
        return "AssociativeLeaky is made of matrix products and cumulative products, which torch runs as they are"
    return _different().get(type(module))


def draws(module: nn.Module) -> bool:
    """Whether a layer's surrogate takes random numbers in backward, as `SSO` does."""
    return owns(module) and so.draws(getattr(module, "spike_grad", None))


def owns(module: nn.Module) -> bool:
    """Whether this is a neuron layer of snnTorch."""
    return isinstance(module, (snn.SpikingNeuron, snn.LeakyParallel))


def reasons(module: nn.Module) -> tuple[str, ...]:
    """Why a layer, converted, runs snnTorch's own forward as it is configured now."""
    form = _form(module)
    return sl.reasons(module) if form is None else form.reasons(module)


def neuron(module: nn.Module) -> str | None:
    """Name of the neuron that a backend runs for this layer; None if torch runs all of it."""
    form = _form(module)
    if form is not None:
        return form.neuron.name
    return next((n.name for cls, n in sl.NEURONS.items() if isinstance(module, cls.__mro__[1])), None)
