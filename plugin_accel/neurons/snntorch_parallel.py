"""snnTorch LeakyParallel over a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from plugin_accel.neurons.snntorch_leaky import SnnTorchNeuron


class SnnTorchParallel(SnnTorchNeuron):
    """LeakyParallel, without its matrix for the input, as snnTorch computes it where its recurrent one is diagonal.

    For each step, with the state h:

    1. h = max((weight h + bias) + x, 0)
    2. out = graded 1[h > threshold]; there is no reset

    Source: snntorch/_neurons/leakyparallel.py @ 1.0.0, torch.nn.RNN. Units: none; weight is per step.
    """

    name = "snntorch_parallel"
    membrane = "hidden"
    index = 6
    kernel_params = ("weight", "bias", "threshold", "graded")

    def states(self, config: Any) -> tuple[str, ...]:
        return ("hidden",)

    def params(self, config: Any) -> tuple[str, ...]:
        return self.kernel_params

    def replays(self, config: Any) -> bool:
        return False

    def reads_input(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return False

    def reads_first(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return any(params_wanted)

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        h = (params["weight"] * state["hidden"] + params["bias"] + x).relu()
        return spike(h, params["threshold"]) * params["graded"], h, {"hidden": h}


SNNTORCH_PARALLEL = SnnTorchParallel()
