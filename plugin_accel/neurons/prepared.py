"""Single steps of one configuration, called again and again by a loop of the user's own: the shortest way to a kernel.

A backend may offer `prepare(neuron, config, x, params) -> PreparedStep | None`. What such a step is called with has been
compared with what it was prepared for by the caller; nothing is checked here. Nor is anything differentiated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class PreparedStep(Protocol):
    """One step for inputs of one shape and dtype, dense; parameters of the shapes it was prepared for."""

    states: int
    """How many states there are."""

    def forward(
        self, x: Tensor, states: Sequence[Tensor | None], params: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor | None, Tensor, list[Tensor]]:
        """(kept, out, states after the step); None among the `states` stands for zeros, kept is None unless `keep`."""
        ...

    def reads(self, needs: tuple[bool, ...]) -> tuple[bool, bool]:
        """Whether backward reads the input and the states before, for `needs` of (x, *states, *params)."""
        ...

    def backward(
        self,
        needs: tuple[bool, ...],
        x: Tensor | None,
        kept: Tensor,
        states: Sequence[Tensor | None],
        params: Sequence[Tensor],
        grads: Sequence[Tensor | None],
    ) -> list[Tensor | None]:
        """Gradients of (x, *states, *params), from those of (out, *states)."""
        ...


class _Step(torch.autograd.Function):
    """(step, x, *states, *params) -> (out, *states)."""

    @staticmethod
    def forward(ctx: Any, step: PreparedStep, x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        n = step.states
        kept, out, last = step.forward(x, tensors[:n], tensors[n:], True)  # type: ignore[arg-type]
        ctx.step = step
        reads_x, reads_states = step.reads(ctx.needs_input_grad[1:])
        ctx.reads_states = reads_states
        # The membrane is kept apart from the state that is handed out, which its owner may change in place.
        ctx.save_for_backward(kept, x if reads_x else None, *(tensors if reads_states else tensors[n:]))
        ctx.set_materialize_grads(False)
        return (out, *last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "accelerated layer: expected first derivatives alone, got create_graph=True; "
                "plugin_accel.restore(model) gives the host's layers back, which can be differentiated twice"
            )
        step = ctx.step
        kept, x, *rest = ctx.saved_tensors
        n = step.states
        states, params = (rest[:n], rest[n:]) if ctx.reads_states else ((None,) * n, rest)
        return (None, *step.backward(ctx.needs_input_grad[1:], x, kept, states, params, grads))


def run_step(
    step: PreparedStep, x: Tensor, states: Sequence[Tensor | None], params: Sequence[Tensor]
) -> Sequence[Tensor]:
    """(out, *states after), differentiably where any of the tensors asks for it."""
    if torch.is_grad_enabled() and (
        x.requires_grad
        or any([p.requires_grad for p in params])
        or any([s is not None and s.requires_grad for s in states])
    ):
        flat: tuple[Tensor, ...] = _Step.apply(step, x, *states, *params)  # type: ignore[no-untyped-call]
        return flat
    _, out, last = step.forward(x, states, params, False)
    return (out, *last)
