"""sinabs ALIF over a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from plugin_accel.neurons.layout import steps
from plugin_accel.neurons.neuron import Neuron, Saved
from plugin_accel.neurons.sinabs_lif import bound_below, fire, narrow, reset


class SinabsAlif(Neuron):
    """Adaptive leaky integrate and fire as sinabs computes it.

    For each step, states v (`v_mem`), b and, with a synapse, i (`i_syn`):

    1. i = alpha_syn (i + x) with a synapse, else i = x
    2. i = gain_mem i                        (gain_mem = 1 - alpha_mem with `norm_input`, else 1; i is stored scaled)
    3. w = alpha_mem v + i
    4. threshold = b0 + adapt_scale b
    5. out = spike(w, threshold)
    6. v = reset(w, out), with the threshold of step 4
    7. b = alpha_adapt b + gain_adapt out    (gain_adapt = 1 - alpha_adapt)
    8. v = relu(v - min_v_mem) + min_v_mem   if clamped

    Source: sinabs/layers/functional/alif.py @ 3.1.3. Units: sinabs has none; taus count time steps.
    """

    name = "sinabs_alif"
    index = 1
    averages = True
    kernel_params = (
        "alpha_mem",
        "gain_mem",
        "alpha_syn",
        "alpha_adapt",
        "gain_adapt",
        "b0",
        "adapt_scale",
        "reset_value",
        "min_v_mem",
    )

    def states(self, config: Any) -> tuple[str, ...]:
        return ("v_mem", "b", "i_syn") if config.synapse else ("v_mem", "b")

    def params(self, config: Any) -> tuple[str, ...]:
        return (
            "alpha_mem",
            "gain_mem",
            *(("alpha_syn",) if config.synapse else ()),
            "alpha_adapt",
            "gain_adapt",
            "b0",
            "adapt_scale",
            *(("reset_value",) if config.reset != "subtract_threshold" else ()),
            *(("min_v_mem",) if config.clamp else ()),
        )

    def replays(self, config: Any) -> bool:
        return True

    def fire(self, config: Any, v: Tensor, threshold: Tensor) -> Tensor:
        return fire(config, v, threshold)

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        i = params["alpha_syn"] * (state["i_syn"] + x) if config.synapse else x
        i = params["gain_mem"] * i
        w = params["alpha_mem"] * state["v_mem"] + i
        threshold = self._threshold(params, state["b"])
        out = spike(w, threshold)
        v = reset(config, w, out, threshold, params)
        decayed = narrow(params["alpha_adapt"] * state["b"])
        b = narrow(decayed + narrow(params["gain_adapt"] * out))
        if config.clamp:
            v = bound_below(v, params["min_v_mem"])
        return out, w, {"v_mem": v, "b": b, "i_syn": i} if config.synapse else {"v_mem": v, "b": b}

    @property
    def threshold_varies(self) -> bool:
        return True

    def thresholds(self, config: Any, saved: Saved, records: Sequence[Tensor]) -> Sequence[Tensor]:
        params = dict(zip(self.params(config), saved.params, strict=True))
        b_first = saved.first[1]
        assert b_first is not None
        b_before = [b_first, *steps(records[1], config.time_dim)[:-1]]
        return [self._threshold(params, b) for b in b_before]

    @staticmethod
    def _threshold(params: Mapping[str, Tensor], b: Tensor) -> Tensor:
        return narrow(params["b0"] + narrow(params["adapt_scale"] * b))


SINABS_ALIF = SinabsAlif()
