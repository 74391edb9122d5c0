"""What a CUDA kernel is told: tensors as addresses and strides, packed as csrc/cuda/call.h has them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from plugin_accel.errors import InputError
from plugin_accel.neurons import Config
from plugin_accel.neurons.layout import Layout

Row = tuple[int, int, int, int]
"""(address, outer stride, time stride, inner stride)"""

ABSENT: Row = (0, 0, 0, 0)
MAX_REDUCTIONS = 16


class ParamView:
    """A parameter of several values as a kernel reads it, and the shape in which its gradient comes back."""

    __slots__ = ("argument", "by_inner", "by_outer", "keep", "shape", "strides", "target")

    def __init__(self, p: Tensor, layout: Layout) -> None:
        self.target = p.shape
        try:
            full = p.detach().expand(layout.state_shape)
        except RuntimeError:
            raise InputError(
                f"parameter: expected a shape that broadcasts to {layout.state_shape}, got {tuple(p.shape)}; "
                "give it one value, one per neuron or one per sample and neuron"
            ) from None
        k = layout.outer_dims
        self.by_outer = any(s != 0 and n != 1 for s, n in zip(full.stride()[:k], full.shape[:k], strict=True))
        self.by_inner = any(s != 0 and n != 1 for s, n in zip(full.stride()[k:], full.shape[k:], strict=True))
        self.strides: tuple[int, ...] | None = None
        if not self.by_inner:
            self.shape: tuple[int, ...] = (*full.shape[:k], *(1,) * (full.dim() - k))
            self.keep = full[(slice(None),) * k + (slice(0, 1),) * (full.dim() - k)].reshape(-1).contiguous()
            self.argument = (self.keep.data_ptr(), 1, 0)
            return
        self.shape = tuple(full.shape) if self.by_outer else (1,) * k + tuple(full.shape[k:])
        self.strides = layout.state_strides
        self.keep = torch.empty_strided(self.shape, self.strides, dtype=p.dtype, device=p.device)
        self.keep.copy_(full if self.by_outer else full[(slice(0, 1),) * k])
        self.argument = (self.keep.data_ptr(), layout.sizes[2] if self.by_outer else 0, 1)

    def gradient(self) -> Tensor:
        """Uninitialised memory for the gradient."""
        if self.strides is None:
            return torch.empty(self.shape, dtype=self.keep.dtype, device=self.keep.device)
        return torch.empty_strided(self.shape, self.strides, dtype=self.keep.dtype, device=self.keep.device)

    def finished(self, gradient: Tensor) -> Tensor:
        """A gradient in the parameter's own shape."""
        return gradient if gradient.shape == self.target else gradient.sum_to_size(self.target)


def view_params(params: Sequence[Tensor], layout: Layout) -> tuple[list[ParamView | None], list[tuple[int, int, int]]]:
    """Views of the parameters, None of a single value; and of each (address, outer stride, inner stride)."""
    views = [None if p.numel() == 1 else ParamView(p, layout) for p in params]
    return views, [(p.data_ptr(), 0, 0) if v is None else v.argument for p, v in zip(params, views, strict=True)]


def address(t: Tensor | None) -> int:
    """Of a tensor's memory; 0 where there is none."""
    return 0 if t is None else t.data_ptr()


def empty(layout: Layout, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory of the input's shape."""
    return torch.empty_strided(layout.shape, layout.strides, dtype=dtype, device=like.device)


def empty_state(layout: Layout, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory of a state's shape."""
    return torch.empty_strided(layout.state_shape, layout.state_strides, dtype=dtype, device=like.device)


def same_rows(a: Sequence[int], b: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether two (outer, time, inner) strides walk alike."""
    return all(x == y for x, y, n in zip(a, b, sizes, strict=True) if n > 1)


def aligned(rows: Iterable[tuple[Row, int]], width: int) -> bool:
    """Whether `width` neighbours of every (row, bytes of an element) lie side by side and can be read at once."""
    return all(
        inner == 1 and at % (width * size) == 0 and outer % width == 0 and time % width == 0
        for (at, outer, time, inner), size in rows
    )


@lru_cache(maxsize=64)
def _forward_format(params: int, states: int) -> struct.Struct:
    return struct.Struct(f"=3qd2q{3 * params + 4 + states + 2 + 2 * states + 1}q")


def pack_forward(
    layout: Layout,
    config: Config,
    params: Sequence[tuple[int, int, int]],
    x: Row,
    first: Sequence[int],
    out: int,
    kept: int,
    records: Sequence[int],
    last: Sequence[int],
    total: int,
) -> bytes:
    """A ForwardCall; addresses of what is not wanted are 0."""
    every = [n for p in params for n in p]
    every += [*x, *first, out, kept, *(records or [0] * len(first)), *last, total]
    return _forward_format(len(params), len(first)).pack(*layout.sizes, *config.packed_flags, *every)


@lru_cache(maxsize=64)
def _backward_format(params: int, states: int) -> struct.Struct:
    before, after = 3 * params + 8 + states, 12 + 5 * states + 3 + states + 1 + params + 1
    return struct.Struct(f"=3qd2q{before}q5d{after}q")


def pack_backward(
    layout: Layout,
    config: Config,
    params: Sequence[tuple[int, int, int]],
    x: Row,
    kept: Row,
    first: Sequence[int],
    surrogate: Sequence[float],
    dspike: Row,
    g_out: Row,
    g_kept: Row,
    g_records: Sequence[Row],
    g_last: Sequence[int],
    g_mean: int,
    summed: bool,
    g_x: int,
    g_first: Sequence[int],
    by_column: bool,
    g_params: Sequence[int],
    scratch: int,
) -> bytes:
    """A BackwardCall; addresses of what is not there or not wanted are 0."""
    before = [n for p in params for n in p] + [*x, *kept, *first]
    records = [n for row in (g_records or [ABSENT] * len(first)) for n in row]
    after = [*dspike, *g_out, *g_kept, *records, *g_last, g_mean, int(summed), g_x, *g_first, int(by_column)]
    return _backward_format(len(params), len(first)).pack(
        *layout.sizes, *config.packed_flags, *before, *surrogate, *after, *g_params, scratch
    )


_REDUCE = struct.Struct(f"=2qd{2 * MAX_REDUCTIONS}q")


def pack_reduce(rows: int, n: int, divisor: float, pairs: Sequence[tuple[int, int]]) -> bytes:
    """A ReduceCall of (from, to) addresses."""
    missing = [0] * (MAX_REDUCTIONS - len(pairs))
    return _REDUCE.pack(rows, n, divisor, *[f for f, _ in pairs], *missing, *[t for _, t in pairs], *missing)
