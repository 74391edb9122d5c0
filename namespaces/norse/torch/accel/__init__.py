"""``norse.torch`` with the accelerated neurons in place of its own: ``import norse.torch.accel as norse``.

Every other name is norse.torch's, unchanged; submodules that it has loaded are found here too.
"""

from typing import Any

import norse.torch
from norse.torch import *  # the names differ between versions of Norse

from plugin_accel import convert, converted, report, restore, use_backend
from plugin_accel.hosts.norse import (
    IAF,
    LI,
    LIF,
    LSNN,
    IAFCell,
    Izhikevich,
    IzhikevichCell,
    IzhikevichRecurrent,
    IzhikevichRecurrentCell,
    LIBoxCell,
    LICell,
    LIFAdEx,
    LIFAdExCell,
    LIFAdExRecurrent,
    LIFAdExRecurrentCell,
    LIFAdExRefracCell,
    LIFAdExRefracRecurrent,
    LIFAdExRefracRecurrentCell,
    LIFBoxCell,
    LIFCell,
    LIFEx,
    LIFExCell,
    LIFExRecurrent,
    LIFExRecurrentCell,
    LIFRecurrent,
    LIFRecurrentCell,
    LIFRefracCell,
    LIFRefracRecurrent,
    LIFRefracRecurrentCell,
    LSNNCell,
    LSNNRecurrent,
    LSNNRecurrentCell,
)
from plugin_accel.hosts.norse_products import CobaLIFCell, LIFMCRecurrentCell, LIFMCRefracRecurrentCell, LILinearCell


def __getattr__(name: str) -> Any:
    from plugin_accel.hosts import norse as host

    if name in ("LIBox", "LIFBox") and hasattr(host, name):  # newer releases have them
        return getattr(host, name)
    return getattr(norse.torch, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(norse.torch)})
