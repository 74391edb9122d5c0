"""Whole sequences of one configuration, called again and again: what a layer that is given them has established.

A backend may offer `prepare_sequence(neuron, config, x, params, derivations) -> PreparedSequence | None`. What such a
sequence is called with has been compared with what it was prepared for by the caller; nothing is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from plugin_accel.neurons.config import Config
from plugin_accel.neurons.neuron import Derived, Kernels, Neuron
from plugin_accel.neurons.sequence import run_unchecked


class Derivation(NamedTuple):
    """A time constant behind the parameters of a call, from which others of them follow; see `Derived`."""

    tau: int
    """Its position, behind those of the kernels."""
    alpha: int
    rest: int | None


class Derivations(NamedTuple):
    """Those of a call."""

    of: tuple[Derivation, ...]
    slope: Callable[[Tensor, Tensor], Tensor]
    """(alpha, tau) -> d alpha / d tau"""


class PreparedSequence(Protocol):
    """A sequence for inputs of one shape, fp32 and dense; parameters of the shapes it was prepared for."""

    def run(
        self,
        x: Tensor,
        states: Sequence[Tensor],
        params: Sequence[Tensor],
        learned: tuple[int, ...],
        learns: bool,
    ) -> Sequence[Tensor]:
        """(out, *states after), the mean last where the neuron gives one; differentiable where something asks for it.

        Args:
            x: Input.
            states: Before the first step.
            params: Of the kernels, then the time constants.
            learned: Positions of those that require a gradient.
            learns: Whether the input or a state does.
        """
        ...


class GeneralSequence:
    """See `PreparedSequence`: over any backend's kernels."""

    def __init__(
        self,
        neuron: Neuron,
        kernels: Kernels,
        config: Config,
        derivations: Derivations | None = None,
    ) -> None:
        self._neuron, self._kernels, self._config, self._derivations = neuron, kernels, config, derivations
        self._count = len(neuron.params(config))

    def run(
        self,
        x: Tensor,
        states: Sequence[Tensor],
        params: Sequence[Tensor],
        learned: tuple[int, ...],
        learns: bool,
    ) -> Sequence[Tensor]:
        """See `PreparedSequence`."""
        derived: tuple[Derived, ...] = ()
        if self._derivations is not None:
            of, slope = self._derivations
            if learned and torch.is_grad_enabled():
                derived = tuple(
                    [
                        Derived(params[d.tau], slope(params[d.alpha], params[d.tau]), d.alpha, d.rest)
                        for d in of
                        if d.tau in learned
                    ]
                )
            params = params[: self._count]
        made = run_unchecked(self._neuron, self._kernels, self._config, x, states, params, derived=derived, plain=True)
        return (made.out, *made.last) if made.mean is None else (made.out, *made.last, made.mean)


def prepared_sequence(
    neuron: Neuron,
    backend: Any,
    config: Config,
    x: Tensor,
    params: Sequence[Tensor],
    derivations: Derivations | None = None,
) -> PreparedSequence:
    """What the backend offers, or its kernels by the general way; `params`: those of the kernels."""
    prepare = getattr(backend, "prepare_sequence", None)
    made: PreparedSequence | None = None if prepare is None else prepare(neuron, config, x, params, derivations)
    return GeneralSequence(neuron, backend, config, derivations) if made is None else made
