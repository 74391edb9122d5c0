"""Neurons and options that between them take every path of the CUDA kernels."""

from __future__ import annotations

from typing import NamedTuple

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
    SINABS_ALIF,
    SINABS_LIF,
    SNNTORCH_ALPHA,
    SNNTORCH_DELTA,
    SNNTORCH_LAPICQUE,
    SNNTORCH_LEAKY,
    SNNTORCH_PARALLEL,
    SNNTORCH_SYNAPTIC,
    Config,
    Neuron,
    NorseConfig,
    SinabsConfig,
    SnnTorchConfig,
)
from plugin_accel.surrogates import Surrogate

EXPONENTIAL = Surrogate("single_exponential", (0.5, 1.0))
ATAN = Surrogate("atan", (2.0,))
SUPER_SPIKE = Surrogate("fast_sigmoid", (25.0, float("-inf")))

SURROGATES = (
    Surrogate("periodic_exponential", (0.7, 1.1)),
    Surrogate("heaviside", (0.4,)),
    Surrogate("gaussian", (0.1, 0.5, 1.2)),
    Surrogate("multi_gaussian", (0.0, 0.5, 0.15, 6.0, 1.0)),
    Surrogate("constant", (1.0,)),
    Surrogate("triangular", (0.8,)),
    Surrogate("fast_sigmoid", (25.0, -0.5)),
    Surrogate("above_threshold", ()),
    Surrogate("sigmoid", (4.0,)),
    Surrogate("spike_rate_escape", (1.0, 0.9)),
    Surrogate("triangle", (0.3,)),
    Surrogate("tanh", (1.5,)),
    Surrogate("circle", (1.2,)),
    Surrogate("erfc", (0.7,)),
)


class Case(NamedTuple):
    """A neuron with options; `per` maps parameters to how they vary."""

    name: str
    neuron: Neuron
    config: Config


def _sinabs(name: str, alif: bool = False, **options: object) -> Case:
    options = {"surrogate": None if options.get("spike") == "none" else EXPONENTIAL} | options
    return Case(name, SINABS_ALIF if alif else SINABS_LIF, SinabsConfig(**options))  # type: ignore[arg-type]


def _snn(name: str, neuron: Neuron, **options: object) -> Case:
    return Case(name, neuron, SnnTorchConfig(surrogate=ATAN, **options))  # type: ignore[arg-type]


def _norse(neuron: Neuron, kind: str) -> Case:
    spikes = kind not in ("li", "li_box")
    return Case(f"Norse {kind}", neuron, NorseConfig(kind=kind, surrogate=SUPER_SPIKE if spikes else None))


LIF = _sinabs("LIF")
CASES = (
    LIF,
    _sinabs("LIF, synapse", synapse=True, spike="single", reset="value", clamp=True),
    _sinabs("LIF, bounded", max_spikes=2.0, reset="subtract", clamp=True),
    _sinabs("ExpLeak", spike="none"),
    _sinabs("ALIF", alif=True, spike="single"),
    _sinabs("ALIF, synapse", alif=True, synapse=True, reset="value", clamp=True),
    _snn("Leaky", SNNTORCH_LEAKY),
    _snn("Leaky, zero", SNNTORCH_LEAKY, reset="zero"),
    _snn("Leaky, at once", SNNTORCH_LEAKY, reset="zero_after", delay=False),
    _snn("Lapicque", SNNTORCH_LAPICQUE),
    _snn("Synaptic, at once", SNNTORCH_SYNAPTIC, delay=False),
    _snn("Alpha", SNNTORCH_ALPHA),
    _snn("Parallel", SNNTORCH_PARALLEL),
    _snn("Delta", SNNTORCH_DELTA),
    _norse(NORSE_LIF, "lif"),
    _norse(NORSE_LIF, "lif_ex"),
    _norse(NORSE_BOX, "lif_box_subtract"),
    _norse(NORSE_ADEX, "adex"),
    _norse(NORSE_LSNN, "lsnn"),
    _norse(NORSE_IZHIKEVICH, "izhikevich"),
    _norse(NORSE_REFRAC, "refrac"),
    _norse(NORSE_ADEX_REFRAC, "adex_refrac"),
    _norse(NORSE_MC_REFRAC, "mc_refrac"),
    _norse(NORSE_COBA, "coba"),
)
