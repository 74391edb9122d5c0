"""Memory for what the `cpu` kernels write: recycled where fresh memory would cost page faults."""

from __future__ import annotations

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


def empty(shape: tuple[int, ...]) -> Tensor:
    """Uninitialised fp32 memory, dense."""
    strides = contiguous_strides(shape)
    if shape[0] * strides[0] * 4 >= POOLED_BYTES:
        return pooled(shape, strides, torch.float32)
    return torch.empty(shape, dtype=torch.float32, device="cpu")
