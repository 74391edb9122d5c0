"""Neuron models: their steps, their autograd and their `torch.library` ops, over whichever backend runs them."""

from plugin_accel.neurons import ops
from plugin_accel.neurons.config import Config
from plugin_accel.neurons.neuron import Derived, Gradients, Incoming, Kernels, Neuron, Result, Saved, Wanted
from plugin_accel.neurons.norse_adaptive import NORSE_ADEX, NORSE_IZHIKEVICH, NORSE_LSNN
from plugin_accel.neurons.norse_box import NORSE_BOX
from plugin_accel.neurons.norse_coba import NORSE_COBA
from plugin_accel.neurons.norse_config import NorseConfig
from plugin_accel.neurons.norse_lif import NORSE_LIF
from plugin_accel.neurons.norse_refrac import NORSE_ADEX_REFRAC, NORSE_MC_REFRAC, NORSE_REFRAC
from plugin_accel.neurons.sequence import run, run_unchecked
from plugin_accel.neurons.sinabs_alif import SINABS_ALIF
from plugin_accel.neurons.sinabs_config import SinabsConfig
from plugin_accel.neurons.sinabs_lif import SINABS_LIF
from plugin_accel.neurons.snntorch_alpha import SNNTORCH_ALPHA
from plugin_accel.neurons.snntorch_config import SnnTorchConfig
from plugin_accel.neurons.snntorch_delta import SNNTORCH_DELTA
from plugin_accel.neurons.snntorch_leaky import SNNTORCH_LAPICQUE, SNNTORCH_LEAKY
from plugin_accel.neurons.snntorch_parallel import SNNTORCH_PARALLEL
from plugin_accel.neurons.snntorch_synaptic import SNNTORCH_SYNAPTIC

_NEURONS = (
    SINABS_LIF,
    SINABS_ALIF,
    SNNTORCH_LEAKY,
    SNNTORCH_LAPICQUE,
    SNNTORCH_SYNAPTIC,
    SNNTORCH_ALPHA,
    SNNTORCH_PARALLEL,
    NORSE_LIF,
    NORSE_BOX,
    NORSE_ADEX,
    NORSE_LSNN,
    NORSE_IZHIKEVICH,
    NORSE_REFRAC,
    NORSE_ADEX_REFRAC,
    NORSE_MC_REFRAC,
    NORSE_COBA,
    SNNTORCH_DELTA,
)

ALL: dict[str, Neuron] = {n.name: n for n in _NEURONS}
"""Every neuron model by name."""

for _neuron in ALL.values():
    ops.register(_neuron)

__all__ = [
    "ALL",
    "NORSE_ADEX",
    "NORSE_ADEX_REFRAC",
    "NORSE_BOX",
    "NORSE_COBA",
    "NORSE_IZHIKEVICH",
    "NORSE_LIF",
    "NORSE_LSNN",
    "NORSE_MC_REFRAC",
    "NORSE_REFRAC",
    "SINABS_ALIF",
    "SINABS_LIF",
    "SNNTORCH_ALPHA",
    "SNNTORCH_DELTA",
    "SNNTORCH_LAPICQUE",
    "SNNTORCH_LEAKY",
    "SNNTORCH_PARALLEL",
    "SNNTORCH_SYNAPTIC",
    "Config",
    "Derived",
    "Gradients",
    "Incoming",
    "Kernels",
    "Neuron",
    "NorseConfig",
    "Result",
    "Saved",
    "SinabsConfig",
    "SnnTorchConfig",
    "Wanted",
    "ops",
    "run",
    "run_unchecked",
]
