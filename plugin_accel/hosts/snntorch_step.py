"""The quick way through a single step: what a layer's last call had established is compared, and nothing else done.

A user's time loop calls a layer some hundred times in a row with nothing new but the numbers. `quick_step` runs a
prepared step if that is so, or prepares one; what it cannot take in this way goes through `snntorch_call.call`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from plugin_accel import backends
from plugin_accel.hosts import snntorch_options as so
from plugin_accel.hosts.inputs import is_watched
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.snntorch_call import Form
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.prepared import PreparedStep, run_step

FP32 = torch.float32


class _Plan:
    """A prepared step, and what it was prepared for; no step where the general way must be gone."""

    __slots__ = ("backend", "delay", "inhibition", "params", "quant", "shape", "spike_grad", "state_function", "step")

    def __init__(self, form: Form, layer: Any, x: Tensor) -> None:
        self.spike_grad, self.state_function = layer.spike_grad, layer.state_function
        self.delay = layer.__dict__.get("reset_delay")
        self.inhibition, self.quant = layer.inhibition, layer.state_quant
        self.shape = x.shape
        self.backend = backends.requested()
        self.params: list[tuple[torch.Size, bool]] = []
        self.step: PreparedStep | None = None
        options = form.options(layer)
        chosen = backends.choose(x.device, FP32, form.neuron.name)
        prepare = getattr(chosen, "prepare", None)
        params = _parameters(form, layer, layer.__dict__)
        # Without a delay the host looks at the mechanism's buffer at each call, which costs more than it brings here.
        if options.reasons or options.inhibition or not options.delay or not options.spikes_learn:
            return
        if prepare is not None and params is not None and all(p.dtype is FP32 and p.is_cpu for p in params):
            self.params = [(p.shape, p.dim() > 0) for p in params]
            config = so.config(options, form.recurrent, False, STEP)
            self.step = prepare(form.neuron, config, x, [*params, x] if form.recurrent else params)

    def is_for(self, own: dict[str, Any], x: Tensor) -> bool:
        """Whether a layer with these attributes and this input is as it was."""
        return (
            self.shape == x.shape
            and self.spike_grad is own.get("spike_grad")
            and self.state_function is own.get("state_function")
            and self.delay is own.get("reset_delay")
            and self.inhibition is own.get("inhibition")
            and self.quant is own.get("state_quant")
            and self.backend == backends.requested()
            and x.is_cpu
        )


_plans: WeakKeyDictionary[nn.Module, _Plan] = WeakKeyDictionary()


def _parameters(form: Form, layer: Any, own: dict[str, Any]) -> list[Tensor] | None:
    """The layer's parameters in the kernels' order; None where one is computed, as that of a parametrised layer."""
    if not form.direct:
        try:
            before, after = form.params(layer)
        except Refused:
            return None
        return [*before, layer.threshold, layer.graded_spikes_factor, *after]
    parameters, buffers = own["_parameters"], own["_buffers"]
    found = []
    for name in form.direct:
        p = parameters.get(name)
        if p is None:
            p = buffers.get(name)
            if p is None:
                return None
        found.append(p)
    return found


def quick_step(
    form: Form, layer: Any, x: Tensor, given: Sequence[Any], recurrent: Tensor | None = None
) -> Sequence[Tensor] | None:
    """(spikes, *states) of one step, the states left in the layer's buffers; None if the general way must be gone."""
    if type(x) is not Tensor or x.dtype is not FP32 or is_watched():
        return None
    own = layer.__dict__
    plan = _plans.get(layer)
    if plan is None or not plan.is_for(own, x):
        plan = _plans[layer] = _Plan(form, layer, x)
    step = plan.step
    if step is None or not x.is_contiguous() or x.is_neg():
        return None
    params = _parameters(form, layer, own)
    if params is None:
        return None
    for p, (shape, dense) in zip(params, plan.params, strict=True):
        if p.dtype is not FP32 or p.shape != shape or not p.is_cpu or (dense and not p.is_contiguous()):
            del _plans[layer]
            return None
    buffers, hidden, shape = own["_buffers"], own["init_hidden"], plan.shape
    states: list[Tensor | None] = []
    for name, argument in zip(form.states, given, strict=True):
        state = argument
        if state is None:
            state = buffers.get(name)
        elif hidden:
            return None
        if type(state) is not Tensor or not state.is_cpu:
            return None
        if state.shape != shape:
            states.append(None)
        elif state.dtype is FP32 and state.is_contiguous() and not state.is_neg():
            states.append(state)
        else:
            return None
    if recurrent is not None:
        if recurrent.dtype is not FP32 or not recurrent.is_contiguous() or recurrent.is_neg():
            return None
        params.append(recurrent)
    order = form.order
    if len(order) == 1:
        made = run_step(step, x, states, params)
        buffers[form.states[0]] = made[1]
        return made
    out, *last = run_step(step, x, [states[i] for i in order], params)
    found = [out, *last]
    for k, i in enumerate(order):
        found[1 + i] = last[k]
    buffers.update(zip(form.states, found[1:], strict=True))
    return found


def is_prepared(layer: nn.Module) -> bool:
    """Whether the layer's last call found that it can go the quick way."""
    plan = _plans.get(layer)
    return plan is not None and plan.step is not None
