"""Surrogate gradients d spike / d v that the kernels know by name, and their formulas in plain torch.

Every other elementwise callable `f(v, threshold)` is evaluated in torch, one time step at a time, and handed to the
kernel as a tensor: slower, never approximated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SurrogateFn = Callable[[Tensor, Tensor], Tensor]
"""`f(v, threshold) -> d spike / d v`, with v the membrane before the reset."""

MAX_PARAMS = 5


def _gaussian(d: Tensor, mu: float, sigma: float) -> Tensor:
    return torch.exp(-((d - mu) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))


def _single_exponential(v: Tensor, th: Tensor, width: float, scale: float) -> Tensor:
    return scale / (th * width) * torch.exp(-torch.abs(v - th) / (th * width))


def _periodic_exponential(v: Tensor, th: Tensor, width: float, scale: float) -> Tensor:
    n = v / th - 0.5
    folded = th * (2 * (n - torch.floor(n)) - 1)
    return scale * torch.exp(-torch.abs(torch.where(v < th, v - th, folded)) / width)


def _heaviside(v: Tensor, th: Tensor, window: float) -> Tensor:
    return (v >= th - window).to(v.dtype) / th


def _gaussian_surrogate(v: Tensor, th: Tensor, mu: float, sigma: float, scale: float) -> Tensor:
    return _gaussian(v - th, mu, sigma) * scale


def _multi_gaussian(v: Tensor, th: Tensor, mu: float, sigma: float, h: float, s: float, scale: float) -> Tensor:
    d = v - th
    wide = _gaussian(d, sigma, s * sigma) + _gaussian(d, -sigma, s * sigma)
    return ((1 + h) * _gaussian(d, mu, sigma) - h * wide) * scale


# name: (number in csrc/surrogates.h, number of parameters, formula)
_TABLE: dict[str, tuple[int, int, Callable[..., Tensor]]] = {
    "single_exponential": (1, 2, _single_exponential),
    "periodic_exponential": (2, 2, _periodic_exponential),
    "heaviside": (3, 1, _heaviside),
    "gaussian": (4, 3, _gaussian_surrogate),
    "multi_gaussian": (5, 5, _multi_gaussian),
}

PRECOMPUTED = (0, *(0.0,) * MAX_PARAMS)
"""What a kernel is told when `dspike_dv` comes as a tensor."""


@dataclass(frozen=True)
class Surrogate:
    """A surrogate gradient with a kernel of its own.

    Formulas, with d = v - th (source: sinabs/activation/surrogate_gradient_fn.py @ 3.1.3):

    - `single_exponential` (width, scale): scale / (th width) exp(-|d| / (th width))
    - `periodic_exponential` (width, scale): scale exp(-|d'| / width), d' = d below th, else v folded with period th
    - `heaviside` (window): 1[v >= th - window] / th
    - `gaussian` (mu, sigma, scale): N(d; mu, sigma) scale
    - `multi_gaussian` (mu, sigma, h, s, scale):
      ((1 + h) N(d; mu, sigma) - h N(d; sigma, s sigma) - h N(d; -sigma, s sigma)) scale
    """

    name: str
    params: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.name not in _TABLE:
            raise ValueError(f"surrogate: expected one of {sorted(_TABLE)}, got {self.name!r}; pass a callable instead")
        count = _TABLE[self.name][1]
        if len(self.params) != count:
            raise ValueError(f"surrogate {self.name}: expected {count} parameters, got {len(self.params)}")

    @property
    def packed(self) -> tuple[float, ...]:
        """(number, five parameters) as the kernels take it."""
        number, count, _ = _TABLE[self.name]
        return (number, *self.params, *(0.0,) * (MAX_PARAMS - count))

    def __call__(self, v: Tensor, threshold: Tensor) -> Tensor:
        """d spike / d v in plain torch, shape and dtype of `v`."""
        return _TABLE[self.name][2](v, threshold, *self.params)


def names() -> list[str]:
    """The surrogates that have a kernel."""
    return sorted(_TABLE)
