"""A neuron over a sequence, differentiably: one autograd function for all neurons, over any backend's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plugin_accel.neurons.callables import evaluate_surrogate
from plugin_accel.neurons.checks import check_call, check_surrogate
from plugin_accel.neurons.config import Config
from plugin_accel.neurons.layout import STEP, constant_base
from plugin_accel.neurons.neuron import Derived, Incoming, Kernels, Neuron, Result, Saved, Wanted
from plugin_accel.neurons.prepared import thin
from plugin_accel.neurons.reach import present, reached, without_unreached
from plugin_accel.surrogates import SurrogateFn


def run(
    neuron: Neuron,
    kernels: Kernels,
    config: Config,
    x: Tensor,
    first: Sequence[Tensor],
    params: Sequence[Tensor],
    *,
    surrogate_fn: SurrogateFn | None = None,
    keep: bool = False,
    record: bool = False,
) -> Result:
    """Run a neuron over a sequence, differentiably.

    Args:
        neuron: The model.
        kernels: A backend.
        config: Static configuration.
        x: Input, time at `config.time_dim`, fp32 or fp64.
        first: States before the first step, shape of `x` without time.
        params: As named by `neuron.params(config)`; 0-d, or broadcast against a state from the right.
        surrogate_fn: Replaces `config.surrogate`: any callable (v, threshold) -> d spike / d v. It is called under
            no_grad in backward, one step at a time and from the last step to the first, as the hosts call it.
        keep: Also give back the membrane before the reset, differentiably.
        record: Also give back every state after each step, differentiably.

    Raises:
        InputError: a tensor of another number, shape, dtype or device than the kernels read.
    """
    check_call(neuron, config, x, first, params)
    if surrogate_fn is None and torch.is_grad_enabled() and _any_requires_grad(x, first, params):
        check_surrogate(config)
    return run_unchecked(neuron, kernels, config, x, first, params, surrogate_fn=surrogate_fn, keep=keep, record=record)


def run_unchecked(
    neuron: Neuron,
    kernels: Kernels,
    config: Config,
    x: Tensor,
    first: Sequence[Tensor],
    params: Sequence[Tensor],
    *,
    surrogate_fn: SurrogateFn | None = None,
    keep: bool = False,
    record: bool = False,
    derived: tuple[Derived, ...] = (),
    plain: bool = False,
) -> Result:
    """`run` for callers that have established what it checks: wrong shapes here read and write foreign memory.

    `derived`: time constants that get a gradient through parameters which are given as plain values; `plain`: neither a
    transform of torch.func nor a compiler sees this call, or has left one of its tensors behind.
    """
    if not plain and torch.compiler.is_compiling():  # behind a graph break: ops.call is for what is to be compiled
        eager = torch.compiler.disable(run_unchecked)
        result: Result = eager(
            neuron,
            kernels,
            config,
            x,
            first,
            params,
            surrogate_fn=surrogate_fn,
            keep=keep,
            record=record,
            derived=derived,
        )
        return result
    if not (torch.is_grad_enabled() and (derived or _any_requires_grad(x, first, params))):
        return kernels.forward(neuron, config, x, first, params, keep=keep, record=record)
    states = len(first)
    time = 0
    if x.requires_grad and (base := constant_base(x, config.time_dim)) is not None:
        x, time = base, x.shape[config.time_dim]
    call = _Call(neuron, kernels, config, surrogate_fn, keep, record, states, len(params), derived, time)
    apply: Any = _thin if plain else _Sequence.apply
    flat = apply(call, x, *first, *params, *[d.tau for d in derived])
    return Result(
        flat[0],
        flat[1],
        flat[2 : 2 + states],
        flat[2 + states] if keep else None,
        flat[-states:] if record else (),
    )


def _any_requires_grad(x: Tensor, first: Sequence[Tensor], params: Sequence[Tensor]) -> bool:
    return x.requires_grad or any(p.requires_grad for p in params) or any(s.requires_grad for s in first)


class _Call(NamedTuple):
    neuron: Neuron
    kernels: Kernels
    config: Config
    surrogate_fn: SurrogateFn | None
    keep: bool
    record: bool
    states: int
    params: int
    derived: tuple[Derived, ...]
    time: int
    """Steps of an input that is given once for all of them; 0 for one with a time dimension."""

    def over_time(self, x: Tensor) -> Tensor:
        """The input with its time dimension."""
        if not self.time:
            return x
        shape, dim = list(x.shape), self.config.time_dim
        return x.unsqueeze(dim).expand(*shape[:dim], self.time, *shape[dim:])

    def wanted(self, needs: tuple[bool, ...]) -> Wanted:
        """Which gradients the kernels must give, from those that autograd needs."""
        after = 2 + self.states
        params = needs[after : after + self.params]
        if self.derived:
            through = list(params)
            for d, need in zip(self.derived, needs[after + self.params :], strict=True):
                if need:
                    through[d.alpha] = True
                    if d.rest is not None:
                        through[d.rest] = True
            params = tuple(through)
        return Wanted(needs[1], needs[2:after], params, self.time > 0)

    def derive(self, needs: tuple[bool, ...], params: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        """Gradients of the time constants from those of the parameters."""
        found: list[Tensor | None] = []
        for d, need in zip(self.derived, needs[2 + self.states + self.params :], strict=True):
            g = params[d.alpha] if need else None
            rest = None if d.rest is None else params[d.rest]
            if g is not None and rest is not None:
                g = g - rest
            found.append(None if g is None else (g * d.slope).to(d.tau.dtype))
        return found


class _Sequence(torch.autograd.Function):
    """(call, x, *first, *params, *taus) -> (out, mean, *last, [kept], *records)."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        neuron, config, states = call.neuron, call.config, call.states
        first, params = tensors[:states], tensors[states : states + call.params]
        kernels, callable_ = call.kernels, call.surrogate_fn is not None
        records_for_threshold = callable_ and neuron.threshold_varies
        ctx.call = call
        wanted = ctx.wanted = call.wanted(ctx.needs_input_grad)
        reads_first = kernels.saves_input or neuron.reads_first(config, wanted.params)
        reads_input = kernels.saves_input or neuron.reads_input(config, wanted.params)
        # who wants the membranes holds them anyway; a surrogate that is a callable is given them
        drops: Any = None if call.keep or callable_ else getattr(kernels, "drops_kept", None)
        dropped = drops is not None and drops(config, x, reads_input or call.time > 0)
        result = kernels.forward(
            neuron,
            config,
            call.over_time(x),
            first,
            params,
            keep=not dropped,
            record=call.record or records_for_threshold,
        )
        ctx.save_for_backward(
            result.kept,
            x if reads_input or dropped else None,
            *(first if reads_first or dropped else (None,) * states),
            *params,
            *(result.records if records_for_threshold else ()),
        )
        ctx.set_materialize_grads(False)
        kept = (result.kept,) if call.keep else ()
        return (result.out, result.mean, *result.last, *kept, *(result.records if call.record else ()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: what comes out must say that it cannot be differentiated again
            return _once(ctx, *grads)
        call: _Call = ctx.call
        kept, x, *rest = ctx.saved_tensors
        states, n_params, wanted = call.states, call.params, ctx.wanted
        saved = Saved(
            None if x is None else call.over_time(x),
            kept,
            tuple(rest[:states]),
            tuple(rest[states : states + n_params]),
        )
        after = 2 + states + int(call.keep)
        incoming = Incoming(
            grads[0],
            grads[1],
            grads[2 : 2 + states],
            grads[2 + states] if call.keep else None,
            grads[after:] if call.record else (),
        )
        dspike_dv = None
        if call.surrogate_fn is not None:
            thresholds = call.neuron.thresholds(call.config, saved, rest[states + n_params :])
            assert saved.kept is not None
            dspike_dv = evaluate_surrogate(call.surrogate_fn, saved.kept, thresholds, call.config.time_dim)
        g = call.kernels.backward(call.neuron, call.config, saved, incoming, wanted, dspike_dv)
        names = ("x", *call.neuron.states(call.config), *call.neuron.params(call.config))
        dim = call.config.time_dim
        masks = reached(call.neuron, call.config, 1 if dim == STEP else saved.like.shape[dim])
        g_x, *others = without_unreached(masks, names, present(incoming), (g.x, *g.first, *g.params))
        first, params = others[:states], tuple(others[states:])
        derived = call.derive(ctx.needs_input_grad, params) if call.derived else ()
        if call.time and g_x is not None and g_x.dim() == saved.like.dim():
            g_x = g_x.sum(call.config.time_dim)
        return (None, g_x, *first, *params, *derived)


_thin = thin(_Sequence)
_once = torch.autograd.function.once_differentiable(_Sequence.backward)
