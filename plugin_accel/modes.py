"""The modes and the global hooks of torch that are on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack
from torch.nn.modules import module as _module
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

__all__ = [
    "capturing",
    "default_devices",
    "has_function_mode",
    "has_global_hook",
    "is_checkpointed",
    "is_traced",
    "may_count_saved",
]

_HOOKS = [getattr(_module, f"_global_{when}_hooks") for when in ("forward", "forward_pre", "backward", "backward_pre")]


def has_global_hook() -> bool:
    """Whether every call of a module runs a hook; torch's own function for this came after 2.4."""
    return any(_HOOKS)


_saved_hooks: Callable[[bool], Any] | None = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
"""Not in torch 2.6."""


def may_count_saved() -> bool:
    """Whether there may be hooks on what is saved for backward, such as those of checkpointing, which count it."""
    return _saved_hooks is None or bool(_saved_hooks(False))


def is_checkpointed() -> bool:
    """Whether `torch.utils.checkpoint` counts what is saved, to find the same when it repeats the call."""
    name = "torch.utils.checkpoint"
    if _saved_hooks is not None:
        hooks = _saved_hooks(False)
        return hooks is not None and hooks[0].__module__ == name
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") != name:
        frame = frame.f_back
    return frame is not None


def has_function_mode() -> bool:
    """Whether a mode looks at every function of torch, other than those that give new tensors a default device."""
    if not _len_torch_function_stack():
        return False
    return any(type(mode) is not DeviceContext for mode in _get_current_function_mode_stack())


def default_devices() -> tuple[torch.device, ...]:
    """The devices of `torch.set_default_device` and of `with torch.device(...)`, as they are nested."""
    if not _len_torch_function_stack():
        return ()
    return tuple(mode.device for mode in _get_current_function_mode_stack() if type(mode) is DeviceContext)


def is_traced() -> bool:
    """Whether tensors that are made now may be none, such as the compiler's: they must not be kept."""
    return torch.compiler.is_compiling() or _len_torch_dispatch_stack() > 0


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is captured: what is made now holds no numbers before a replay, and must not be kept."""
    if device.type == "cpu":
        return False
    try:
        return torch.cuda.is_current_stream_capturing()
    except RuntimeError:  # a torch without CUDA
        return False
