"""snnTorch Alpha over a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.neurons.snntorch_leaky import SnnTorchNeuron, drop, fires


class SnnTorchAlpha(SnnTorchNeuron):
    """Alpha as snnTorch computes it.

    For each step, with the states u (`mem`), e (`syn_exc`) and h (`syn_inh`), a = clamp(alpha, 0, 1),
    b = clamp(beta, 0, 1) and r = 1[u > threshold], the only use of the old u:

    1. e' = a e + x;  h' = b h - x;  m = tau (e' + h')       (tau = log a / (log b - log a) + 1)
    2. "subtract": e = e' - threshold r;  u = m - (-h) r;  h = h' - (b h - x) r
       "zero_after": e = e' - e' r;  u = m - m r;  h = h' - h' r
       "none": e = e';  u = m;  h = h'
    3. out = graded 1[u > threshold]

    Source: snntorch/_neurons/alpha.py @ 1.0.0. Units: none; alpha and beta are per step.
    """

    name = "snntorch_alpha"
    index = 5
    kernel_params = ("alpha", "beta", "tau", "threshold", "graded")

    def states(self, config: Any) -> tuple[str, ...]:
        return ("mem", "syn_exc", "syn_inh")

    def params(self, config: Any) -> tuple[str, ...]:
        return self.kernel_params

    def acts_on(self, config: Any, name: str) -> tuple[str, ...] | None:
        return () if name == "mem" else super().acts_on(config, name)

    @property
    def reset_state(self) -> str:
        """See `SnnTorchNeuron`."""
        return "syn_exc"

    def beside_membrane(self, name: str) -> tuple[str, ...]:
        excited = ("syn_exc",) if name in ("x", "alpha", "syn_exc") else ()
        return (*excited, "syn_inh") if name in ("x", "beta", "syn_inh") else excited

    def replays(self, config: Any) -> bool:
        return False

    def reads_first(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return config.reset != "none" or any(params_wanted)

    def reads_input(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return any(params_wanted)

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        threshold, old = params["threshold"], state["syn_inh"]
        r = fires(state["mem"], threshold)
        e = torch.clamp(params["alpha"], 0, 1) * state["syn_exc"] + x
        h = torch.clamp(params["beta"], 0, 1) * old - x
        q = params["tau"] * (e + h)
        if config.reset == "subtract":
            e, h, q = e - drop(config, r, threshold), h - h * r, q - (-old) * r
        elif config.reset == "zero_after":
            e, h, q = e - e * r, h - h * r, q - q * r
        return spike(q, threshold) * params["graded"], q, {"mem": q, "syn_exc": e, "syn_inh": h}


SNNTORCH_ALPHA = SnnTorchAlpha()
