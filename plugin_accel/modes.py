"""The modes of torch that are on."""

from __future__ import annotations

import torch
from torch._C import _len_torch_function_stack
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

__all__ = ["default_devices", "has_function_mode"]


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
