"""snnTorch Synaptic and RSynaptic over a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.neurons.snntorch_leaky import SnnTorchNeuron, drop, fires, settle


class SnnTorchSynaptic(SnnTorchNeuron):
    """Synaptic and RSynaptic as snnTorch computes them.

    For each step, with the states u (`mem`) and i (`syn`), a = clamp(alpha, 0, 1), b = clamp(beta, 0, 1) and
    r = 1[u > threshold]:

    1. i = (a i + x) + recurrent                      (`recurrent` for RSynaptic: single steps only)
    2. m = b u + i
    3. q = m - r threshold ("subtract"), m - m r ("zero_after") or m ("none")
    4. out = graded 1[q > threshold]
    5. u = q with `delay`; else, with d = out / graded - r, q - d threshold ("subtract") or q - d q

    Source: snntorch/_neurons/{synaptic,rsynaptic}.py @ 1.0.0. Units: none; alpha and beta are per step.
    """

    name = "snntorch_synaptic"
    index = 4
    kernel_params = ("beta", "threshold", "graded", "alpha", "recurrent")
    summed_inputs = ("recurrent",)

    def states(self, config: Any) -> tuple[str, ...]:
        return ("mem", "syn")

    def params(self, config: Any) -> tuple[str, ...]:
        return self.kernel_params if config.recurrent else self.kernel_params[:4]

    def beside_membrane(self, name: str) -> tuple[str, ...]:
        return ("syn",) if name in ("x", "recurrent", "alpha", "syn") else ()

    def replays(self, config: Any) -> bool:
        return config.reset == "zero_after" and not config.delay

    def reads_input(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return any(params_wanted[:4])

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        u, threshold = state["mem"], params["threshold"]
        r = fires(u, threshold)
        i = torch.clamp(params["alpha"], 0, 1) * state["syn"] + x
        if "recurrent" in params:
            i = i + params["recurrent"]
        q = torch.clamp(params["beta"], 0, 1) * u + i
        if config.reset == "subtract":
            q = q - drop(config, r, threshold)
        elif config.reset == "zero_after":
            q = q - q * r
        spikes = spike(q, threshold)
        return spikes * params["graded"], q, {"mem": settle(config, q, spikes, r, params), "syn": i}


SNNTORCH_SYNAPTIC = SnnTorchSynaptic()
