"""Products with a matrix over many rows, in the recycled memory of the `cpu` backend.

The products are torch's own, and give torch's numbers; what differs is where the results lie, and that the gradients'
products take numbers below the smallest normal one for zero, as the kernels' backward does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.backends.cpu_memory import empty


@contextmanager
def flushing() -> Iterator[None]:
    """Numbers below the smallest normal one are zero, in this thread and in those that compute for it."""
    before = _C.flush_denormals(torch.get_num_threads())
    try:
        yield
    finally:
        _C.set_float_modes(before)


class _Linear(torch.autograd.Function):
    """(x [rows, in], weight [out, in], bias [out] or None) -> x weight^T + bias, [rows, out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.set_materialize_grads(False)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return None, None, None
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        if torch.is_grad_enabled():  # create_graph: what torch can differentiate again
            g_x = g @ weight if of_x else None
            return g_x, g.t() @ x if of_weight else None, g.sum(0) if of_bias else None
        with flushing():
            g_x = torch.mm(g, weight, out=empty((len(x), x.shape[1]), x.dtype)) if of_x else None
            return g_x, torch.mm(g.t(), x) if of_weight else None, g.sum(0) if of_bias else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = empty((len(x), len(weight)), x.dtype)
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`, differentiably."""
    given = [t for t in (x, weight, bias) if t is not None]
    if (
        x.dim() < 2
        or weight.dim() != 2
        or x.dtype not in (torch.float32, torch.float64)
        or any(t.dtype is not x.dtype or t.layout is not torch.strided or not t.is_cpu for t in given)
        or torch.is_autocast_enabled("cpu")
    ):
        return torch.nn.functional.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        made: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    else:
        made = _product(rows, weight, bias)
    return made.view(*x.shape[:-1], len(weight))
