"""Numbers of a layer as 0-d tensors beside its data, wherever that is.

torch lets a 0-d tensor on the CPU meet data on a GPU; kernels read it from the GPU's own memory. What has no gradient
is copied there once for each value: a copy at every call would cost more than a short sequence, and no CUDA graph could
hold it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_ON_CPU = {dtype: torch.ones((), dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)}


@lru_cache(maxsize=1024)
def _kept(value: float, negative: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept here must do for training too
        return torch.tensor(value, dtype=dtype, device=device)


def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number on a device."""
    if device.type == "cpu" or torch.compiler.is_compiling() or value != value:
        return torch.tensor(value, dtype=dtype, device=device)
    return _kept(value, math.copysign(1.0, value) < 0, dtype, device)  # 0.0 == -0.0


def one(dtype: torch.dtype, device: torch.device) -> Tensor:
    """1 on a device."""
    return _ON_CPU[dtype] if device.type == "cpu" else constant(1.0, dtype, device)


def resting(p: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """A state that a host starts from, if it is a number on the CPU beside data that is elsewhere; None of another.

    It is a leaf that nobody sees, but its output asks for a gradient where it does. Were it copied, the gradient would
    have to come back to the CPU, for which backward would wait.
    """
    if p.dim() or not p.is_cpu or device.type == "cpu" or not p.is_leaf or torch.compiler.is_compiling():
        return None
    return torch.full(tuple(shape), p.item(), dtype=dtype, device=device).requires_grad_(p.requires_grad)


def beside(p: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A 0-d tensor of the CPU on `device`, where torch would take it as it is; any other tensor unchanged.

    It may have become one of `dtype` already, if it had to be copied.
    """
    if p.device == device or p.dim() or not p.is_cpu:
        return p
    if torch.compiler.is_compiling() or (p.requires_grad and torch.is_grad_enabled()):
        return p.to(device)
    return constant(p.item(), dtype or p.dtype, device)
