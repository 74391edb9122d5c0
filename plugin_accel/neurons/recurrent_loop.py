"""A neuron that hears its own spikes through a weight matrix: the whole sequence in one call of a backend.

A backend that has such a loop offers `RecurrentKernels`; for the others there is `neurons.recurrent`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor

from plugin_accel.neurons.config import Config
from plugin_accel.neurons.neuron import Derived, Incoming, Neuron
from plugin_accel.neurons.reach import ANY, present, reached, without_unreached


class Connection(NamedTuple):
    """What brings the spikes of one step to the next: weight z + bias."""

    weight: Tensor
    """[N, N]: to, from; dense."""
    bias: Tensor | None
    """[N], dense."""
    spikes: Tensor | None
    """Of the step before the first, dense; None: the first step hears nothing, not even the bias."""


class Loop(NamedTuple):
    """A call, apart from its tensors."""

    neuron: Neuron
    kernels: RecurrentKernels
    config: Config
    """Of a single step. With a parameter "recurrent" that takes what is heard; without, it is added to the input."""
    time_dim: int
    """Position of time in the input; samples are all dimensions but that and the last."""
    keep: bool
    record: bool
    states: int
    derived: tuple[Derived, ...]


class Run(NamedTuple):
    """What forward gives; sequences as the input, `records` and `heard` [T, *shape of a state]."""

    out: Tensor
    last: tuple[Tensor, ...]
    kept: Tensor | None
    records: tuple[Tensor, ...]
    """Each state after each step, if asked for."""
    heard: Tensor | None
    """What each step heard, the whole input of a neuron without a parameter for it; if asked for."""


class Held(NamedTuple):
    """What forward left for backward."""

    x: Tensor | None
    out: Tensor | None
    """Where the weights' gradient is wanted."""
    kept: Tensor
    heard: Tensor | None
    records: tuple[Tensor, ...]
    first: tuple[Tensor, ...]
    params: tuple[Tensor, ...]


class Grads(NamedTuple):
    """Gradients that arrive; None stands for zero."""

    out: Tensor | None
    kept: Tensor | None
    last: Sequence[Tensor | None]
    records: Sequence[Tensor | None]


class Wants(NamedTuple):
    """Which gradients backward must give beside the input's."""

    weight: bool
    bias: bool
    spikes: bool
    first: Sequence[bool]
    params: Sequence[bool]


class Back(NamedTuple):
    """Gradients by position; None where none was wanted."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    spikes: Tensor | None
    first: tuple[Tensor | None, ...]
    params: tuple[Tensor | None, ...]


class RecurrentKernels(Protocol):
    """What a backend with such a loop has beside `Kernels`. Tensors are fp32, dense along the last dimension."""

    def recurrent_forward(
        self,
        call: Loop,
        x: Tensor,
        connection: Connection,
        first: Sequence[Tensor],
        params: Sequence[Tensor],
        *,
        keep: bool,
        record: bool,
        hear: bool,
    ) -> Run:
        """Runs a sequence; `keep`, `record`, `hear` say what is handed back."""
        ...

    def recurrent_backward(self, call: Loop, held: Held, connection: Connection, grads: Grads, wanted: Wants) -> Back:
        """Gradients of a sequence."""
        ...


def offers(kernels: object, config: Config, x: Tensor) -> TypeGuard[RecurrentKernels]:
    """Whether a backend runs such a sequence as one call."""
    return (
        hasattr(kernels, "recurrent_forward")
        and x.dtype is torch.float32
        and x.is_cpu
        and config.spiking
        and config.surrogate is not None
    )


class _Loop(torch.autograd.Function):
    """(call, x, weight, bias, spikes, *states, *params, *time constants) -> (out, kept, *last, *records)."""

    @staticmethod
    def forward(
        ctx: Any, call: Loop, x: Tensor, weight: Tensor, bias: Tensor | None, spikes: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor | None, ...]:
        n = call.states
        count = len(tensors) - n - len(call.derived)
        first, params = tensors[:n], tensors[n : n + count]
        summed = _wanted(call, ctx.needs_input_grad, count)
        # The parameter "recurrent" comes last; its gradient is the input's.
        reads_x, reads_states = any(summed), call.neuron.reads_first(call.config, summed)
        added = "recurrent" not in call.neuron.params(call.config)
        made = call.kernels.recurrent_forward(
            call,
            x,
            Connection(weight, bias, spikes),
            first,
            params,
            keep=True,
            record=call.record or reads_states,
            hear=reads_x,
        )
        assert made.kept is not None
        learns = ctx.needs_input_grad[2]
        ctx.save_for_backward(
            x if reads_x and not added else None,
            weight,
            spikes,
            made.out if learns else None,
            made.kept,
            made.heard,
            *(made.records if reads_states else ()),
            *(first if reads_states else ()),
        )
        # They may be changed in place before backward, which the hosts do not mind.
        ctx.params = tuple([p.detach().clone() for p in params])
        ctx.bias = None if bias is None else bias.detach()
        ctx.call, ctx.reads_states = call, reads_states
        ctx.set_materialize_grads(False)
        kept = made.kept if call.keep else None
        # What is handed out may be changed in place as well: the host's is a stack that nobody needs any more.
        out = made.out.clone() if learns else made.out
        return (out, kept, *made.last, *(made.records if call.record else ()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        call, params, needs = ctx.call, ctx.params, ctx.needs_input_grad
        n = call.states
        x, weight, spikes, out, kept, heard, *rest = ctx.saved_tensors
        records, first = (tuple(rest[:n]), tuple(rest[n:])) if ctx.reads_states else ((), ())
        back = call.kernels.recurrent_backward(
            call,
            Held(x, out, kept, heard, records, first, params),
            Connection(weight, ctx.bias, spikes),
            Grads(grads[0], grads[1], grads[2 : 2 + n], grads[2 + n :]),
            Wants(needs[2], needs[3], needs[4], needs[5 : 5 + n], _wanted(call, needs, len(params))),
        )
        taus: list[Tensor | None] = []
        for d, need in zip(call.derived, needs[5 + n + len(params) :], strict=True):
            g = back.params[d.alpha] if need else None
            rest_of = None if d.rest is None or g is None else back.params[d.rest]
            if g is not None:
                g = ((g if rest_of is None else g - rest_of) * d.slope).sum_to_size(d.tau.shape)
            taus.append(g)
        names = ["x", "weight", "x", "x", *call.neuron.states(call.config)]  # the connection adds to the input
        names += [name for name in call.neuron.params(call.config) if name != "recurrent"]
        masks = reached(call.neuron, call.config, kept.shape[call.time_dim], fed=True)
        masks = {**masks, "weight": masks["x"] if weight._backward_hooks is None else ANY}
        arrived = present(Incoming(grads[0], None, grads[2 : 2 + n], grads[1], grads[2 + n :]))
        own = [back.x, back.weight, back.bias, back.spikes, *back.first, *back.params]
        wanted = [*needs[1:5], *needs[5 : 5 + n + len(params)]]
        found = without_unreached(masks, names, arrived, own)
        return (None, *[g if need else None for g, need in zip(found, wanted, strict=True)], *taus)


def _wanted(call: Loop, needs: Sequence[bool], count: int) -> list[bool]:
    """Which parameters need a gradient, their own or a time constant's."""
    start = 5 + call.states
    wanted = list(needs[start : start + count])
    for d, need in zip(call.derived, needs[start + count :], strict=True):
        if need:
            wanted[d.alpha] = True
            if d.rest is not None:
                wanted[d.rest] = True
    return wanted


def run_loop(call: Loop, x: Tensor, connection: Connection, first: Sequence[Tensor], params: Sequence[Tensor]) -> Run:
    """Runs a sequence, differentiably; only where `offers` says so.

    Args:
        call: Backend, neuron and options.
        x: Input, dense along its last dimension.
        connection: From the spikes of a step to the next.
        first: States before the first step, dense.
        params: Of the neuron, without "recurrent"; 0-d, or such as broadcast against a state from the right.
    """
    shape = first[0].shape
    if len(shape) > 2:  # the kernels know samples and units
        params = [p if p.dim() < 2 else p.expand(shape).reshape(-1, shape[-1]) for p in params]
    taus = [d.tau for d in call.derived]
    tensors = [x, *first, *params, *taus, *[t for t in connection if t is not None]]
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return call.kernels.recurrent_forward(
            call, x, connection, first, params, keep=call.keep, record=call.record, hear=False
        )
    flat = _Loop.apply(call, x, *connection, *first, *params, *taus)  # type: ignore[no-untyped-call]
    n = call.states
    return Run(flat[0], tuple(flat[2 : 2 + n]), flat[1], tuple(flat[2 + n :]), None)
