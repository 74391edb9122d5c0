"""Accelerated DeltaLeaky, a step at a time; see `plugin_accel.hosts.snntorch`.

Its two states come and go as one tuple: the membrane, and the very tensor that was the membrane before. Of Leaky's
options it reads `beta`, `spike_grad` and `init_hidden` alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from plugin_accel.hosts import snntorch_options as so
from plugin_accel.hosts.fallbacks import refused
from plugin_accel.hosts.inputs import number
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.snntorch_call import FP32, FP64, Form, call
from plugin_accel.hosts.snntorch_params import Params
from plugin_accel.hosts.snntorch_probe import host_class
from plugin_accel.hosts.snntorch_step import quick_step
from plugin_accel.neurons import SNNTORCH_DELTA
from plugin_accel.neurons.layout import STEP


def _beta_and_threshold(dtype: torch.dtype, layer: Any) -> Params:
    beta, threshold = layer.beta, layer.delta_threshold
    if type(threshold) is not float and type(threshold) is not int:
        raise Refused(f"delta_threshold is a {type(threshold).__name__}")
    if not isinstance(beta, Tensor):
        raise Refused(f"beta is a {type(beta).__name__}")
    return (beta,), (number(float(threshold), dtype, beta.device),)


class _DeltaForm(Form):
    def options(self, layer: Any) -> so.Options:
        """The layer's options as they are now: there is no reset, and nothing else of Leaky's has an effect."""
        options = so.without_reset(layer.spike_grad, False)
        if options.called and torch.compiler.is_compiling():
            raise Refused("spike_grad has no kernel")
        if options.called and not options.reasons:
            name = getattr(layer.spike_grad, "__qualname__", type(layer.spike_grad).__qualname__)
            return replace(options, reasons=(f"spike_grad {name} has no kernel",))
        return options


DELTA = _DeltaForm(SNNTORCH_DELTA, ("mem",), (0,), partial(_beta_and_threshold, FP64), graded=False)
_QUICK = replace(DELTA, params=partial(_beta_and_threshold, FP32), computed_from=("delta_threshold",))


def _states(layer: Any, x: Any, state: Any) -> tuple[Tensor, Tensor | None]:
    """The membrane before the step, and what of it is an argument."""
    given: Tensor | None = None
    if layer.init_hidden:
        mem = layer._buffers.get("mem")
        if mem is None:  # as the host does; should the call be refused, the host finds what it would have made
            mem = layer.mem = torch.zeros_like(x)
            layer.mem_prev = torch.zeros_like(x)
    else:
        if type(state) is not tuple or len(state) != 2:
            raise Refused(f"mem is a {type(state).__name__}, not a tuple of two states")
        mem = given = torch.zeros_like(x) if state[0] is None else state[0]
    if type(mem) is not Tensor and not torch.compiler.is_compiling():
        raise Refused(f"the membrane is a {type(mem).__name__}")
    if mem.shape != x.shape:
        raise Refused(f"the membrane has shape {tuple(mem.shape)}, the input {tuple(x.shape)}")
    return mem, given


def _step(layer: Any, x: Any, state: Any) -> Any:
    if not isinstance(x, Tensor):
        raise Refused(f"input is a {type(x).__name__}")
    before, given = _states(layer, x, state)
    made = None if torch.compiler.is_compiling() else quick_step(_QUICK, layer, x, (given,))
    if made is None:
        spikes, (mem,), _ = call(DELTA, layer, x, (given,), STEP)
    else:
        spikes, mem = made
    own = layer.__dict__
    if "mem_prev" in own:  # what torch's own assignment would come to, after a look at all that it could be
        own["mem_prev"] = before
    else:
        layer.mem_prev = before
    return spikes, (mem, before)


_DeltaLeaky: Any = host_class("DeltaLeaky")


class DeltaLeaky(_DeltaLeaky):
    __doc__ = _DeltaLeaky.__doc__

    def forward(self, input_: Tensor, mem: Any = None) -> Any:
        try:
            return _step(self, input_, mem)
        except Refused as why:
            refused(self, why)
            return super().forward(input_, mem)
