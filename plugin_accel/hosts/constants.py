"""Numbers of a layer as 0-d tensors beside its data, wherever that is.

torch lets a 0-d tensor on the CPU meet data on a GPU; kernels read it from the GPU's own memory. What has no gradient
is copied there once for each value: a copy at every call would cost more than a short sequence, and no CUDA graph could
hold it. What is kept is never given up, since a graph may read it, and nothing is kept that a graph has made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from plugin_accel import modes

_ON_CPU = {dtype: torch.ones((), dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)}


_known: dict[tuple[float, bool, torch.dtype, torch.device], Tensor] = {}
_MOST = 1 << 14  # of half a kilobyte each; what is known is never forgotten, since a captured graph may read it


def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number on a device."""
    if torch.compiler.is_compiling():  # torch.tensor would be a copy from the CPU at each call of what is compiled
        return torch.full((), value, dtype=dtype, device=device)
    if device.type == "cpu":
        return torch.tensor(value, dtype=dtype, device=device)
    key = (value, math.copysign(1.0, value) < 0, dtype, device)  # 0.0 == -0.0
    found = None if modes.is_traced() else _known.get(key)
    if found is None:
        with torch.inference_mode(False):  # what is kept here must do for training too
            found = torch.full(
                (), value, dtype=dtype, device=device
            )  # by a kernel: a copy would wait, or end a capture
        if value == value and len(_known) < _MOST and not (modes.is_traced() or modes.capturing(device)):
            _known[key] = found
    return found


def one(dtype: torch.dtype, device: torch.device) -> Tensor:
    """1 on a device."""
    if device.type == "cpu" and (torch.compiler.is_compiling() or not modes.is_traced()):
        return _ON_CPU[dtype]
    return constant(1.0, dtype, device)


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
        return p.to(device, non_blocking=True)  # from pageable memory: it has been read when the call returns
    return constant(p.item(), dtype or p.dtype, device)
