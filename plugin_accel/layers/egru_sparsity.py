"""Sparse training of EGRU: a loss on the activity."""

from __future__ import annotations

from torch import Tensor


def activity_loss(o: Tensor, target: float = 0.05) -> Tensor:
    """Mean over units of (rate - target)^2, the rate being the mean of the unit's events over time and batch.

    Args:
        o: Event indicators as `EGRU` gives them, [T, B, H] or [B, T, H]; their surrogate lets the loss reach weights
            and thresholds.
        target: Events per unit and step aimed at.

    Returns:
        A 0-d tensor, to be added to the task's loss with a weight (docs/egru.md: 1 to 10).
    """
    rates = o.flatten(0, -2).mean(0)
    return (rates - target).square().mean()
