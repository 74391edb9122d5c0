"""Norse LI, LIF and LIFEx over a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.neurons.neuron import Neuron


class NorseNeuron(Neuron):
    """What Norse's neurons share: a spike is 1[w - threshold > 0], with w the membrane before the reset."""

    threshold_learns = True
    summed_inputs: tuple[str, ...] = ("recurrent",)

    def fire(self, config: Any, v: Tensor, threshold: Tensor) -> Tensor:
        return (v - threshold > 0).to(v.dtype)

    def reads_input(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return any(params_wanted)

    def acts_on(self, config: Any, name: str) -> tuple[str, ...] | None:
        # Norse's hook on the recurrent weights cannot take None. In a cell their product is in the current.
        heard = name == "recurrent" or (name == "i" and config.detached and not config.recurrent)
        return ("out", *self.states(config)) if heard else None


def reset(config: Any, w: Tensor, z: Tensor, target: Tensor) -> Tensor:
    """(1 - z) w + z target; z is a constant of a detached neuron."""
    if config.detached:
        z = z.detach()
    return (1 - z) * w + z * target


def exponential(v: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    """The exponential drive of a membrane near its threshold."""
    return params["delta_t"] * torch.exp((v - params["v_th"]) / params["delta_t"])


def jump(i: Tensor, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    """The synaptic current with the input, and the recurrent input if there is one."""
    j = i + x
    return j + params["recurrent"] if "recurrent" in params else j


class NorseLif(NorseNeuron):
    """LI, LIF and LIFEx as Norse computes them.

    For each step, with the states v and i, k_mem = dt tau_mem_inv and k_syn = -dt tau_syn_inv:

    1. j = (i + x) + recurrent
    2. w = v + k_mem ((v_leak - v) + j);  "lif_ex": v + k_mem (((v_leak - v) + delta_t exp((v - v_th) / delta_t)) + j)
    3. i = j + k_syn j
    4. z = 1[w - v_th > 0];  v = (1 - z) w + z v_reset;  "li": v = w, which is the output

    "lif_detached" is LIF as Norse's recurrent layers have it.

    Source: norse/torch/functional/{lif,leaky_integrator,lif_ex}.py @ 1.1.0.
    """

    name = "norse_lif"
    index = 7
    kernel_params: tuple[str, ...] = ("k_mem", "k_syn", "v_leak", "v_th", "v_reset", "delta_t", "recurrent")

    def states(self, config: Any) -> tuple[str, ...]:
        return ("v", "i")

    def params(self, config: Any) -> tuple[str, ...]:
        names = self.kernel_params
        own = {"li": names[:3], "lif_ex": names[:6]}.get(config.kind, names[:5])
        return (*own, "recurrent") if config.recurrent else own

    def replays(self, config: Any) -> bool:
        return False

    def reads_first(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return config.kind == "lif_ex" or any(params_wanted)

    def thresholds(self, config: Any, saved: Any, records: Sequence[Tensor]) -> Sequence[Tensor] | Tensor:
        return saved.params[self.params(config).index("v_th")]  # type: ignore[no-any-return]

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        v, j = state["v"], jump(state["i"], x, params)
        drive = params["v_leak"] - v
        if config.kind == "lif_ex":
            drive = drive + exponential(v, params)
        w = v + params["k_mem"] * (drive + j)
        i = j + params["k_syn"] * j
        if config.kind == "li":
            return w, w, {"v": w, "i": i}
        z = spike(w, params["v_th"])
        return z, w, {"v": reset(config, w, z, params["v_reset"]), "i": i}


NORSE_LIF = NorseLif()
