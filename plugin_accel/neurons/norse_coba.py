"""Norse CobaLIF over a sequence: a membrane between conductances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from plugin_accel.neurons.norse_lif import NorseNeuron, reset


class NorseCoba(NorseNeuron):
    """CobaLIF as Norse computes it, without its products.

    For each step, with the states v, g_e and g_i, k_e = -dt tau_syn_exc_inv, k_i = -dt tau_syn_inh_inv and k_mem =
    dt c_m_inv; the input x is what arrives at g_e, and what arrives at g_i is in it already:

    1. e = g_e + x;  g_e = e + k_e e;  g_i = g_i + k_i g_i
    2. w = v + k_mem ((g_l (v_rest - v) + g_e (e_exc - v)) + g_i (e_inh - v))
    3. z = 1[w - v_th > 0];  v = (1 - z) w + z v_reset

    Source: norse/torch/functional/coba_lif.py @ 1.1.0.
    """

    name = "norse_coba"
    index = 15
    kernel_params = ("k_e", "k_i", "k_mem", "g_l", "e_exc", "e_inh", "v_rest", "v_th", "v_reset")
    summed_inputs = ()

    def states(self, config: Any) -> tuple[str, ...]:
        return ("v", "g_e", "g_i")

    def params(self, config: Any) -> tuple[str, ...]:
        return self.kernel_params

    def replays(self, config: Any) -> bool:
        return True

    def reads_input(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return True

    def thresholds(self, config: Any, saved: Any, records: Sequence[Tensor]) -> Sequence[Tensor] | Tensor:
        return saved.params[7]  # type: ignore[no-any-return]

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        v, e, i = state["v"], state["g_e"] + x, state["g_i"]
        e, i = e + params["k_e"] * e, i + params["k_i"] * i
        drive = params["g_l"] * (params["v_rest"] - v) + e * (params["e_exc"] - v) + i * (params["e_inh"] - v)
        w = v + params["k_mem"] * drive
        z = spike(w, params["v_th"])
        return z, w, {"v": reset(config, w, z, params["v_reset"]), "g_e": e, "g_i": i}


NORSE_COBA = NorseCoba()
