"""Surrogates without a kernel: any elementwise callable of torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plugin_accel.neurons.layout import steps
from plugin_accel.surrogates import SurrogateFn


def evaluate_surrogate(fn: SurrogateFn, kept: Tensor, thresholds: Sequence[Tensor] | Tensor, time_dim: int) -> Tensor:
    """d spike / d v of an arbitrary callable, step by step from the last to the first."""
    out = torch.empty_like(kept)
    into, values = steps(out, time_dim), steps(kept, time_dim)
    for t in range(len(values) - 1, -1, -1):
        threshold = thresholds if isinstance(thresholds, Tensor) else thresholds[t]
        into[t].copy_(fn(values[t], threshold))
    return out
