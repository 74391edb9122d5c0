"""Weights in the order and layout of `nn.GRU`."""

from __future__ import annotations

import torch
from torch import Tensor

from plugin_accel.errors import InputError

GATES = 3
Parameters = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor]
"""(kernel, recurrent_kernel, bias, recurrent_bias, thr)"""


def _swapped(t: Tensor) -> Tensor:
    """The other order of the first two of three gates along the first dimension: z, r, g and r, z, n."""
    first, second, third = t.chunk(GATES, 0)
    return torch.cat((second, first, third))


def to_native(parameters: Parameters) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """(weight_ih, weight_hh, bias_ih, bias_hh) as `nn.GRU` has them: [3H, ...], gates r, z, n; copies."""
    kernel, recurrent, bias, recurrent_bias, _ = parameters
    biases = [None if b is None else _swapped(b.detach()) for b in (bias, recurrent_bias)]
    return _swapped(kernel.detach().t()), _swapped(recurrent.detach().t()), biases[0], biases[1]


def from_native(
    parameters: Parameters, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor | None, bias_hh: Tensor | None
) -> None:
    """Take over weights in `nn.GRU`'s order; biases that are None become zero.

    Raises:
        InputError: a shape does not fit, or there are biases for a layer without.
    """
    kernel, recurrent, bias, recurrent_bias, _ = parameters
    pairs = [("weight_ih", kernel, weight_ih), ("weight_hh", recurrent, weight_hh)]
    pairs += [("bias_ih", bias, bias_ih), ("bias_hh", recurrent_bias, bias_hh)]  # type: ignore[list-item]
    found = []
    for name, target, source in pairs:
        if target is None and source is not None:
            raise InputError(f"{name}: expected None for a layer without biases, got {tuple(source.shape)}")
        if target is None:
            continue
        if source is None:
            found.append((target, torch.zeros_like(target)))
        else:
            wanted = tuple(reversed(target.shape))
            if tuple(source.shape) != wanted:
                raise InputError(f"{name}: expected shape {wanted}, got {tuple(source.shape)}")
            found.append((target, _swapped(source.detach()).t() if source.dim() == 2 else _swapped(source.detach())))
    with torch.no_grad():
        for target, value in found:
            target.copy_(value)
