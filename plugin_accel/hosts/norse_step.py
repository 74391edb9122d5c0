"""The quick way through a call: what a layer's last call had established is compared, and nothing else done.

A user's time loop calls a cell some hundred times in a row with nothing new but the numbers. `quick_step` runs a
prepared step if that is so, or prepares one, `quick_sequence` the same for a layer that is given all steps at once;
what they cannot take in this way goes through `norse_call.call`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import norse.torch as nt
import torch
from torch import Tensor, nn

from plugin_accel import backends
from plugin_accel._C import alike, guard, same
from plugin_accel.hosts import norse_surrogates as ns
from plugin_accel.hosts.constants import beside
from plugin_accel.hosts.inputs import is_watched, number
from plugin_accel.hosts.known import watched
from plugin_accel.hosts.norse_call import config
from plugin_accel.hosts.norse_forms import form_of
from plugin_accel.modes import capturing
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.prepared import PreparedStep, place, run_known, runner
from plugin_accel.neurons.prepared_sequence import prepared_sequence

FP32 = torch.float32
_TENSORS = (Tensor, nn.Parameter)


_OPTIONS = ("p", "dt", "activation", "record_states", "state_fallback")


_RESTING = {
    getattr(nt, name).initial_state
    for name in ("LIF", "LI", "LIFEx", "LIFAdEx", "LSNN", "LIFBox", "LIBox")
    if hasattr(nt, name)
}
"""From these a sequence starts with numbers that follow from the layer's parameters alone."""


class _Plan:
    """A prepared step or sequence, and what it was prepared for; none of both where the general way must be gone."""

    __slots__ = (
        *("alpha", "backend", "device", "dt", "form", "guard", "names", "numbers", "options", "p", "param_shapes"),
        *("params", "resting", "shape", "shapes", "slope", "steep", "step", "values"),
    )

    def __init__(self, layer: Any, x: Tensor, time_dim: int) -> None:
        form = form_of(type(layer))
        assert form is not None
        self.form = form
        self.names, self.options = watched(layer.__dict__, _OPTIONS)
        self.p, self.dt = layer.p, layer.dt
        self.shape, self.device, self.backend = x.shape, place(x), backends.requested()
        self.steep: Any = None  # where alpha is read from at each call
        self.alpha = 0.0
        self.step: PreparedStep | None = None
        self.guard: Callable[..., tuple[Any, ...] | None] | None = None
        self.numbers: dict[int, Tensor] = {}
        self.param_shapes: list[torch.Size] = []
        self.values: list[tuple[Tensor, float]] | None = None  # of the layer's own tensors, where each has one, fixed
        self.params: list[Tensor] = []
        self.slope: tuple[Any, ...] = ()
        self.resting: tuple[Tensor, ...] = ()  # where a sequence starts from that is given no state, if that is fixed
        if form.reasons(layer) or layer.__dict__.get("record_states") or self.names != _OPTIONS:
            return
        spiking, made = form.spiking(layer.p), None
        if spiking is not None:
            made = ns.surrogate_of(spiking)
            if made is None or made is ns.NO_GRADIENT:
                return
            if ns.reads_alpha(spiking):
                self.steep, self.alpha = spiking, float(spiking.alpha)
        given = form.params(self.p, self.dt)
        self.slope = made.params[:1] if form.nested and made is not None else ()
        given = (*given, *self.slope)
        if any(not isinstance(v, (*_TENSORS, float, int)) for v in given):
            return
        self.numbers = {i: _number(float(v), x) for i, v in enumerate(given) if not isinstance(v, Tensor)}
        params = [self.numbers.get(i, v) for i, v in enumerate(given)]
        own = _tensors(self.p)
        if type(self.dt) is float and all(t.dim() == 0 and t.is_cpu and not t.requires_grad for t in own):
            self.values = [(t, t.item()) for t in own]
            with torch.inference_mode(False):  # copies, since the layer's own may be changed in place
                # those of a device are never given up, since a captured graph may read them
                self.params = params = [
                    p.to(FP32, copy=True) if x.is_cpu else beside(p, x.device, FP32) for p in params
                ]
        self.param_shapes = [p.shape for p in params]
        if alike(params, self.param_shapes, self.device, False) is None:
            return
        kind = form.kind_of(self.p)
        assert kind is not None
        backend = backends.choose(x.device, FP32, form.neuron.name)
        state = x.shape if time_dim == STEP else x.shape[:time_dim] + x.shape[time_dim + 1 :]
        run: Callable[..., Sequence[Tensor]]
        if time_dim == STEP:
            prepare = getattr(backend, "prepare", None)
            if prepare is not None:
                self.step = prepare(form.neuron, config(kind, made, STEP), x, params)
            if self.step is None:
                return
            run = runner(self.step)
        elif backend is None or form.nested:
            return
        else:
            run = prepared_sequence(form.neuron, backend, config(kind, made, time_dim), x.detach(), params).run
            self.resting = self._resting(layer, x, state)
        names = form.neuron.states(config(kind, made, time_dim))
        self.shapes = (x.shape, *[state] * len(names))
        if not form.nested:
            values = self.values or []
            fixed, unnamed = tuple([t for t, _ in values]), (None,) * len(names)
            self.guard = guard(
                _OPTIONS, self.options, (), tuple(self.param_shapes), x.shape, state, self.device, fixed,
                partial(_unchanged, values), run, unnamed, None, form.state,
            )  # fmt: skip

    def _resting(self, layer: Any, x: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
        """The states that Norse starts from, where these are the same numbers again and again."""
        fallback = layer.__dict__.get("state_fallback")
        if self.values is None or getattr(fallback, "__func__", None) not in _RESTING:
            return ()
        with torch.inference_mode(False), torch.no_grad():
            found = [s.detach() for s in self.form.states(fallback(x.detach()))]
            if any(s.dtype is not FP32 for s in found):
                return ()
            moved = [s.to(x.device) if s.dim() else torch.full(shape, s.item(), device=x.device) for s in found]
            return tuple([s if s.shape == shape else s.expand(shape).contiguous() for s in moved])

    def is_for(self, own: dict[str, Any], x: Tensor) -> bool:
        """Whether a layer with these attributes and this input is as it was."""
        return (
            self.shape == x.shape
            and self.device == place(x)
            and same(own, self.names, self.options)
            and self.backend == backends.requested()
            and (self.steep is None or self.alpha == float(self.steep.alpha))
        )

    def known(self) -> list[Tensor] | None:
        """The parameters of a layer that has one fixed value of each; None if one is another than it was."""
        assert self.values is not None
        return self.params if _unchanged(self.values) else None

    def changing(self) -> list[Tensor]:
        """Those of a layer that learns some, or has some per neuron."""
        params = [*self.form.params(self.p, self.dt), *self.slope]
        for i, value in self.numbers.items():
            params[i] = value
        return params


def _unchanged(values: list[tuple[Tensor, float]]) -> bool:
    return all([t.item() == value and not t.requires_grad for t, value in values])  # noqa: C419


def _number(value: float, x: Tensor) -> Tensor:
    return number(value, FP32, x.device)


def _tensors(p: Any) -> list[Tensor]:
    """Every tensor in a tuple of parameters."""
    return [t for v in p for t in (_tensors(v) if isinstance(v, tuple) else [v]) if isinstance(t, Tensor)]


_plans: WeakKeyDictionary[nn.Module, _Plan] = WeakKeyDictionary()
backends.when_choices_change(_plans.clear)


def quick_step(layer: Any, x: Tensor, state: Any) -> tuple[Any, ...] | None:
    """(output, state) of one step; None if the general way must be gone."""
    if state is None or is_watched():
        return None
    own = layer.__dict__
    plan = _plans.get(layer)
    if (
        plan is not None
        and plan.guard is not None
        and type(state) is plan.form.state
        and plan.backend == backends.requested()
        and (plan.steep is None or plan.alpha == float(plan.steep.alpha))
    ):
        params = plan.params if plan.values is not None else plan.changing()
        made = plan.guard(own, x, state, params, ())
        if made is not None:
            return made
    return _anew(layer, x, state)


_sequences: WeakKeyDictionary[nn.Module, dict[torch.Size, _Plan]] = WeakKeyDictionary()
backends.when_choices_change(_sequences.clear)
_MOST_SHAPES = 8


def quick_sequence(layer: Any, x: Tensor, state: Any) -> tuple[Any, ...] | None:
    """(output, state after) of all steps, time first; None if the general way must be gone."""
    if type(x) is not Tensor or is_watched():
        return None
    own = layer.__dict__
    plans = _sequences.get(layer)
    if plans is None:
        plans = _sequences[layer] = {}
    plan = plans.get(x.shape)
    if plan is None or not plan.is_for(own, x):
        if x.dtype is not FP32 or x.dim() < 2 or x.shape[0] == 0 or not x.is_contiguous() or capturing(x.device):
            return None
        if own.get("_is_replica"):  # of DataParallel, for one call
            return None
        if len(plans) == _MOST_SHAPES:
            plans.clear()
        plan = plans[x.shape] = _Plan(layer, x, 0)
    if plan.guard is None:
        return None
    states = state
    if state is None:
        states = plan.resting
        if not states or capturing(x.device):  # a graph would read what may be given up
            return None
        if torch.is_grad_enabled() and not x.requires_grad:  # as Norse's own, which asks for a gradient
            states = (states[0].detach().requires_grad_(), *states[1:])
    elif type(state) is not plan.form.state:
        return None
    params = plan.params if plan.values is not None else plan.changing()
    made = plan.guard(own, x, states, params, ())
    if made is None:
        plans.pop(x.shape, None)  # another thread may have done so
    return made


def _anew(layer: Any, x: Tensor, state: Any) -> tuple[Any, ...] | None:
    """The same where something is not as it was, or the state is of several tuples."""
    if type(x) is not Tensor or x.dtype is not FP32:
        return None
    plan = _plans.get(layer)
    if plan is None or not plan.is_for(layer.__dict__, x):
        if capturing(x.device):
            return None
        plan = _plans[layer] = _Plan(layer, x, STEP)
    step, form = plan.step, plan.form
    if step is None or type(state) is not form.state:
        return None
    params: list[Tensor] | None
    learned: tuple[int, ...] | None = ()
    if plan.values is not None:
        params = plan.known()
    else:
        params = plan.changing()
        learned = alike(params, plan.param_shapes, plan.device, False)
    if params is None or learned is None:
        _plans.pop(layer, None)
        return None
    states = form.states(state) if form.nested else state
    learning = alike([x, *states], plan.shapes, plan.device, True)
    if learning is None:
        return None
    out, *last = run_known(step, x, states, params, learned, bool(learning))
    return out, form.make(last)
