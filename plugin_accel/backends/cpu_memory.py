"""Memory for what the `cpu` kernels write: recycled where fresh memory would cost page faults."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from plugin_accel import _C
from plugin_accel.neurons.layout import contiguous_strides

POOLED_BYTES = 1 << 16  # below this a fresh allocation costs no page fault worth saving


def pooled(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uninitialised recycled memory."""
    made: Tensor = from_dlpack(_C.empty(shape, strides, dtype.itemsize))
    return made


def empty(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Uninitialised memory, dense."""
    sizes = tuple(shape)
    count = prod(sizes)
    if count * dtype.itemsize < POOLED_BYTES:
        return torch.empty(sizes, dtype=dtype, device="cpu")
    if dtype.is_floating_point:
        return pooled(sizes, contiguous_strides(sizes), dtype)
    words = pooled(((count * dtype.itemsize + 3) // 4,), (1,), torch.float32)
    return words.view(dtype)[:count].view(sizes)
