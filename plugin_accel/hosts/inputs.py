"""What the kernels can see through: shared by hosts whose layers take one tensor after another."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _get_tracing_state, _len_torch_dispatch_stack
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from plugin_accel.hosts.constants import beside, constant
from plugin_accel.hosts.sequences import Refused
from plugin_accel.modes import is_traced


def check_input(x: Any) -> None:
    """Refuses what the kernels cannot see through."""
    if torch.compiler.is_compiling():
        return
    if type(x) is not Tensor and type(x) is not nn.Parameter:
        raise Refused(f"input is a {type(x).__name__}")
    if x.layout is not torch.strided:
        raise Refused(f"input is {x.layout}")
    if forward_ad._current_level >= 0 or peek_interpreter_stack() is not None:
        raise Refused("a transform of torch.func or forward-mode differentiation is active")
    if _get_tracing_state() is not None:
        raise Refused("torch.jit is tracing")


def is_watched() -> bool:
    """Whether something looks at every operation of torch, and must see one."""
    return (
        _len_torch_dispatch_stack() > 0
        or peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or _get_tracing_state() is not None
    )


@lru_cache(maxsize=1024)
def _known_number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept here must do for training too
        return torch.full((), value, dtype=dtype, device=device)


def number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A Python number as a 0-d tensor; not to be written to."""
    if device.type != "cpu":
        return constant(value, dtype, device)
    if is_traced():
        return torch.full((), value, dtype=dtype, device=device)
    return _known_number(value, dtype, device)


def as_param(name: str, p: Any, x: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A host's parameter, a number or a tensor, as the kernels read it beside the input `x`, for states of `shape`.

    Torch lets a number or a 0-d tensor widen nothing, and takes one of the CPU along to any device.

    Raises:
        Refused: the host's own arithmetic would give something else.
    """
    if not isinstance(p, Tensor):
        if type(p) not in (int, float):
            raise Refused(f"{name} is a {type(p).__name__}")
        return number(float(p), dtype, x.device)
    if p.dtype.is_complex or p.dtype is torch.bool:
        raise Refused(f"{name} is {p.dtype}")
    if p.dim():
        if p.device != x.device:
            raise Refused(f"{name} is on {p.device}, the input on {x.device}")
        if p.dtype is torch.float64 and dtype is not torch.float64:
            raise Refused(f"{name} is a float64 tensor, to which torch widens what it meets")
        if p.dim() > len(shape) or any(n not in (1, m) for n, m in zip(p.shape[::-1], shape[::-1], strict=False)):
            raise Refused(f"{name} of shape {tuple(p.shape)} does not broadcast to the state's {tuple(shape)}")
    elif p.device != x.device:
        if p.device.type != "cpu":
            raise Refused(f"{name} is on {p.device}, the input on {x.device}")
        p = beside(p, x.device, dtype)
    made: Tensor = p if p.dtype is dtype else p.to(dtype)
    return made


def is_autocast(x: Tensor) -> bool:
    """Whether autocast is on; not every kind of device has it."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)
