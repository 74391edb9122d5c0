"""Which results of a neuron an input, a state or a parameter acts on: autograd gives the others no gradient at all.

An optimizer leaves a parameter without a gradient as it is, and one with a gradient of zeros to its weight decay. So
where a host's graph does not lead to a parameter, neither may ours.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from plugin_accel.neurons.config import Config
from plugin_accel.neurons.neuron import Incoming, Neuron
from plugin_accel.surrogates import Surrogate, trial

_NO_GRADIENT = Surrogate("constant", (0.0,))
OUT = "out"
"""The name of the output among the results; the others are the states."""


ANY = -1
"""Instead of what a tensor acts on: its hooks are Norse's, and cannot take None."""
_MOST_STEPS = 8
"""After as many steps there is no result that more would reach."""


def reached(neuron: Neuron, config: Config, steps: int = 1, fed: bool = False) -> dict[str, int]:
    """For "x", each state before and each parameter: the results it acts on, 1 for the output, 2 << k for state k.

    Args:
        neuron: The model.
        config: Its configuration.
        steps: What acts on a state acts one step later on all that the state acts on.
        fed: The output comes back as an input.
    """
    return _reached(neuron, config, min(steps, _MOST_STEPS), fed)


@lru_cache(maxsize=1024)
def _reached(neuron: Neuron, config: Config, steps: int, fed: bool) -> dict[str, int]:
    states = neuron.states(config)
    bits = {OUT: 1, **{name: 2 << k for k, name in enumerate(states)}}
    names = ("x", *states, *neuron.params(config))
    told = {name: neuron.acts_on(config, name) for name in names}
    seen = _by_step(neuron, config) if None in told.values() else {}
    masks = {name: sum(bits[to] for to in (seen[name] if found is None else found)) for name, found in told.items()}
    through = {**{name: masks[name] for name in states}, **({OUT: masks["x"]} if fed else {})}
    for _ in range(steps - 1):
        for name, mask in masks.items():
            further = [to for result, to in through.items() if mask & bits[result]]
            masks[name] = functools.reduce(operator.or_, further, mask)
    return masks


def _by_step(neuron: Neuron, config: Config) -> dict[str, list[str]]:
    """The results of one step that each leaf acts on, from the graph of the plain-torch step, which is the host's."""

    def spike(v: Tensor, threshold: Tensor) -> Tensor:
        fired = neuron.fire(config, v.detach(), threshold.detach())
        if config.surrogate == _NO_GRADIENT:
            return fired
        return fired + v + threshold if neuron.threshold_learns else fired + v

    with trial():
        leaves = {
            name: torch.full((1,), 0.5, device="cpu", requires_grad=True)
            for name in ("x", *neuron.states(config), *neuron.params(config))
        }
        first = {name: leaves[name] for name in neuron.states(config)}
        out, kept, last = neuron.step(config, first, leaves["x"], leaves, spike)
        results = {OUT: out, **last}
        for name in neuron.states(config)[:1]:
            results[name] = results[name] + kept  # a gradient of either counts as one of the state
        found: dict[str, list[str]] = {name: [] for name in leaves}
        for result, value in results.items():
            if not value.requires_grad:
                continue
            grads: Sequence[Tensor | None] = torch.autograd.grad(
                value.sum(), list(leaves.values()), allow_unused=True, retain_graph=True
            )
            for name, grad in zip(leaves, grads, strict=True):
                found[name] += [] if grad is None else [result]
    return found


def present(grads: Incoming) -> int:
    """The results that a gradient arrived at, as in `reached`; the kept membrane counts as the first state."""
    found = int(grads.out is not None or grads.mean is not None) | (2 if grads.kept is not None else 0)
    for states in (grads.last, grads.records):
        for k, grad in enumerate(states):
            found |= 0 if grad is None else 2 << k
    return found


def without_unreached(
    masks: dict[str, int], names: Sequence[str], found: int, grads: Sequence[Tensor | None]
) -> list[Any]:
    """`grads` by `names`, None for those that act on no result with a gradient."""
    return [grad if masks[name] & found else None for name, grad in zip(names, grads, strict=True)]
