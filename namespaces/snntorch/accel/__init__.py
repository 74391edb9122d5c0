"""``snntorch`` with the accelerated neurons in place of its own: ``import snntorch.accel as snn``.

Every other name is snntorch's, unchanged; submodules that snntorch has loaded are found here too.
"""

from typing import Any

import snntorch
from snntorch import *  # the names differ between versions of snntorch

from plugin_accel import convert, converted, report, restore, use_backend
from plugin_accel.hosts.snntorch import Alpha, Lapicque, Leaky, RLeaky, RSynaptic, Synaptic, classes
from plugin_accel.hosts.snntorch_delta import DeltaLeaky
from plugin_accel.hosts.snntorch_layers import SLSTM, LeakyParallel, LinearLeaky, SConv2dLSTM, StateLeaky

# What this release of snntorch computes otherwise, or does not have, is snntorch's own matter: see __getattr__.
for _ours in (
    *(Alpha, DeltaLeaky, Lapicque, Leaky, LeakyParallel, LinearLeaky),
    *(RLeaky, RSynaptic, SConv2dLSTM, SLSTM, StateLeaky, Synaptic),
):
    if _ours not in classes().values():
        del globals()[_ours.__name__]


def __getattr__(name: str) -> Any:
    return getattr(snntorch, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(snntorch)})
