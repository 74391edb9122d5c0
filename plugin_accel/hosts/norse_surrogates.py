"""Norse's threshold methods as the kernels name them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from norse.torch.functional.threshold import threshold
from torch import Tensor

from plugin_accel.surrogates import Surrogate, trial

NO_GRADIENT = Surrogate("constant", (0.0,))
"""Of the method "heaviside": the spikes have no gradient at all."""


def _candidates(method: str, alpha: float) -> tuple[Surrogate, ...]:
    # Which of the two SuperSpike is depends on the release.
    made = {
        "super": (("fast_sigmoid", (1.0, -torch.inf)), ("fast_sigmoid", (alpha, -torch.inf))),
        "triangle": (("triangle", (alpha,)),),
        "tanh": (("tanh", (alpha,)),),
        "circ": (("circle", (alpha,)),),
        "heavi_erfc": (("erfc", (alpha,)),),
    }
    return tuple(Surrogate(*candidate) for candidate in made.get(method, ()))


@lru_cache(maxsize=256)
def surrogate(method: str, alpha: float) -> Surrogate | None:
    """The kernels' form of a threshold method: one that fires and differentiates as Norse's, on a few values.

    None if there is none.
    """
    if method == "heaviside":
        return NO_GRADIENT
    with trial():
        z = torch.tensor([-1.5, -0.4, -0.01, 0.0, 0.01, 0.4, 1.2, 2.5], device="cpu", requires_grad=True)
        for candidate in _candidates(method, alpha):
            spikes = threshold(z, method, torch.as_tensor(alpha, device="cpu"))
            (slope,) = torch.autograd.grad(spikes.sum(), z)
            ours = candidate(z.detach(), torch.zeros((), device="cpu"))
            if torch.equal(spikes, (z > 0).float()) and torch.allclose(slope, ours, rtol=1e-4, atol=1e-7):
                return candidate
    return None


_IGNORES_ALPHA = surrogate("super", 3.0) == Surrogate("fast_sigmoid", (1.0, -torch.inf))
"""Whether this release's SuperSpike leaves alpha out."""


def reads_alpha(p: Any) -> bool:
    """Whether the method makes use of alpha."""
    return p.method != "heaviside" and not (p.method == "super" and _IGNORES_ALPHA)


def _alpha(p: Any) -> float:
    return float(p.alpha) if reads_alpha(p) else 100.0


def per_neuron(p: Any) -> bool:
    """Whether there is a steepness for each neuron."""
    return isinstance(p.alpha, Tensor) and p.alpha.numel() > 1 and reads_alpha(p)


def surrogate_of(p: Any) -> Surrogate | None:
    """The kernels' surrogate for parameters with method and alpha; None where there is none, or one per neuron."""
    return None if per_neuron(p) else surrogate(p.method, _alpha(p))


def slope_of(p: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """d spike / d v by Norse's own threshold function, for a steepness per neuron."""

    def slope(v: Tensor, v_th: Tensor) -> Tensor:
        with torch.enable_grad():
            x = (v - v_th).detach().requires_grad_()
            (found,) = torch.autograd.grad(threshold(x, p.method, p.alpha).sum(), x)
        return found

    return slope
