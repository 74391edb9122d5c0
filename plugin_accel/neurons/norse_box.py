"""Norse LIBox, LIFBox and IAF over a sequence: neurons without a synaptic current."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from plugin_accel.neurons.norse_lif import NorseNeuron, reset


class NorseBox(NorseNeuron):
    """LIBox, LIFBox and IAF as Norse computes them.

    For each step, with the state v and k_mem = dt tau_mem_inv:

    1. w = v + k_mem ((x + v_leak) - v);  "li_box": v + k_mem ((v_leak - v) + x), which is the output;  "iaf": v + x
    2. z = 1[w - v_th > 0]
    3. v = (1 - z) w + z v_reset;  "lif_box_subtract": (1 - z) w + z (w - v_th);  "li_box": w

    Source: norse/torch/functional/{lif_box,leaky_integrator_box,iaf,reset}.py @ 1.1.0.
    """

    name = "norse_box"
    index = 8
    kernel_params = ("k_mem", "v_leak", "v_th", "v_reset")
    summed_inputs = ()

    def states(self, config: Any) -> tuple[str, ...]:
        return ("v",)

    def params(self, config: Any) -> tuple[str, ...]:
        names = self.kernel_params
        by_kind = {"li_box": names[:2], "lif_box": names, "lif_box_subtract": names[:3], "iaf": names[2:]}
        return by_kind[config.kind]

    def replays(self, config: Any) -> bool:
        return False

    def thresholds(self, config: Any, saved: Any, records: Sequence[Tensor]) -> Sequence[Tensor] | Tensor:
        return saved.params[self.params(config).index("v_th")]  # type: ignore[no-any-return]

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        v = state["v"]
        if config.kind == "li_box":
            w = v + params["k_mem"] * ((params["v_leak"] - v) + x)
            return w, w, {"v": w}
        w = v + x if config.kind == "iaf" else v + params["k_mem"] * (x + params["v_leak"] - v)
        z = spike(w, params["v_th"])
        target = w - params["v_th"] if config.kind == "lif_box_subtract" else params["v_reset"]
        return z, w, {"v": reset(config, w, z, target)}


NORSE_BOX = NorseBox()
