"""The quick way through a single step: what a layer's last call had established is compared, and nothing else done.

A user's time loop calls a layer some hundred times in a row with nothing new but the numbers. `quick_step` runs a
prepared step if that is so, or prepares one; what it cannot take in this way goes through `snntorch_call.call`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from plugin_accel import backends
from plugin_accel._C import alike, guard, same
from plugin_accel.hosts import snntorch_options as so
from plugin_accel.hosts.inputs import is_watched
from plugin_accel.hosts.known import watched
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.snntorch_call import Form
from plugin_accel.hosts.snntorch_callables import spikes_by
from plugin_accel.hosts.snntorch_params import Params
from plugin_accel.modes import capturing
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.prepared import PreparedStep, place, runner

FP32 = torch.float32


Call = tuple[Callable[..., Sequence[Tensor]], list[Any], list[Tensor], tuple[int, ...], bool]
"""What runs the step; states, parameters, which of these learn, and whether the input or a state does."""
Runs = Callable[[PreparedStep], Callable[..., Sequence[Tensor]]]

_OPTIONS = ("spike_grad", "state_function", "reset_delay", "inhibition", "state_quant")


class _Plan:
    """A prepared step, and what it was prepared for; no step where the general way must be gone."""

    __slots__ = (
        "backend",
        "computed",
        "device",
        "guard",
        "hears",
        "names",
        "options",
        "run",
        "shape",
        "shapes",
        "step",
        "values",
    )

    def __init__(self, form: Form, layer: Any, x: Tensor, recurrent: tuple[Tensor, ...], runs: Runs) -> None:
        self.names, self.options = watched(layer.__dict__, _OPTIONS)
        self.shape, self.device, self.backend, self.hears = x.shape, place(x), backends.requested(), len(recurrent)
        self.computed: Params = ((), ())
        self.values: list[tuple[str, Tensor, Any]] = []  # from which they were computed
        self.step: PreparedStep | None = None
        self.run: Callable[..., Sequence[Tensor]] | None = None
        self.guard: Callable[..., tuple[Tensor, ...] | None] | None = None
        self.shapes: tuple[torch.Size, ...] = ()
        options = form.options(layer)
        prepare = getattr(backends.choose(x.device, FP32, form.neuron.name), "prepare", None)
        if options.reasons or options.inhibition or prepare is None or self.names != _OPTIONS:
            return
        params = _parameters(form, layer, self, recurrent)
        if params is None:
            return
        self.shapes = tuple([p.shape for p in params])
        if alike(params, self.shapes, self.device, False) is None:
            return
        last = params[: len(params) - len(recurrent) + 1]  # the weights are none of the kernels'
        self.step = prepare(form.neuron, so.config(options, form.recurrent, False, STEP), x, last)
        if self.step is not None:
            self.run = run = _finished(form, layer, options, runs(self.step))
            names, out = tuple([form.states[i] for i in form.order]), "spk" if form.recurrent else None
            self.guard = guard(
                _OPTIONS, self.options, form.direct, self.shapes, x.shape, x.shape, self.device, (), None, run, names,
                out, form.order,
            )  # fmt: skip

    def is_for(self, own: dict[str, Any], x: Tensor) -> bool:
        """Whether a layer with these attributes and this input is as it was."""
        alike_options = same(own, self.names, self.options)
        alike_input = self.shape == x.shape and self.device == place(x)
        return alike_input and alike_options and self.backend == backends.requested()


_plans: WeakKeyDictionary[nn.Module, _Plan] = WeakKeyDictionary()
backends.when_choices_change(_plans.clear)


def _own(layer: Any, name: str) -> Any:
    """A tensor of the layer; None where it is computed, as that of a parametrised layer."""
    own = layer.__dict__
    found = own["_buffers"].get(name)
    return own["_parameters"].get(name) if found is None else found


def _computed(form: Form, layer: Any, plan: _Plan) -> Params | None:
    """Parameters that follow from the layer's own tensors, looked up by their values while these have no gradient."""
    if not form.computed_from:
        return plan.computed
    known = [_own(layer, n) is t and t.item() == v and not t.requires_grad for n, t, v in plan.values]
    if known and all(known):
        return plan.computed
    plan.values = []
    try:
        computed = form.params(layer)
    except Refused:
        return None
    given = [(name, _own(layer, name)) for name in form.computed_from]
    if all(t is not None and t.dim() == 0 and t.is_cpu and not t.requires_grad for _, t in given):
        plan.computed, plan.values = computed, [(name, t, t.item()) for name, t in given]
    return computed


def _parameters(form: Form, layer: Any, plan: _Plan, recurrent: tuple[Tensor, ...]) -> list[Tensor] | None:
    """All of them in the kernels' order; None where one is computed, as that of a parametrised layer."""
    computed, own = _computed(form, layer, plan), [_own(layer, name) for name in form.direct]
    if computed is None or any(p is None for p in own):
        return None
    return [*computed[0], *own, *computed[1], *recurrent]


def quick_step(
    form: Form,
    layer: Any,
    x: Tensor,
    given: Sequence[Any],
    recurrent: tuple[Tensor, ...] = (),
    runs: Runs = runner,
) -> tuple[Tensor, ...] | None:
    """(spikes, *states) of one step, left in the layer's buffers too; None if the general way must be gone.

    `recurrent`: what follows the other parameters: of the shape of `x`, if there is one, then what else `runs` needs;
    `runs`: how a prepared step is run, see `runner`.
    """
    own = layer.__dict__
    if is_watched():
        return None
    if own["init_hidden"] and any(s is not None for s in given):
        return None
    order = form.order
    if len(order) > 1:
        given = [given[i] for i in order]
    plan = _plans.get(layer)
    if plan is not None and plan.guard is not None and plan.backend == backends.requested():
        computed = _computed(form, layer, plan)
        if computed is not None:
            made = plan.guard(own, x, given, computed[0], (*computed[1], *recurrent))
            if made is not None:
                return made
    found = _anew(form, layer, x, given, recurrent, runs)
    if found is None:
        return None
    run, *call = found
    flat = run(x, *call)
    by_host, buffers = list(flat), own["_buffers"]
    for k, i in enumerate(order, 1):
        by_host[1 + i] = buffers[form.states[i]] = flat[k]
    if form.recurrent:
        buffers["spk"] = flat[0]
    return tuple(by_host)


def _finished(form: Form, layer: Any, options: so.Options, run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` of a prepared step, with what of snnTorch's step the kernels leave."""
    if options.delay and options.spikes_learn and not options.called:
        return run
    host, mem = ref(layer), 1 + form.order.index(form.states.index("mem"))

    def finished(*call: Any) -> tuple[Tensor, ...]:
        layer: Any = host()
        if not options.delay and (why := so.mechanism_differs(layer)):
            raise Refused(why)
        made = run(*call)
        spikes = made[0]
        if options.called:
            fired = None if options.reset == "none" else spikes
            try:
                spikes = spikes_by(
                    layer.spike_grad, made[mem], layer.threshold, layer.graded_spikes_factor, fired, STEP
                )
            except Refused:
                _plans.pop(layer, None)
                raise
        elif not options.spikes_learn and not (form.graded and layer.graded_spikes_factor.requires_grad):
            spikes = spikes.detach()
        return (spikes, *made[1:])

    return finished


def _anew(
    form: Form, layer: Any, x: Tensor, given: Sequence[Any], recurrent: tuple[Tensor, ...], runs: Runs
) -> Call | None:
    """What a guard gives, where something is not as it was: a layer, an input, or a state that counts as zeros."""
    if type(x) is not Tensor or x.dtype is not FP32:
        return None
    if recurrent and not _heard(x, *recurrent):
        return None
    own = layer.__dict__
    plan = _plans.get(layer)
    if plan is None or plan.hears != len(recurrent) or not plan.is_for(own, x):
        if capturing(x.device):
            return None
        plan = _plans[layer] = _Plan(form, layer, x, recurrent, runs)
    if plan.step is None:
        return None
    params = _parameters(form, layer, plan, recurrent)
    learned = None if params is None else alike(params, plan.shapes, plan.device, False)
    if params is None or learned is None:
        _plans.pop(layer, None)
        return None
    states: list[Any] = []
    for i, argument in zip(form.order, given, strict=True):
        state = own["_buffers"].get(form.states[i]) if argument is None else argument
        if type(state) is not Tensor or state.device != x.device:
            return None
        # As the host does: what is kept for backward must not depend on whether this is the layer's first call.
        states.append(state if state.shape == x.shape else torch.zeros_like(x, requires_grad=False))
    there = [x, *states]
    learning = alike(there, [x.shape] * len(there), plan.device, True)
    return None if learning is None or plan.run is None else (plan.run, states, params, learned, bool(learning))


def _heard(x: Tensor, spikes: Tensor, *weights: Tensor) -> bool:
    """Whether these can be what a layer hears: one tensor like the input, or spikes and a weight or one per neuron."""
    device = place(x)
    if spikes.shape != x.shape or alike([spikes], [x.shape], device, False) is None:
        return False
    return all(w.shape in ((), (1,), x.shape[1:]) and alike([w], [w.shape], device, False) is not None for w in weights)


def is_prepared(layer: nn.Module) -> bool:
    """Whether the layer's last call found that it can go the quick way."""
    plan = _plans.get(layer)
    return plan is not None and plan.step is not None
