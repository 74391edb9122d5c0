"""Parameters of snnTorch layers as the kernels take them, by the very operations of snnTorch.

Each function gives those before and those after (threshold, graded) in the kernels' order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from plugin_accel.hosts.sequences import Refused
from plugin_accel.modes import is_traced

BETA = ("beta", "threshold", "graded_spikes_factor")
BETA_AND_ALPHA = (*BETA, "alpha")
"""For `Form.direct`."""

Params = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def beta(layer: Any) -> Params:
    """Of Leaky and RLeaky."""
    return (layer.beta,), ()


def beta_and_alpha(layer: Any) -> Params:
    """Of Synaptic and RSynaptic."""
    return (layer.beta,), (layer.alpha,)


def _tau(alpha: Tensor, beta: Tensor) -> Tensor:
    a, b = torch.log(alpha.clamp(0, 1)), torch.log(beta.clamp(0, 1))
    return a / (b - a) + 1


def _cacheable(*tensors: Tensor) -> bool:
    """Whether what follows from these tensors may be computed once for their values."""
    return not is_traced() and all(t.dim() == 0 and t.device.type == "cpu" and not t.requires_grad for t in tensors)


def _restored(values: tuple[tuple[Any, torch.dtype], ...]) -> list[Tensor]:
    return [torch.tensor(value, dtype=dtype, device="cpu") for value, dtype in values]


def _values(*tensors: Tensor) -> tuple[tuple[Any, torch.dtype], ...]:
    return tuple((t.item(), t.dtype) for t in tensors)


@lru_cache(maxsize=256)
def _known_tau(values: tuple[tuple[Any, torch.dtype], ...]) -> Tensor:
    with torch.inference_mode(False):  # what is kept here must do for training too
        return _tau(*_restored(values))


def alpha_beta_tau(layer: Any) -> Params:
    """Of Alpha: tau = log a / (log b - log a) + 1."""
    alpha, beta = layer.alpha, layer.beta
    tau = _known_tau(_values(alpha, beta)) if _cacheable(alpha, beta) else _tau(alpha, beta)
    return (alpha, beta, tau), ()


def _conductance(resistance: Tensor, capacity: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    product = resistance * capacity
    return 1 - step / product, 1 / product


@lru_cache(maxsize=256)
def _known_conductance(values: tuple[tuple[Any, torch.dtype], ...]) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return _conductance(*_restored(values))


def lapicque(layer: Any) -> Params:
    """Of Lapicque: decay = 1 - dt / (R C), then R, 1 / (R C), dt. Its beta plays no part after construction.

    Raises:
        Refused: one of them needs a gradient: C is computed at construction and goes back only once.
    """
    given = layer.R, layer.C, layer.time_step
    if any(t.requires_grad for t in given):
        raise Refused("R, C or time_step needs a gradient, which snnTorch's layer gives only once (learn_beta)")
    decay, inverse = _known_conductance(_values(*given)) if _cacheable(*given) else _conductance(*given)
    return (decay,), (given[0], inverse, given[2])
