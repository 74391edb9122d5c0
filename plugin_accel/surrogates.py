"""Surrogate gradients d spike / d v that the kernels know by name, and their formulas in plain torch.

Every other elementwise callable `f(v, threshold)` is evaluated in torch, one time step at a time, and handed to the
kernel as a tensor: slower, never approximated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

SurrogateFn = Callable[[Tensor, Tensor], Tensor]
"""`f(v, threshold) -> d spike / d v`, with v the membrane before the reset."""

MAX_PARAMS = 5


@contextmanager
def trial() -> Iterator[None]:
    """A block that tries out a callable by autograd, apart from whatever the user's call is part of.

    `torch.utils.checkpoint` counts the tensors that are saved in a forward, and what is tried out once and remembered
    is missing from the forward that it repeats.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor),
    ):
        yield


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


def _constant(v: Tensor, th: Tensor, value: float) -> Tensor:
    return torch.full_like(v, value)


def _triangular(v: Tensor, th: Tensor, height: float) -> Tensor:
    return torch.where(v - th >= 0, -height, height).to(v.dtype)


def _fast_sigmoid(v: Tensor, th: Tensor, slope: float, bound: float) -> Tensor:
    d = v - th
    return (d > bound).to(v.dtype) / (slope * torch.abs(d) + 1) ** 2


def _atan(v: Tensor, th: Tensor, width: float) -> Tensor:
    return width / 2 / (1 + (math.pi / 2 * width * (v - th)) ** 2)


def _above_threshold(v: Tensor, th: Tensor) -> Tensor:
    return (v - th > 0).to(v.dtype)


def _sigmoid(v: Tensor, th: Tensor, slope: float) -> Tensor:
    e = torch.exp(-slope * (v - th))
    return torch.where(e == math.inf, 0.0, e / (e + 1) ** 2 * slope)


def _spike_rate_escape(v: Tensor, th: Tensor, steepness: float, height: float) -> Tensor:
    return height * torch.exp(-steepness * torch.abs(v - th - 1))


def _triangle(v: Tensor, th: Tensor, height: float) -> Tensor:
    return height * torch.relu(1 - torch.abs(v - th))


def _tanh(v: Tensor, th: Tensor, slope: float) -> Tensor:
    return 1 - torch.tanh((v - th) * slope) ** 2


def _circle(v: Tensor, th: Tensor, width: float) -> Tensor:
    square = (v - th) ** 2
    return (-(square / (2 * (width**2 + square) ** 1.5)) + 1 / (2 * torch.sqrt(width**2 + square))) * 2 * width


def _erfc(v: Tensor, th: Tensor, slope: float) -> Tensor:
    return 2 * torch.exp(-((slope * (v - th)) ** 2)) / math.sqrt(math.pi)


# name: (number in csrc/surrogates.h, number of parameters, formula)
_TABLE: dict[str, tuple[int, int, Callable[..., Tensor]]] = {
    "single_exponential": (1, 2, _single_exponential),
    "periodic_exponential": (2, 2, _periodic_exponential),
    "heaviside": (3, 1, _heaviside),
    "gaussian": (4, 3, _gaussian_surrogate),
    "multi_gaussian": (5, 5, _multi_gaussian),
    "constant": (6, 1, _constant),
    "triangular": (7, 1, _triangular),
    "fast_sigmoid": (8, 2, _fast_sigmoid),
    "atan": (9, 1, _atan),
    "above_threshold": (10, 0, _above_threshold),
    "sigmoid": (11, 1, _sigmoid),
    "spike_rate_escape": (12, 2, _spike_rate_escape),
    "triangle": (13, 1, _triangle),
    "tanh": (14, 1, _tanh),
    "circle": (15, 1, _circle),
    "erfc": (16, 1, _erfc),
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

    and (source: snntorch/surrogate.py @ 1.0.0):

    - `constant` (value): value; 1 is a straight-through estimator, 0 no gradient
    - `triangular` (height): height below the threshold, -height from there on
    - `fast_sigmoid` (slope, bound): 1[d > bound] / (slope |d| + 1)^2; bound -inf for none
    - `atan` (width): width / 2 / (1 + (pi/2 width d)^2)
    - `above_threshold` (): 1[d > 0]
    - `sigmoid` (slope): e / (e + 1)^2 slope with e = exp(-slope d); 0 where e overflows
    - `spike_rate_escape` (steepness, height): height exp(-steepness |d - 1|)

    and (source: norse/torch/functional/threshold.py @ 1.1.0):

    - `triangle` (height): height relu(1 - |d|)
    - `tanh` (slope): 1 - tanh(slope d)^2
    - `circle` (width): 2 width (1 / (2 sqrt(width^2 + d^2)) - d^2 / (2 (width^2 + d^2)^1.5))
    - `erfc` (slope): 2 exp(-(slope d)^2) / sqrt(pi)
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
