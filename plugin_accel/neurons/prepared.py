"""Single steps of one configuration, called again and again by a loop of the user's own: the shortest way to a kernel.

A backend may offer `prepare(neuron, config, x, params) -> PreparedStep | None`. What such a step is called with has
been compared with what it was prepared for by the caller; nothing is checked here, or differentiated twice.
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
    ) -> tuple[Tensor | None, Tensor, Sequence[Tensor]]:
        """(kept, out, states after the step); None among the `states` stands for zeros.

        `kept`, None unless asked for, is all that backward needs of what may be changed in place after the step: of the
        membrane and of the parameters.
        """
        ...

    def reads(self, learned: tuple[int, ...]) -> tuple[bool, bool]:
        """Whether backward reads the input and the states before, for gradients of the parameters at `learned`."""
        ...

    def backward(
        self,
        needs: Sequence[bool],
        learned: tuple[int, ...],
        kept: Tensor,
        x: Tensor | None,
        states: Sequence[Tensor | None],
        grads: Sequence[Tensor | None],
    ) -> Sequence[Tensor | None]:
        """Gradients of (x, *states, *learned parameters), from those of (out, *states); `needs` for (x, *states)."""
        ...


class RecyclingStep(PreparedStep, Protocol):
    """One that takes back what it gave out as `kept`, whose memory is then known to the caches."""

    def recycle(self, saved: list[Any]) -> None:
        """Takes saved[0] out of the list for a later step, if nothing but the list holds it."""
        ...


class PreparedSequence(Protocol):
    """A sequence without gradients, for inputs of one shape and dtype, dense; parameters of one value each.

    A backend may offer `prepare_sequence(neuron, config, x, params) -> PreparedSequence | None`.
    """

    def run(self, x: Tensor, first: Sequence[Tensor], params: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(out, its mean, states after the last step)."""
        ...


# Whether what is saved is handed to somebody else: only what torch alone has seen may be used again. Older releases of
# torch, which cannot say, say yes.
_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
if not (_hooks and hasattr(torch._C._FunctionBase, "maybe_clear_saved_tensors") and hasattr(Tensor, "_use_count")):
    _hooks = bool


class _Step(torch.autograd.Function):
    """(step, params, learned, x, *states, *learned parameters) -> (out, *states)."""

    @staticmethod
    def forward(
        ctx: Any,
        step: PreparedStep,
        params: Sequence[Tensor],
        learned: tuple[int, ...],
        x: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        states = tensors[: step.states]
        kept, out, last = step.forward(x, states, params, True)
        ctx.made_by = step, learned, 0 if _hooks(True) else id(kept)
        reads_x, reads_states = step.reads(learned)
        if reads_states:
            ctx.save_for_backward(kept, x if reads_x else None, *states)
        else:
            ctx.save_for_backward(kept)
        ctx.set_materialize_grads(False)
        return (out, *last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "accelerated layer: expected first derivatives alone, got create_graph=True; "
                "plugin_accel.restore(model) gives the host's layers back, which can be differentiated twice"
            )
        step, learned, kept_id = ctx.made_by
        saved = list(ctx.saved_tensors)
        x, states = (saved[1], saved[2:]) if len(saved) > 1 else (None, (None,) * step.states)
        made = step.backward(ctx.needs_input_grad[3:], learned, saved[0], x, states, grads)
        if id(saved[0]) == kept_id and (recycle := getattr(step, "recycle", None)) is not None:
            ctx.maybe_clear_saved_tensors()  # as the engine does next, unless the graph is to be retained
            recycle(saved)
        return (None, None, None, *made)


# torch's own `apply` and its counterpart in backward look, in Python, for what is not here: transforms, a `vjp`, a
# `setup_context`. Together that takes as long as the arithmetic of a step.
_apply = super(torch.autograd.Function, _Step).apply  # type: ignore[misc]
if "apply" in dir(getattr(_Step, "_backward_cls", None)):
    _Step._backward_cls.apply = _Step.backward


def run_known(
    step: PreparedStep,
    x: Tensor,
    states: Sequence[Tensor | None],
    params: Sequence[Tensor],
    learned: tuple[int, ...],
    learns: bool,
) -> Sequence[Tensor]:
    """`run_step` where it is known which parameters require a gradient, and whether an input or a state does."""
    if (learned or learns) and torch.is_grad_enabled():
        flat: tuple[Tensor, ...] = _apply(step, params, learned, x, *states, *[params[i] for i in learned])
        return flat
    _, out, last = step.forward(x, states, params, False)
    return (out, *last)


def run_step(
    step: PreparedStep, x: Tensor, states: Sequence[Tensor | None], params: Sequence[Tensor]
) -> Sequence[Tensor]:
    """(out, *states after), differentiably where any of the tensors asks for it."""
    learned = tuple([i for i, p in enumerate(params) if p.requires_grad])
    learns = x.requires_grad or any(s is not None and s.requires_grad for s in states)
    return run_known(step, x, states, params, learned, learns)
