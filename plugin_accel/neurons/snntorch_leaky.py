"""snnTorch Leaky, RLeaky and Lapicque over a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.neurons.neuron import Neuron
from plugin_accel.neurons.sinabs_lif import narrow
from plugin_accel.neurons.snntorch_config import SnnTorchConfig
from plugin_accel.surrogates import Surrogate

NO_GRADIENT = Surrogate("constant", (0.0,))
"""Of `surrogate_disable`: the spikes have no gradient at all."""


def fires(v: Tensor, threshold: Tensor) -> Tensor:
    """1[v - threshold > 0], without a gradient."""
    return (v.detach() - threshold.detach() > 0).to(v.dtype)


def drop(config: SnnTorchConfig, spikes: Tensor, threshold: Tensor) -> Tensor:
    """What a spike takes from the membrane; fp32 spikes times a shared threshold are fp32."""
    return narrow(spikes * threshold) if config.narrow else spikes * threshold


def settle(config: SnnTorchConfig, q: Tensor, spikes: Tensor, r: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    """The membrane after the spike: with `reset_delay` as it is, else less what `r` has not yet taken."""
    if config.delay:
        return q
    d = spikes * params["graded"] / params["graded"] - r
    return q - drop(config, d, params["threshold"]) if config.reset == "subtract" else q - d * q


class SnnTorchNeuron(Neuron):
    """What snnTorch's neurons share. A spike is 1[membrane - threshold > 0], scaled by `graded`."""

    threshold_learns = True
    membrane = "mem"

    def acts_on(self, config: Any, name: str) -> tuple[str, ...] | None:
        fired = () if config.surrogate == NO_GRADIENT else ("out",)
        if name == "graded":
            return ("out",) if config.delay else ("out", self.membrane)
        if name == "threshold" and config.reset == "subtract":
            return (self.reset_state, *fired)
        if name == "threshold":  # by the spikes alone, which without a delay reset the membrane
            return fired if config.delay or not fired else (self.membrane, *fired)
        return (*self.beside_membrane(name), self.membrane, *fired)

    @property
    def reset_state(self) -> str:
        """The state that a reset takes the threshold from."""
        return self.membrane

    def beside_membrane(self, name: str) -> tuple[str, ...]:
        """The other states that the input, a state or a parameter acts on."""
        return ()

    def fire(self, config: Any, v: Tensor, threshold: Tensor) -> Tensor:
        return fires(v, threshold)

    def reads_first(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return config.reset in ("zero", "zero_after") or any(params_wanted)


class SnnTorchLeaky(SnnTorchNeuron):
    """Leaky and RLeaky as snnTorch computes them.

    For each step, with the state u (`mem`), b = clamp(beta, 0, 1) and r = 1[u > threshold]:

    1. m = (b u + x) + recurrent                      (`recurrent` for RLeaky: single steps only)
    2. q = m - r threshold ("subtract"), b ((1 - r) u) + x ("zero"), m - r m ("zero_after") or m ("none")
    3. out = graded 1[q > threshold]
    4. u = q with `delay`; else, with d = out / graded - r, q - d threshold ("subtract") or q - d q

    Source: snntorch/_neurons/{leaky,rleaky}.py @ 1.0.0. Units: none; beta is per step.
    """

    name = "snntorch_leaky"
    index = 2
    kernel_params: tuple[str, ...] = ("beta", "threshold", "graded", "recurrent")
    summed_inputs: tuple[str, ...] = ("recurrent",)

    def states(self, config: Any) -> tuple[str, ...]:
        return ("mem",)

    def params(self, config: Any) -> tuple[str, ...]:
        return self.kernel_params if config.recurrent else self.kernel_params[:3]

    def replays(self, config: Any) -> bool:
        return not config.delay

    def reads_input(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return False

    def current(self, x: Tensor, params: Mapping[str, Tensor], u: Tensor) -> Tensor:
        """The membrane before any reset."""
        m = torch.clamp(params["beta"], 0, 1) * u + x
        return m + params["recurrent"] if "recurrent" in params else m

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        u, threshold = state["mem"], params["threshold"]
        r = fires(u, threshold)
        q = self.current(x, params, (1 - r) * u if config.reset == "zero" else u)
        if config.reset == "subtract":
            q = q - drop(config, r, threshold)
        elif config.reset == "zero_after":
            q = q - r * q
        spikes = spike(q, threshold)
        return spikes * params["graded"], q, {"mem": settle(config, q, spikes, r, params)}


class SnnTorchLapicque(SnnTorchLeaky):
    """Lapicque as snnTorch computes it: `SnnTorchLeaky` with m = ((x resistance) inverse) dt + decay u.

    inverse = 1 / (R C), decay = 1 - dt / (R C); neither has a gradient, nor is the decay clamped.

    Source: snntorch/_neurons/lapicque.py @ 1.0.0.
    """

    name = "snntorch_lapicque"
    index = 3
    kernel_params = ("decay", "threshold", "graded", "resistance", "inverse", "dt")
    summed_inputs = ()

    def params(self, config: Any) -> tuple[str, ...]:
        return self.kernel_params

    def current(self, x: Tensor, params: Mapping[str, Tensor], u: Tensor) -> Tensor:
        """The membrane before any reset."""
        return x * params["resistance"] * params["inverse"] * params["dt"] + params["decay"] * u


SNNTORCH_LEAKY = SnnTorchLeaky()
SNNTORCH_LAPICQUE = SnnTorchLapicque()
