"""Memory for what the `cpu` kernels write: recycled where fresh memory would cost page faults."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

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


def granted_bytes(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The bytes that Linux's control groups grant this process; None where none of them says so."""
    found = []
    try:
        for line in groups.read_text().splitlines():
            _, kinds, own = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            base, name = (root / "memory", "memory.limit_in_bytes") if kinds else (root, "memory.max")
            path = base / own.strip("/")
            # Within a container the path may be that outside of it, and the root its own group.
            for group in (path, *path.parents):
                if group != base and base not in group.parents:
                    break
                if (group / name).is_file():
                    found.append((group / name).read_text().strip())
    except (OSError, ValueError):
        return None
    return min((int(text) for text in found if text.isdecimal()), default=None)
