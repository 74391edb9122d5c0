"""Clipping of gradients inside a graph: one factor for several tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Clip(torch.autograd.Function):
    """Identity whose gradients are scaled by min(1, most / (norm + 1e-6)), the norm being taken over all of them."""

    @staticmethod
    def forward(ctx: Any, most: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(most)
        ctx.set_materialize_grads(False)
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (most,) = ctx.saved_tensors
        given = [g for g in grads if g is not None]
        if not given:
            return (None, *grads)
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in given]))
        factor = torch.clamp(most.to(norm.dtype) / (norm + 1e-6), max=1.0)
        return (None, *(None if g is None else g * factor.to(g.dtype) for g in grads))


def clip_together(most: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, with the norm of their gradients together limited to `most` ([1])."""
    return _Clip.apply(most, *tensors)  # type: ignore[no-any-return, no-untyped-call]
