"""Norse: which of its modules are neurons. None of them is accelerated yet; time fusion runs them as they are."""

from __future__ import annotations

from collections.abc import Mapping

from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import nn

_NEURONS = (SNN, SNNCell, SNNRecurrent, SNNRecurrentCell)


def classes() -> Mapping[type[nn.Module], type[nn.Module]]:
    """Norse's classes and their accelerated subclasses."""
    return {}


def owns(module: nn.Module) -> bool:
    """Whether this is a neuron of Norse."""
    return isinstance(module, _NEURONS)


def reasons(module: nn.Module) -> tuple[str, ...]:
    """Why a module, converted, runs Norse's own forward."""
    return ()
