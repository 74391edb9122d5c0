"""What brings a layer's spikes back to it, where that is nothing but a matrix and a bias."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from plugin_accel.modes import has_global_hook

FP32 = torch.float32


class Linear(NamedTuple):
    """y = weight z + bias over the last dimension."""

    weight: Tensor
    bias: Tensor | None


def _plain(module: nn.Module) -> bool:
    """Whether a call runs the class's own forward and nothing else."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or has_global_hook()
    )


def _tensor(owner: nn.Module, name: str, shape: tuple[int, ...]) -> Tensor | None:
    p = owner._parameters.get(name)
    if type(p) is not nn.Parameter or p.dtype is not FP32 or not p.is_cpu or p.shape != shape:
        return None
    return p if p.layout is torch.strided and not p.is_neg() else None


def linear_of(module: Any, units: int, flat: bool = False) -> Linear | None:
    """The square nn.Linear that a module is, in fp32 on the CPU; None for anything else.

    Hooks, parametrisations and subclasses are something else.

    Args:
        module: What the layer calls.
        units: Of the input and the output.
        flat: Also take one between an nn.Flatten that leaves the batch alone and maybe an nn.Unflatten.
    """
    if flat and type(module) is nn.Sequential and _plain(module):
        inner = [m for m in module if not _reshapes(m)]
        if len(inner) != 1 or not all(_plain(m) for m in module) or type(module[0]) is nn.Unflatten:
            return None
        (module,) = inner
    if type(module) is not nn.Linear or not _plain(module) or torch.is_autocast_enabled("cpu"):
        return None
    weight = _tensor(module, "weight", (units, units))
    bias = module._parameters.get("bias")
    if weight is None or (bias is not None and _tensor(module, "bias", (units,)) is None):
        return None
    return Linear(weight, bias)


def _reshapes(module: nn.Module) -> bool:
    if type(module) is nn.Flatten:
        return module.start_dim == 1 and module.end_dim == -1
    return type(module) is nn.Unflatten and module.dim == 1
