"""Accelerated snnTorch layers: snnTorch's own classes with another `forward`, and nothing else.

Each class subclasses the layer of the same name, adds no constructor, member or state, and falls back to
`super().forward()` for what it cannot take. Numbers and quirks are snnTorch's (1.0.0); see docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import snntorch as snn
import torch
from torch import Tensor, nn

from plugin_accel.hosts.sequences import Refused, SequenceResult
from plugin_accel.hosts.snntorch_call import Form, call
from plugin_accel.neurons import SNNTORCH_LEAKY
from plugin_accel.neurons.layout import STEP

_fallbacks: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def last_fallback(module: nn.Module) -> str | None:
    """Why the last call of a converted layer that could not be accelerated ran snnTorch's own forward."""
    return _fallbacks.get(module)


def _refused(layer: nn.Module, why: Refused) -> None:
    if not torch.compiler.is_compiling():
        _fallbacks[layer] = str(why)


def _returned(layer: Any, spikes: Any, states: Sequence[Any]) -> Any:
    """What a call returns, by the options `output` and `init_hidden`."""
    return spikes if layer.init_hidden and not layer.output else (spikes, *states)


def _step(layer: Any, form: Form, x: Tensor, *given: Tensor | None) -> Any:
    spikes, last, _ = call(form, layer, x, given, STEP)
    return _returned(layer, spikes, last)


_LEAKY = Form(SNNTORCH_LEAKY, ("mem",), (0,), lambda layer: ((layer.beta,), ()), zero="zero", delayable=True)


class Leaky(snn.Leaky):
    __doc__ = snn.Leaky.__doc__

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        try:
            return _step(self, _LEAKY, input_, mem)
        except Refused as why:
            _refused(self, why)
            return super().forward(input_, mem)


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {snn.Leaky: Leaky}
_FORMS: dict[type[nn.Module], Form] = {Leaky: _LEAKY}


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
    if form is None:
        raise Refused(f"{type(module).__name__} has no kernel for sequences")
    spikes, last, records = call(form, layer, x, states, 0, record)
    outputs = _returned(layer, spikes, records)
    return SequenceResult(outputs if isinstance(outputs, tuple) else (outputs,), last)


def has_sequence(module: nn.Module) -> bool:
    """Whether `sequence` knows this layer, which is converted."""
    return any(cls in _FORMS for cls in type(module).__mro__)


def classes() -> Mapping[type[nn.Module], type[nn.Module]]:
    """snnTorch's classes and their accelerated subclasses."""
    return _CLASSES


def owns(module: nn.Module) -> bool:
    """Whether this is a neuron layer of snnTorch."""
    return isinstance(module, (snn.SpikingNeuron, snn.LeakyParallel))


def reasons(module: nn.Module) -> tuple[str, ...]:
    """Why a layer, converted, runs snnTorch's own forward as it is configured now."""
    form = _form(module)
    return () if form is None else form.reasons(module)


def neuron(module: nn.Module) -> str:
    """Name of the neuron that a backend runs for this layer."""
    form = _form(module)
    assert form is not None
    return form.neuron.name
