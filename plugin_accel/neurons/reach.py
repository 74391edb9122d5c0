"""Which results of a neuron an input, a state or a parameter acts on: autograd gives the others no gradient at all.

An optimizer leaves a parameter without a gradient as it is, and one with a gradient of zeros to its weight decay. So
where a host's graph does not lead to a parameter, neither may ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from plugin_accel.neurons.config import Config
from plugin_accel.neurons.neuron import Incoming, Neuron

OUT = "out"
"""The name of the output among the results; the others are the states."""


@lru_cache(maxsize=1024)
def reached(neuron: Neuron, config: Config, many: bool, fed: bool = False) -> dict[str, int]:
    """For "x", each state before and each parameter: the results it acts on, 1 for the output, 2 << k for state k.

    Args:
        neuron: The model.
        config: Its configuration.
        many: More than one step: what acts on a state acts on all that the state acts on.
        fed: The output comes back as an input.
    """
    states = neuron.states(config)
    bits = {OUT: 1, **{name: 2 << k for k, name in enumerate(states)}}
    names = ("x", *states, *neuron.params(config))

    def direct(name: str) -> int:
        found = neuron.acts_on(config, name)
        return sum(bits.values()) if found is None else sum(bits[result] for result in found)

    masks = {name: direct(name) for name in names}
    through = {**{name: masks[name] for name in states}, **({OUT: masks["x"]} if fed else {})}
    for _ in range(len(bits) if many else 0):
        for name in names:
            for result, further in through.items():
                masks[name] |= further if masks[name] & bits[result] else 0
    return masks


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
