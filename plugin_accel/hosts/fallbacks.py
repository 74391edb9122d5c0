"""Why converted layers ran their host's own forward: noted when it happens, read by `report`."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import nn

from plugin_accel.errors import Refused

_fallbacks: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def last_fallback(module: nn.Module) -> str | None:
    """Why the last call of a converted layer that could not be accelerated ran its host's own forward."""
    return _fallbacks.get(module)


def refused(layer: nn.Module, why: Refused) -> None:
    """Notes why a call is left to the host's own forward."""
    if not torch.compiler.is_compiling():
        _fallbacks[layer] = str(why)
