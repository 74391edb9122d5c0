"""What distinguishes one family of Norse's neurons from the next: parameters by Norse's operations, states, kernels.

The expressions that depend on parameters alone stand here as they stand in norse/torch/functional @ 1.1.0, so that
their roundings and gradients are Norse's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import norse.torch as nt
import torch
from norse.torch.functional import (
    coba_lif,
    iaf,
    izhikevich,
    leaky_integrator,
    leaky_integrator_box,
    lif,
    lif_adex,
    lif_adex_refrac,
    lif_box,
    lif_ex,
    lif_refrac,
    lsnn,
    reset,
)
from torch import Tensor, nn

from plugin_accel.hosts.norse_surrogates import per_neuron, surrogate_of
from plugin_accel.hosts.sequences import Refused
from plugin_accel.modes import is_traced
from plugin_accel.neurons import (
    NORSE_ADEX,
    NORSE_ADEX_REFRAC,
    NORSE_BOX,
    NORSE_COBA,
    NORSE_IZHIKEVICH,
    NORSE_LIF,
    NORSE_LSNN,
    NORSE_MC_REFRAC,
    NORSE_REFRAC,
    Neuron,
)

Params = tuple[Any, ...]


@lru_cache(maxsize=256)
def _known_rate(step: float, tau_inv: float, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is kept here must do for training too
        return step * torch.full((), tau_inv, dtype=dtype, device="cpu")


def rate(step: Any, tau_inv: Any) -> Any:
    """step * tau_inv; looked up by value where it has no gradient."""
    if (
        type(tau_inv) is Tensor
        and type(step) is float
        and tau_inv.dim() == 0
        and tau_inv.is_cpu
        and tau_inv.is_floating_point()
        and not tau_inv.requires_grad
        and not is_traced()
    ):
        return _known_rate(step, tau_inv.item(), tau_inv.dtype)
    return step * tau_inv


def _li(p: Any, dt: Any) -> Params:
    return rate(dt, p.tau_mem_inv), rate(-dt, p.tau_syn_inv), p.v_leak


def _lif(p: Any, dt: Any) -> Params:
    return rate(dt, p.tau_mem_inv), rate(-dt, p.tau_syn_inv), p.v_leak, p.v_th, p.v_reset


def _lif_ex(p: Any, dt: Any) -> Params:
    return (*_lif(p, dt), p.delta_T)


def _adex(p: Any, dt: Any) -> Params:
    k_mem, k_syn, *potentials = _lif(p, dt)
    adaptation = p.adaptation_current, p.adaptation_spike
    return (k_mem, k_syn, rate(dt, p.tau_ada_inv), *potentials, p.delta_T, *adaptation)


def _lsnn(p: Any, dt: Any) -> Params:
    k_mem, k_syn, *potentials = _lif(p, dt)
    return (k_mem, k_syn, rate(dt, p.tau_adapt_inv), *potentials, p.beta)


def _li_box(p: Any, dt: Any) -> Params:
    return rate(dt, p.tau_mem_inv), p.v_leak


def _lif_box(p: Any, dt: Any) -> Params:
    found = rate(dt, p.tau_mem_inv), p.v_leak, p.v_th, p.v_reset
    return found[:3] if p.reset_method is reset.reset_subtract else found


def _iaf(p: Any, dt: Any) -> Params:
    return p.v_th, p.v_reset


def _izhikevich(p: Any, dt: Any) -> Params:
    k = p.tau_inv * dt
    return p.sq, p.mn, p.bias, k, k * p.a, p.b, p.c, p.d, p.v_th


def _refrac(p: Any, dt: Any) -> Params:
    return (*_lif(p.lif, dt), p.rho_reset)


def _adex_refrac(p: Any, dt: Any) -> Params:
    return (*_adex(p.lif_adex, dt), p.rho_reset)


def _coba(p: Any, dt: Any) -> Params:
    decays = rate(-dt, p.tau_syn_exc_inv), rate(-dt, p.tau_syn_inh_inv)
    return (*decays, rate(dt, p.c_m_inv), p.g_l, p.e_rev_E, p.e_rev_I, p.v_rest, p.v_thresh, p.v_reset)


def activation_reasons(layer: Any, expected: Callable[..., Any] | None) -> tuple[str, ...]:
    """Why a layer's own function for one step is left to run, if it is not Norse's."""
    found = getattr(layer, "activation", None)
    if found is expected:
        return ()
    name = getattr(found, "__name__", type(found).__name__)
    return (f"activation is {name}, not {getattr(expected, '__name__', None)}",)


@dataclass(frozen=True)
class Form:
    """One family of neurons.

    Attributes:
        neuron: The kernels' neuron.
        kind: The kernels' kind; of LIFBox with its usual reset.
        activation: Norse's function for one step, which the kernels stand for; None of a layer that has none.
        params: (p, dt) -> the kernels' parameters, numbers or tensors, but for the slope of a refractory period.
        state: Norse's class for the state, whose fields are the kernels' states in their order, unless `nested`.
        settled: What Norse starts from is exact in every dtype: rest, and no current.
        low: Beside fp32 states, an input of fewer bits gives the same roundings when it is computed in fp32.
        nested: Where the parameters and the states of the neuron lie that a refractory period holds, "" of others.
        inner: Norse's class for those states.
    """

    neuron: Neuron
    kind: str
    activation: Callable[..., Any] | None = field(compare=False)
    params: Callable[[Any, Any], Params] = field(compare=False)
    state: type[Any]
    settled: bool = False
    low: bool = False
    nested: str = ""
    inner: type[Any] | None = None

    def states(self, state: Any) -> tuple[Tensor, ...]:
        """The kernels' states of one of Norse's.

        Raises:
            Refused: it lacks one; Norse's own forward then says so.
        """
        try:
            if self.inner is None:
                return tuple([getattr(state, n) for n in self.state._fields])
            held = getattr(state, self.nested)
            return (*[getattr(held, n) for n in self.inner._fields], state.rho)
        except AttributeError as error:
            raise Refused(f"state: {error}") from None

    def make(self, states: Sequence[Any]) -> Any:
        """One of Norse's states, of the kernels'."""
        return self.state(*states) if self.inner is None else self.state(self.inner(*states[:-1]), states[-1])

    def spiking(self, p: Any) -> Any:
        """The parameters that hold method and alpha; None of a neuron without spikes."""
        return None if self.kind in ("li", "li_box") else getattr(p, self.nested) if self.nested else p

    def kind_of(self, p: Any) -> str | None:
        """The kernels' kind with these parameters; None if there is none."""
        if self.kind != "lif_box" or p.reset_method is reset.reset_value:
            return self.kind
        return "lif_box_subtract" if p.reset_method is reset.reset_subtract else None

    def reasons(self, layer: Any) -> tuple[str, ...]:
        """Why a layer's configuration is left to Norse's own forward."""
        return (*activation_reasons(layer, self.activation), *self.threshold_reasons(layer.p))

    def threshold_reasons(self, p: Any) -> tuple[str, ...]:
        """What the kernels do not know of threshold and reset."""
        found = []
        spiking = self.spiking(p)
        if spiking is not None and surrogate_of(spiking) is None and not per_neuron(spiking):
            found.append(f"method {spiking.method!r} has no kernel")
        elif self.nested and spiking.method != "super":
            found.append(f"method {spiking.method!r} has no kernel for the refractory period, only 'super' has")
        elif self.nested and surrogate_of(spiking) is None:
            found.append("a steepness per neuron has no kernel for the refractory period")
        if self.kind_of(p) is None:
            found.append("reset_method is not one of Norse's own")
        return tuple(found)


LIF = Form(NORSE_LIF, "lif", lif.lif_feed_forward_step, _lif, lif.LIFFeedForwardState, settled=True, low=True)
LI = Form(NORSE_LIF, "li", leaky_integrator.li_feed_forward_step, _li, leaky_integrator.LIState, settled=True, low=True)
LIF_EX = Form(NORSE_LIF, "lif_ex", lif_ex.lif_ex_feed_forward_step, _lif_ex, lif_ex.LIFExFeedForwardState, low=True)
LIF_ADEX = Form(
    NORSE_ADEX, "adex", lif_adex.lif_adex_feed_forward_step, _adex, lif_adex.LIFAdExFeedForwardState, low=True
)
LSNN = Form(NORSE_LSNN, "lsnn", lsnn.lsnn_feed_forward_step, _lsnn, lsnn.LSNNFeedForwardState, low=True)
LIF_BOX = Form(
    NORSE_BOX, "lif_box", lif_box.lif_box_feed_forward_step, _lif_box, lif_box.LIFBoxFeedForwardState, settled=True
)
LI_BOX = Form(
    NORSE_BOX,
    "li_box",
    leaky_integrator_box.li_box_feed_forward_step,
    _li_box,
    leaky_integrator_box.LIBoxState,
    settled=True,
)
IAF = Form(NORSE_BOX, "iaf", iaf.iaf_feed_forward_step, _iaf, iaf.IAFFeedForwardState, settled=True)
IZHIKEVICH = Form(
    NORSE_IZHIKEVICH,
    "izhikevich",
    izhikevich.izhikevich_feed_forward_step,
    _izhikevich,
    izhikevich.IzhikevichState,
)
LIF_REFRAC = Form(
    NORSE_REFRAC,
    "refrac",
    lif_refrac.lif_refrac_feed_forward_step,
    _refrac,
    lif_refrac.LIFRefracFeedForwardState,
    low=True,
    nested="lif",
    inner=lif.LIFFeedForwardState,
)
LIF_ADEX_REFRAC = Form(
    NORSE_ADEX_REFRAC,
    "adex_refrac",
    lif_adex_refrac.lif_adex_refrac_feed_forward_step,
    _adex_refrac,
    lif_adex_refrac.LIFAdExRefracFeedForwardState,
    low=True,
    nested="lif_adex",
    inner=lif_adex.LIFAdExFeedForwardState,
)
# What happens within the neurons of the cells in `norse_products`, without their products
LI_LINEAR = replace(LI, activation=None)
LIF_MC_REFRAC = replace(LIF_REFRAC, neuron=NORSE_MC_REFRAC, kind="mc_refrac", activation=None)
COBA = Form(NORSE_COBA, "coba", None, _coba, coba_lif.CobaLIFFeedForwardState)


FORMS: dict[type[nn.Module], Form] = {
    nt.LIFCell: LIF,
    nt.LIF: LIF,
    nt.LICell: LI,
    nt.LI: LI,
    nt.LIFBoxCell: LIF_BOX,
    nt.LIBoxCell: LI_BOX,
    nt.IAFCell: IAF,
    nt.IAF: IAF,
    nt.LIFExCell: LIF_EX,
    nt.LIFEx: LIF_EX,
    nt.LIFAdExCell: LIF_ADEX,
    nt.LIFAdEx: LIF_ADEX,
    nt.LSNNCell: LSNN,
    nt.LSNN: LSNN,
    nt.IzhikevichCell: IZHIKEVICH,
    nt.Izhikevich: IZHIKEVICH,
    nt.LIFRefracCell: LIF_REFRAC,
    nt.LIFAdExRefracCell: LIF_ADEX_REFRAC,
    nt.LILinearCell: LI_LINEAR,
    nt.LIFMCRefracRecurrentCell: LIF_MC_REFRAC,
    nt.CobaLIFCell: COBA,
    # Sequences that only newer releases of Norse have.
    **{getattr(nt, name): form for name, form in (("LIFBox", LIF_BOX), ("LIBox", LI_BOX)) if hasattr(nt, name)},
}
"""By Norse's class."""


def form_of(cls: type[nn.Module]) -> Form | None:
    """Of Norse's class, of its accelerated subclass, or of a parametrised one."""
    return next((FORMS[c] for c in cls.__mro__ if c in FORMS), None)


def emits_spikes(module: nn.Module) -> bool:
    """Whether what a layer gives is spikes; those named LI give a membrane."""
    return not any(cls.__name__.startswith("LI") and cls.__name__[2:3] != "F" for cls in type(module).__mro__)
