"""snnTorch DeltaLeaky over a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from plugin_accel.neurons.snntorch_leaky import SnnTorchNeuron


class SnnTorchDelta(SnnTorchNeuron):
    """DeltaLeaky as snnTorch computes it: a membrane that spikes where it changed by more than a threshold.

    For each step, with the state u (`mem`):

    1. q = beta u + x                                 (beta is not clamped, and there is no reset)
    2. out = 1[|q - u| > threshold]
    3. u = q

    Source: snntorch/_neurons/deltaleaky.py @ 1.0.0. Units: none; beta is per step.
    """

    name = "snntorch_delta"
    index = 16
    kernel_params = ("beta", "threshold")

    def states(self, config: Any) -> tuple[str, ...]:
        return ("mem",)

    def params(self, config: Any) -> tuple[str, ...]:
        return self.kernel_params

    def replays(self, config: Any) -> bool:
        return True

    def reads_first(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return True

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        q = params["beta"] * state["mem"] + x
        change = (q - state["mem"]).abs()
        return spike(change, params["threshold"]), change, {"mem": q}


SNNTORCH_DELTA = SnnTorchDelta()
