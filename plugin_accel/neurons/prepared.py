"""Single steps of one configuration, called again and again by a loop of the user's own: the shortest way to a kernel.

A backend may offer `prepare(neuron, config, x, params) -> PreparedStep | None`. What such a step is called with has
been compared with what it was prepared for by the caller; nothing is checked here, or differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor


class PreparedStep(Protocol):
    """One step for inputs of one shape and dtype, dense; parameters of the shapes it was prepared for."""

    states: int
    """How many states there are."""
    copies: bool
    """Whether `forward` copies the parameters for backward at no cost, as a loop over time wants it."""

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


class DifferentiableStep(PreparedStep, Protocol):
    """One that brings an autograd function of its own."""

    def run(
        self,
        x: Tensor,
        states: Sequence[Tensor | None],
        params: Sequence[Tensor],
        learned: tuple[int, ...],
        learns: bool,
    ) -> Sequence[Tensor]:
        """(out, *states after), differentiably where something asks for it; see `run_known`."""
        ...

    def hearing(self) -> Callable[..., Sequence[Tensor]]:
        """`run` for spikes that are heard: the last two of its `params` are spikes, and a weight or one per neuron.

        Their product takes the place of the last parameter that the step was prepared for.
        """
        ...


def place(x: Tensor) -> torch.device | None:
    """Where a tensor is, None for the CPU: as the library's guards take it."""
    return None if x.is_cpu else x.device


def thin(function: type[torch.autograd.Function]) -> Any:
    """`function.apply` for calls that no transform of torch.func sees; its backward loses a Python frame, too.

    torch's own look, in Python, for such transforms, for a `vjp` and a `setup_context`. That takes as long as the
    arithmetic of a step.
    """
    node: Any = getattr(function, "_backward_cls", None)
    if "apply" in dir(node):
        backward = vars(function)["backward"]
        node.apply = backward.__func__ if isinstance(backward, staticmethod) else backward
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def once() -> None:
    """To be called in backward: what comes out cannot be differentiated again, and must say so."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "accelerated layer: expected first derivatives alone, got create_graph=True; "
            "plugin_accel.restore(model) gives the host's layers back, which can be differentiated twice"
        )


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
        ctx.made_by = step, learned
        reads_x, reads_states = step.reads(learned)
        if reads_states:
            ctx.save_for_backward(kept, x if reads_x else None, *states)
        else:
            ctx.save_for_backward(kept)
        ctx.set_materialize_grads(False)
        return (out, *last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        once()
        step, learned = ctx.made_by
        kept, *read = ctx.saved_tensors
        x, states = (read[0], read[1:]) if read else (None, (None,) * step.states)
        return (None, None, None, *step.backward(ctx.needs_input_grad[3:], learned, kept, x, states, grads))


def run_known(
    step: PreparedStep,
    x: Tensor,
    states: Sequence[Tensor | None],
    params: Sequence[Tensor],
    learned: tuple[int, ...],
    learns: bool,
) -> Sequence[Tensor]:
    """`run_step` where it is known which parameters require a gradient, and whether an input or a state does."""
    own: Any = getattr(step, "run", None)
    flat: Sequence[Tensor]
    if own is not None:
        flat = own(x, states, params, learned, learns)
        return flat
    if (learned or learns) and torch.is_grad_enabled():
        flat = _Step.apply(  # type: ignore[no-untyped-call]
            step, params, learned, x, *states, *[params[i] for i in learned]
        )
        return flat
    _, out, last = step.forward(x, states, params, False)
    return (out, *last)


def runner(step: PreparedStep) -> Callable[..., Sequence[Tensor]]:
    """`run_known` of a step, without a frame of Python where the step has its own."""
    own: Callable[..., Sequence[Tensor]] | None = getattr(step, "run", None)
    return partial(run_known, step) if own is None else own


def run_step(
    step: PreparedStep, x: Tensor, states: Sequence[Tensor | None], params: Sequence[Tensor]
) -> Sequence[Tensor]:
    """(out, *states after), differentiably where any of the tensors asks for it."""
    learned = tuple([i for i, p in enumerate(params) if p.requires_grad])
    learns = x.requires_grad or any(s is not None and s.requires_grad for s in states)
    return run_known(step, x, states, params, learned, learns)
