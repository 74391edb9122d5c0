"""Norse LIFRefrac, LIFAdExRefrac and LIFMCRefrac over a sequence: neurons that are held after a spike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.neurons.norse_adaptive import NORSE_ADEX
from plugin_accel.neurons.norse_lif import NORSE_LIF, NorseNeuron, reset


def counted(rho: Tensor, m: Tensor, z: Tensor, rho_reset: Tensor) -> Tensor:
    """The counter of the steps that are left, after the step."""
    return (1 - z) * torch.relu(rho - m) + z * rho_reset


class NorseRefrac(NorseNeuron):
    """LIFRefrac and LIFAdExRefrac as Norse computes them.

    For each step the step of `NorseLif` or `NorseAdEx`, then, with the state rho and m = 1[rho > 0]:

    1. v = (1 - m) v' + m v;  z = (1 - m) z'         (primed: what the inner step gives)
    2. rho = (1 - z) relu(rho - m) + z rho_reset

    m has the surrogate gradient of a spike, 1 / (slope |rho| + 1)^2. Nothing but the LIF's own reset is ever detached.

    Source: norse/torch/functional/{lif_refrac,lif_adex_refrac}.py @ 1.1.0.
    """

    def __init__(self, name: str, index: int, inner: NorseNeuron, own: int) -> None:
        self.name, self.index = name, index
        self._inner, self._own = inner, inner.kernel_params[:own]

    @property
    def kernel_params(self) -> tuple[str, ...]:
        return (*self._own, "rho_reset", "recurrent", "slope")

    def states(self, config: Any) -> tuple[str, ...]:
        return (*self._inner.states(config), "rho")

    def params(self, config: Any) -> tuple[str, ...]:
        names = (*self._own, "rho_reset", "slope")
        return (*names, "recurrent") if config.recurrent else names

    def replays(self, config: Any) -> bool:
        return True

    def thresholds(self, config: Any, saved: Any, records: Sequence[Tensor]) -> Sequence[Tensor] | Tensor:
        return saved.params[self.params(config).index("v_th")]  # type: ignore[no-any-return]

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        y, w, inner = self._inner.step(config, state, x, params, spike)
        m = spike(state["rho"], torch.zeros_like(params["v_th"]))
        z = (1 - m) * y
        v = (1 - m) * inner["v"] + m * state["v"]
        return z, w, {**inner, "v": v, "rho": counted(state["rho"], m, z, params["rho_reset"])}


class NorseMcRefrac(NorseNeuron):
    """The compartments of LIFMCRefrac as Norse computes them, without its products.

    For each step, with the states v, i and rho, m = 1[rho > 0], k_mem = dt tau_mem_inv and k_syn = -dt tau_syn_inv; the
    input x is what the other compartments give:

    1. w = v + (((1 - m) k_mem) ((v_leak - v) + i) + x)
    2. z = 1[w - v_th > 0];  v = (1 - z) w + z v_reset;  i = i + k_syn i
    3. rho = (1 - z) relu(rho - m) + z rho_reset

    m has the surrogate gradient of a spike, 1 / (slope |rho| + 1)^2.

    Source: norse/torch/functional/lif_mc_refrac.py @ 1.1.0.
    """

    name = "norse_mc_refrac"
    index = 14
    kernel_params = ("k_mem", "k_syn", "v_leak", "v_th", "v_reset", "rho_reset", "slope")
    summed_inputs = ()

    def states(self, config: Any) -> tuple[str, ...]:
        return ("v", "i", "rho")

    def params(self, config: Any) -> tuple[str, ...]:
        return self.kernel_params

    def replays(self, config: Any) -> bool:
        return True

    def reads_input(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return False

    def thresholds(self, config: Any, saved: Any, records: Sequence[Tensor]) -> Sequence[Tensor] | Tensor:
        return saved.params[3]  # type: ignore[no-any-return]

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        v, i, rho = state["v"], state["i"], state["rho"]
        m = spike(rho, torch.zeros_like(params["v_th"]))
        w = v + ((1 - m) * params["k_mem"] * ((params["v_leak"] - v) + i) + x)
        z = spike(w, params["v_th"])
        v = reset(config, w, z, params["v_reset"])
        return z, w, {"v": v, "i": i + params["k_syn"] * i, "rho": counted(rho, m, z, params["rho_reset"])}


NORSE_REFRAC = NorseRefrac("norse_refrac", 12, NORSE_LIF, 5)
NORSE_ADEX_REFRAC = NorseRefrac("norse_adex_refrac", 13, NORSE_ADEX, 9)
NORSE_MC_REFRAC = NorseMcRefrac()
