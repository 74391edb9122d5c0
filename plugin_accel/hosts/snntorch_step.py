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
from plugin_accel._C import alike, same
from plugin_accel.hosts import snntorch_options as so
from plugin_accel.hosts.inputs import is_watched
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.snntorch_call import Form
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.prepared import PreparedStep, run_known

FP32 = torch.float32


_OPTIONS = ("spike_grad", "state_function", "reset_delay", "inhibition", "state_quant")


class _Plan:
    """A prepared step, and what it was prepared for; no step where the general way must be gone."""

    __slots__ = (
        *("backend", "computed", "options", "param_shapes"),
        *("shape", "shapes", "step", "values"),
    )

    def __init__(self, form: Form, layer: Any, x: Tensor) -> None:
        self.options = tuple([layer.__dict__.get(name) for name in _OPTIONS])
        self.shape, self.shapes = x.shape, (x.shape,) * (1 + len(form.states))
        self.backend = backends.requested()
        self.param_shapes: list[torch.Size] = []
        self.computed: tuple[Tensor, ...] = ()  # parameters that follow from the layer's own, of these values
        self.values: list[tuple[str, Tensor, Any]] = []
        self.step: PreparedStep | None = None
        options = form.options(layer)
        chosen = backends.choose(x.device, FP32, form.neuron.name)
        prepare = getattr(chosen, "prepare", None)
        params = _parameters(form, layer, self)
        # Without a delay the host looks at the mechanism's buffer at each call, which costs more than it brings here.
        if options.reasons or options.inhibition or not options.delay or not options.spikes_learn:
            return
        if prepare is None or params is None:
            return
        if form.recurrent:
            params.append(x)
        self.param_shapes = [p.shape for p in params]
        if alike(params, self.param_shapes, False) is not None:
            self.step = prepare(form.neuron, so.config(options, form.recurrent, False, STEP), x, params)

    def is_for(self, own: dict[str, Any], x: Tensor) -> bool:
        """Whether a layer with these attributes and this input is as it was."""
        return self.shape == x.shape and same(own, _OPTIONS, self.options) and self.backend == backends.requested()


_plans: WeakKeyDictionary[nn.Module, _Plan] = WeakKeyDictionary()


def _own(layer: Any, name: str) -> Any:
    """A tensor of the layer; None where it is computed, as that of a parametrised layer."""
    own = layer.__dict__
    found = own["_buffers"].get(name)
    return own["_parameters"].get(name) if found is None else found


def _computed(form: Form, layer: Any, plan: _Plan) -> tuple[Tensor, ...] | None:
    """Parameters that follow from the layer's own tensors, looked up by their values while these have no gradient."""
    if plan.values and all([_own(layer, n) is t and t.item() == v for n, t, v in plan.values]):  # noqa: C419
        return plan.computed
    plan.values = []
    try:
        plan.computed, _ = form.params(layer)
    except Refused:
        return None
    given = [(name, _own(layer, name)) for name in form.computed_from]
    if all(t is not None and t.dim() == 0 and t.is_cpu and not t.requires_grad for _, t in given):
        plan.values = [(name, t, t.item()) for name, t in given]
    return plan.computed


def _parameters(form: Form, layer: Any, plan: _Plan) -> list[Tensor] | None:
    """The layer's parameters in the kernels' order; None where one is computed, as that of a parametrised layer."""
    if not form.direct:
        try:
            before, after = form.params(layer)
        except Refused:
            return None
        return [*before, layer.threshold, layer.graded_spikes_factor, *after]
    found: list[Tensor] = []
    if form.computed_from:
        computed = _computed(form, layer, plan)
        if computed is None:
            return None
        found += computed
    own = layer.__dict__
    buffers, parameters = own["_buffers"], own["_parameters"]
    for name in form.direct:
        p = buffers.get(name)
        if p is None:
            p = parameters.get(name)
            if p is None:
                return None
        found.append(p)
    return found


def quick_step(
    form: Form, layer: Any, x: Tensor, given: Sequence[Any], recurrent: Tensor | None = None
) -> Sequence[Tensor] | None:
    """(spikes, *states) of one step, the states left in the layer's buffers; None if the general way must be gone."""
    if type(x) is not Tensor or x.dtype is not FP32 or not x.is_cpu or is_watched():
        return None
    own = layer.__dict__
    plan = _plans.get(layer)
    if plan is None or not plan.is_for(own, x):
        plan = _plans[layer] = _Plan(form, layer, x)
    step = plan.step
    if step is None:
        return None
    params = _parameters(form, layer, plan)
    if params is None:
        return None
    if recurrent is not None:
        params.append(recurrent)
    learned = alike(params, plan.param_shapes, False)
    if learned is None:
        if recurrent is None or alike(params[:-1], plan.param_shapes[:-1], False) is None:
            del _plans[layer]
        return None
    buffers, order = own["_buffers"], form.order
    states: list[Tensor | None] = []
    for i in order:
        state = given[i]
        if state is None:
            state = buffers.get(form.states[i])
        elif own["init_hidden"]:
            return None
        states.append(state)
    learning = alike([x, *states], plan.shapes, True)
    if learning is None:
        states, learning = _with_zeros(plan, x, states)
        if learning is None:
            return None
    made = run_known(step, x, states, params, learned, bool(learning))
    if len(order) == 1:
        buffers[form.states[0]] = made[1]
        return made
    found = list(made)
    for k, i in enumerate(order, 1):
        found[1 + i] = buffers[form.states[i]] = made[k]
    return found


def _with_zeros(plan: _Plan, x: Tensor, states: Sequence[Any]) -> tuple[list[Tensor | None], tuple[int, ...] | None]:
    """The states with None for those of another shape, as zeros, and which of them and `x` learn; None: not to take."""
    if any(type(s) is not Tensor or not s.is_cpu for s in states):
        return [], None
    fitting = [s if s.shape == plan.shape else None for s in states]
    there = [x, *[s for s in fitting if s is not None]]
    return fitting, alike(there, plan.shapes[: len(there)], True)


def is_prepared(layer: nn.Module) -> bool:
    """Whether the layer's last call found that it can go the quick way."""
    plan = _plans.get(layer)
    return plan is not None and plan.step is not None
