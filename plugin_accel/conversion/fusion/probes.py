"""Small questions that the recorder asks of tensors, functions and modules."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Unwatched",
    "autocast",
    "has_mask",
    "is_hooked",
    "random_state",
    "step_of",
    "version",
    "writes",
]


def version(tensor: Tensor) -> int:
    """How often a tensor was edited in place."""
    return -1 if tensor.is_inference() else tensor._version


def writes(name: str, kwargs: Any) -> bool:
    """Whether a function of this name edits an operand."""
    if ("out" in kwargs and kwargs["out"] is not None) or kwargs.get("inplace"):
        return True
    dunder = name.startswith("__") and name.endswith("__")
    return (
        name.endswith(" =")
        or name in ("__setitem__", "requires_grad_")
        or (
            (name.endswith("_") and not dunder)
            or (dunder and name.startswith("__i") and name not in ("__invert__", "__index__", "__int__"))
        )
    )


def has_mask(name: str, args: Any) -> bool:
    """Whether this indexes by a mask."""
    if name != "__getitem__":
        return False
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in index)


def is_hooked(module: nn.Module) -> bool:
    """Whether something is called before or after the module's forward."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks)


def autocast() -> tuple[Any, ...]:
    """What autocast does now."""
    return tuple(
        (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None)
        for kind in ("cpu", "cuda")
    )


def random_state() -> tuple[bytes, ...]:
    """The state of every generator that torch draws from by default."""
    states = [torch.default_generator.get_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += [torch.cuda.get_rng_state(device) for device in range(torch.cuda.device_count())]
    return tuple(ctypes.string_at(state.data_ptr(), state.numel()) for state in states)


def step_of(index: Any, shape: Sequence[int]) -> tuple[int, int] | None:
    """(dimension, step) if a subscript picks one step of one dimension and all of the others, else ``None``."""
    parts = index if isinstance(index, tuple) else (index,)
    if sum(type(part) is int for part in parts) != 1:
        return None
    dim, found = 0, None
    for part in parts:
        if type(part) is int:
            found = (dim, part % shape[dim])
            dim += 1
        elif part is Ellipsis:
            dim += len(shape) - (len(parts) - 1)
        elif isinstance(part, slice) and part == slice(None):
            dim += 1
        else:
            return None
    return found


class Unwatched:
    """A block whose Python code is ours, or is called as a whole."""

    def __enter__(self) -> None:
        self._before = sys.getprofile()
        sys.setprofile(None)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)
