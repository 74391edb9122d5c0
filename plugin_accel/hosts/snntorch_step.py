"""The quick way through a single step: what a layer's last call had established is compared, and nothing else done.

A user's time loop calls a layer some hundred times in a row with nothing new but the numbers. `quick_step` runs a prepared
step if that is so, or prepares one; what it cannot take in this way goes through `snntorch_call.call`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._C import _get_tracing_state, _len_torch_dispatch_stack
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from plugin_accel import backends
from plugin_accel.backends import Backend
from plugin_accel.hosts import snntorch_options as so
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.snntorch_call import Form
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.prepared import PreparedStep, run_step

FP32 = torch.float32


class _Plan:
    """A prepared step, and what it was prepared for."""

    __slots__ = ("backend", "delay", "mechanism", "options", "params", "shape", "spike_grad", "state_function", "step")

    def __init__(self, form: Form, layer: Any, x: Tensor, params: Sequence[Tensor], backend: Backend) -> None:
        self.spike_grad, self.state_function = layer.spike_grad, layer.state_function
        self.delay = getattr(layer, "reset_delay", None)
        self.shape = x.shape
        self.backend = backend
        self.params = [(p.shape, p.dim() > 0) for p in params]
        self.step: PreparedStep | None = None
        options = form.options(layer)
        prepare = getattr(backend, "prepare", None)
        # Without a delay the host looks at the mechanism's buffer at each call, which costs more than it brings here.
        if not options.reasons and options.delay and options.spikes_learn and prepare is not None:
            config = so.config(options, form.recurrent, False, STEP)
            self.step = prepare(form.neuron, config, x, [*params, x] if form.recurrent else params)


_plans: WeakKeyDictionary[nn.Module, _Plan] = WeakKeyDictionary()


def _parameters(form: Form, layer: Any, own: dict[str, Any]) -> list[Tensor] | None:
    """The layer's parameters in the kernels' order; None where one is computed, as that of a parametrised layer."""
    if not form.direct:
        before, after = form.params(layer)
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
    if (
        type(x) is not Tensor
        or x.dtype is not FP32
        or not x.is_contiguous()
        or not x.is_cpu
        or x.is_neg()
        or _len_torch_dispatch_stack()
        or peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or _get_tracing_state() is not None
    ):
        return None
    own = layer.__dict__
    if own["inhibition"] or own["state_quant"]:
        return None
    try:
        params = _parameters(form, layer, own)
    except Refused:
        return None
    backend = backends.choose(x.device, FP32, form.neuron.name)
    if params is None or backend is None:
        return None
    plan = _plans.get(layer)
    if (
        plan is None
        or plan.spike_grad is not own.get("spike_grad")
        or plan.state_function is not own.get("state_function")
        or plan.delay is not own.get("reset_delay")
        or plan.shape != x.shape
        or plan.backend is not backend
    ):
        if any(p.dtype is not FP32 or not p.is_cpu for p in params):
            return None
        plan = _plans[layer] = _Plan(form, layer, x, params, backend)
    step = plan.step
    if step is None:
        return None
    for p, (shape, dense) in zip(params, plan.params, strict=True):
        if p.dtype is not FP32 or p.shape != shape or not p.is_cpu or (dense and not p.is_contiguous()):
            return None
    buffers = own["_buffers"]
    shape = plan.shape
    states: list[Tensor | None] = []
    hidden = own["init_hidden"]
    for name, state in zip(form.states, given, strict=True):
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
    order = form.order
    if recurrent is not None:
        params.append(recurrent)
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
