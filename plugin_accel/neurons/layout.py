"""How an input of any rank and memory format is seen as [outer, time, inner], without transposes or copies.

Elementwise dynamics do not care in which order the neurons of a sample lie in memory. Outputs and states therefore keep
the input's own order of the inner dimensions (channels-last stays channels-last), as elementwise torch operations do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor


def _dense(sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the dimensions fill one run of memory in some order."""
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(strides, sizes, strict=True) if si != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def contiguous_strides(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor, as torch gives them."""
    strides = [1] * len(sizes)
    for i in range(len(sizes) - 2, -1, -1):
        strides[i] = strides[i + 1] * max(sizes[i + 1], 1)
    return tuple(strides)


def _same(a: tuple[int, ...], b: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    return all(x == y for x, y, n in zip(a, b, sizes, strict=True) if n != 1)


STEP = -1
"""`time_dim` of an input that is a single step and has no time dimension."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes and strides shared by all tensors of one call.

    Attributes:
        shape: Of input and output.
        strides: Of the output: [outer, time, inner] dense, inner dimensions in the input's order.
        state_shape: `shape` without time.
        state_strides: Of a state.
        sizes: (outer, time, inner).
        outer_dims: How many dimensions of a state are outer ones; the others are inner.
        time_dim: Position of time in `shape`, or STEP.
        dense_rows: (outer, time, inner) strides of the output.
        elements: Of input and output.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    state_shape: tuple[int, ...]
    state_strides: tuple[int, ...]
    sizes: tuple[int, int, int]
    outer_dims: int
    time_dim: int
    dense_rows: tuple[int, int, int]
    elements: int

    def rows(self, t: Tensor) -> tuple[int, int, int] | None:
        """(outer, time, inner) strides by which a kernel can walk `t`; None if it cannot."""
        k, strides = self.outer_dims, t.stride()
        if self.time_dim == STEP:
            time, inner_strides, own = 0, strides[k:], self.strides[k:]
        else:
            time, inner_strides, own = strides[k], strides[k + 1 :], self.strides[k + 1 :]
        inner_sizes = self.state_shape[k:]
        if _same(inner_strides, own, inner_sizes):
            inner = 1
        elif all(s == 0 for s, n in zip(inner_strides, inner_sizes, strict=True) if n != 1):
            inner = 0
        else:
            return None
        if k == 0:
            return (0, time, inner)
        outer = strides[k - 1]  # several outer dimensions must count as one
        if k > 1 and not _same(
            strides[:k], tuple(outer * s for s in contiguous_strides(self.shape[:k])), self.shape[:k]
        ):
            return None
        return (outer, time, inner)

    def readable(self, t: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """`t`, copied into this layout if need be, with its (outer, time, inner) strides."""
        negated = t.is_neg()  # memory that torch still has to negate when it is read
        if t.stride() == self.strides and not negated:
            return t, self.dense_rows
        rows = None if negated else self.rows(t)
        if rows is None:
            t = torch.empty_strided(self.shape, self.strides, dtype=t.dtype, device=t.device).copy_(t)
            rows = self.dense_rows
        return t, rows

    def state(self, t: Tensor) -> Tensor:
        """A state in this layout, copied if need be."""
        strides = t.stride()
        if not t.is_neg() and (strides == self.state_strides or _same(strides, self.state_strides, self.state_shape)):
            return t
        return torch.empty_strided(self.state_shape, self.state_strides, dtype=t.dtype, device=t.device).copy_(t)


def layout_of(x: Tensor, time_dim: int) -> Layout:
    """The layout of a call with input `x`."""
    shape = tuple(x.shape)
    if x.is_contiguous() and not torch.compiler.is_compiling():
        return contiguous_layout(shape, time_dim)
    return _layout(shape, tuple(x.stride()), time_dim)


def symbolic_layout_of(x: Tensor, time_dim: int) -> Layout:
    """`layout_of` for a fake tensor, whose sizes may be symbols."""
    return _layout(tuple(x.shape), tuple(x.stride()), time_dim)


@lru_cache(maxsize=512)
def contiguous_layout(shape: tuple[int, ...], time_dim: int) -> Layout:
    """The layout of a call with a contiguous input of this shape."""
    return _layout(shape, contiguous_strides(shape), time_dim)


def _layout(shape: tuple[int, ...], given: tuple[int, ...], time_dim: int) -> Layout:
    k = min(1, len(shape) - 1) if time_dim == STEP else time_dim
    skip = k if time_dim == STEP else k + 1
    outer_shape, inner_shape, inner_strides = shape[:k], shape[skip:], given[skip:]
    inner = prod(inner_shape)
    time = 1 if time_dim == STEP else shape[time_dim]
    plain = contiguous_strides(inner_shape)
    if not _dense(inner_shape, inner_strides) or _same(inner_strides, plain, inner_shape):
        inner_strides = plain
    outer_strides = tuple(s * inner for s in contiguous_strides(outer_shape))
    state_shape, state_strides = outer_shape + inner_shape, outer_strides + inner_strides
    strides = state_strides
    if time_dim != STEP:
        strides = (*(s * time for s in outer_strides), inner, *inner_strides)
    return Layout(
        shape,
        strides,
        state_shape,
        state_strides,
        (prod(outer_shape), time, inner),
        k,
        time_dim,
        (time * inner, inner, 1),
        prod(outer_shape) * time * inner,
    )


def steps(x: Tensor, time_dim: int) -> Sequence[Tensor]:
    """`x` step by step."""
    return (x,) if time_dim == STEP else x.unbind(time_dim)


def stack(x: Sequence[Tensor], time_dim: int) -> Tensor:
    """Steps put together again."""
    return x[0].clone() if time_dim == STEP else torch.stack(list(x), time_dim)


def constant_base(x: Tensor, time_dim: int) -> Tensor | None:
    """Of an input that was expanded over time: the tensor of one step, with its own place in the graph; else None.

    With it the gradient can come summed over time, where that of the expanded input would have to be made first.
    """
    if time_dim == STEP or x.stride(time_dim) != 0 or x.shape[time_dim] < 2:
        return None
    base = x._base
    if base is None or base.data_ptr() != x.data_ptr() or not base.requires_grad:
        return None
    shape, strides = (tuple(of[:time_dim] + of[time_dim + 1 :]) for of in (tuple(x.shape), tuple(x.stride())))
    if base.shape == shape and base.stride() == strides:
        return base
    if base.numel() == prod(shape) and base.is_contiguous() and strides == contiguous_strides(shape):
        return base.view(shape)
    return None
