"""Norse LIFAdEx, LSNN and Izhikevich over a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from plugin_accel.neurons.norse_lif import NorseNeuron, exponential, jump, reset


class NorseAdEx(NorseNeuron):
    """LIFAdEx as Norse computes it.

    For each step, with the states v, i and a, k_mem = dt tau_mem_inv, k_syn = -dt tau_syn_inv, k_ada = dt tau_ada_inv:

    1. j = (i + x) + recurrent
    2. w = v + k_mem ((((v_leak - v) + delta_t exp((v - v_th) / delta_t)) + j) - a)
    3. i = j + k_syn j;  a' = a + k_ada (a_current (v - v_leak) - a)
    4. z = 1[w - v_th > 0];  v = (1 - z) w + z v_reset;  a = a' + z a_spike

    Source: norse/torch/functional/lif_adex.py @ 1.1.0.
    """

    name = "norse_adex"
    index = 9
    kernel_params: tuple[str, ...] = (
        "k_mem",
        "k_syn",
        "k_ada",
        "v_leak",
        "v_th",
        "v_reset",
        "delta_t",
        "a_current",
        "a_spike",
        "rho_reset",
        "recurrent",
    )
    """`rho_reset` has its place in the header, and is `NorseAdExRefrac`'s."""

    def states(self, config: Any) -> tuple[str, ...]:
        return ("v", "i", "a")

    def params(self, config: Any) -> tuple[str, ...]:
        return (*self.kernel_params[:9], "recurrent") if config.recurrent else self.kernel_params[:9]

    def replays(self, config: Any) -> bool:
        return False

    def reads_first(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return True

    def thresholds(self, config: Any, saved: Any, records: Sequence[Tensor]) -> Sequence[Tensor] | Tensor:
        return saved.params[4]  # type: ignore[no-any-return]

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        v, a, j = state["v"], state["a"], jump(state["i"], x, params)
        w = v + params["k_mem"] * ((params["v_leak"] - v) + exponential(v, params) + j - a)
        i = j + params["k_syn"] * j
        a = a + params["k_ada"] * (params["a_current"] * (v - params["v_leak"]) - a)
        z = spike(w, params["v_th"])
        return z, w, {"v": reset(config, w, z, params["v_reset"]), "i": i, "a": a + z * params["a_spike"]}


class NorseLsnn(NorseNeuron):
    """LSNN as Norse computes it: the input acts one step later, and the threshold b adapts.

    For each step, with the states v, i and b, k_mem = dt tau_mem_inv, k_syn = -dt tau_syn_inv and
    k_ada = dt tau_adapt_inv:

    1. w = v + k_mem ((v_leak - v) + i);  b' = b + k_ada (v_th - b)
    2. z = 1[w - b' > 0];  v = (1 - z) w + z v_reset;  b = b' + z beta
    3. i = ((i + k_syn i) + x) + recurrent

    "lsnn_detached", as Norse's recurrent layers have it: z is a constant in reset and b.

    Source: norse/torch/functional/lsnn.py @ 1.1.0.
    """

    name = "norse_lsnn"
    index = 10
    kernel_params = ("k_mem", "k_syn", "k_ada", "v_leak", "v_th", "v_reset", "beta", "recurrent")

    def states(self, config: Any) -> tuple[str, ...]:
        return ("v", "i", "b")

    def params(self, config: Any) -> tuple[str, ...]:
        return self.kernel_params if config.recurrent else self.kernel_params[:-1]

    def replays(self, config: Any) -> bool:
        return True

    @property
    def threshold_varies(self) -> bool:
        return True

    def thresholds(self, config: Any, saved: Any, records: Sequence[Tensor]) -> Sequence[Tensor] | Tensor:
        k_ada, v_th = saved.params[2], saved.params[4]
        first = saved.first[2]
        dim = config.time_dim
        before = [first, *records[2].unbind(dim)[:-1]] if dim >= 0 else [first]
        return [b + k_ada * (v_th - b) for b in before]

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        v, i, b = state["v"], state["i"], state["b"]
        w = v + params["k_mem"] * ((params["v_leak"] - v) + i)
        b = b + params["k_ada"] * (params["v_th"] - b)
        z = spike(w, b)
        i = jump(i + params["k_syn"] * i, x, params)
        b = b + (z.detach() if config.detached else z) * params["beta"]
        return z, w, {"v": reset(config, w, z, params["v_reset"]), "i": i, "b": b}


class NorseIzhikevich(NorseNeuron):
    """Izhikevich's neuron as Norse computes it.

    For each step, with the states v and u, k = tau_inv dt and k_a = tau_inv dt a:

    1. w = v + k (((((sq v^2 + mn v) + bias) - u) + x) + recurrent)
    2. u' = u + k_a (b v - u)
    3. z = 1[w - v_th > 0];  v = (1 - z) w + z c;  u = (1 - z) u' + z (u' + d)

    Source: norse/torch/functional/izhikevich.py @ 1.1.0.
    """

    name = "norse_izhikevich"
    index = 11
    kernel_params = ("sq", "mn", "bias", "k", "k_a", "b", "c", "d", "v_th", "recurrent")

    def states(self, config: Any) -> tuple[str, ...]:
        return ("v", "u")

    def params(self, config: Any) -> tuple[str, ...]:
        return self.kernel_params if config.recurrent else self.kernel_params[:-1]

    def replays(self, config: Any) -> bool:
        return False

    def reads_first(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        return True

    def thresholds(self, config: Any, saved: Any, records: Sequence[Tensor]) -> Sequence[Tensor] | Tensor:
        return saved.params[8]  # type: ignore[no-any-return]

    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        v, u = state["v"], state["u"]
        drive = jump(params["sq"] * v**2 + params["mn"] * v + params["bias"] - u, x, params)
        w = v + params["k"] * drive
        u = u + params["k_a"] * (params["b"] * v - u)
        z = spike(w, params["v_th"])
        return z, w, {"v": reset(config, w, z, params["c"]), "u": (1 - z) * u + z * (u + params["d"])}


NORSE_ADEX = NorseAdEx()
NORSE_LSNN = NorseLsnn()
NORSE_IZHIKEVICH = NorseIzhikevich()
