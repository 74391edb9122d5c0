"""sinabs LIF, IAF and ExpLeak over a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.neurons.neuron import Neuron
from plugin_accel.neurons.sinabs_config import SinabsConfig


class _Narrow(torch.autograd.Function):
    """Rounds to fp32 without rounding the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.float().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def narrow(x: Tensor) -> Tensor:
    """fp64 data: rounds what sinabs computes from spikes alone, and therefore in fp32."""
    if x.dtype is not torch.float64:
        return x
    return _Narrow.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def reset(config: SinabsConfig, v: Tensor, spikes: Tensor, threshold: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    """The membrane after the reset; `value` is added to silent neurons too, as sinabs does."""
    if config.reset == "subtract_threshold":
        return v - narrow(spikes * threshold)
    if config.reset == "subtract":
        return v - narrow(spikes * params["reset_value"])
    return v * (spikes == 0).to(v.dtype) + params["reset_value"]


def bound_below(v: Tensor, low: Tensor) -> Tensor:
    """relu(v - low) + low: it rounds unclamped values too, as sinabs does."""
    return torch.nn.functional.relu(v - low) + low


def fire(config: SinabsConfig, v: Tensor, threshold: Tensor) -> Tensor:
    """Spikes: single 1[v - th >= 0]; multi 1[v > 0] trunc(v / th), at most `max_spikes`."""
    if config.spike == "single":
        return (v - threshold >= 0).to(v.dtype)
    spikes = (v > 0) * torch.div(v, threshold, rounding_mode="trunc")
    return torch.clamp(spikes, max=config.max_spikes)


class SinabsLif(Neuron):
    """Leaky integrate and fire as sinabs computes it.

    For each step, states v (`v_mem`) and, with a synapse, i (`i_syn`):

    1. i = alpha_syn (i + x) with a synapse, else i = x
    2. w = alpha_mem v + gain_mem i          (gain_mem = 1 - alpha_mem with `norm_input`, else 1)
    3. out = spike(w, threshold)             (without spikes out = w)
    4. v = reset(w, out)
    5. v = relu(v - min_v_mem) + min_v_mem   if clamped

    Source: sinabs/layers/functional/lif.py @ 3.1.3. Units: sinabs has none; taus count time steps.
    """

    name = "sinabs_lif"
    index = 0
    averages = True
    kernel_params = ("alpha_mem", "gain_mem", "alpha_syn", "threshold", "reset_value", "min_v_mem")

    def states(self, config: Any) -> tuple[str, ...]:
        return ("v_mem", "i_syn") if config.synapse else ("v_mem",)

    def params(self, config: Any) -> tuple[str, ...]:
        return (
            "alpha_mem",
            "gain_mem",
            *(("alpha_syn",) if config.synapse else ()),
            *(("threshold",) if config.spike != "none" else ()),
            *(("reset_value",) if config.spike != "none" and config.reset != "subtract_threshold" else ()),
            *(("min_v_mem",) if config.clamp else ()),
        )

    def replays(self, config: Any) -> bool:
        return bool(config.synapse)

    def reads_input(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return bool(config.synapse or params_wanted[1])  # gain_mem, the one that scales the input

    def fire(self, config: Any, v: Tensor, threshold: Tensor) -> Tensor:
        return fire(config, v, threshold)

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        i = params["alpha_syn"] * (state["i_syn"] + x) if config.synapse else x
        w = params["alpha_mem"] * state["v_mem"] + params["gain_mem"] * i
        out, v = w, w
        if config.spike != "none":
            out = spike(w, params["threshold"])
            v = reset(config, w, out, params["threshold"], params)
        if config.clamp:
            v = bound_below(v, params["min_v_mem"])
        return out, w, {"v_mem": v, "i_syn": i} if config.synapse else {"v_mem": v}


SINABS_LIF = SinabsLif()
