"""The modes of torch that are on."""

from __future__ import annotations

import torch
from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

__all__ = ["capturing", "default_devices", "has_function_mode", "is_traced"]


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
