"""What time fusion asks about modules: which are called as a whole, and which take a whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from plugin_accel.conversion.walker import LoadedHost, loaded_hosts

__all__ = ["Layers"]


class Layers:
    """Asks the host plugins, and remembers the answers for the length of one recording."""

    def __init__(self) -> None:
        self._hosts = loaded_hosts()
        self._frameworks = {getattr(host.host, "framework", host.host.name) for host in self._hosts}
        self._owners: dict[int, LoadedHost | None] = {}

    def is_host(self, module_name: str) -> bool:
        """Whether a Python module is part of a host framework."""
        return module_name.partition(".")[0] in self._frameworks

    def owner(self, module: nn.Module) -> LoadedHost | None:
        """The host that owns a layer with a state."""
        if id(module) not in self._owners:
            self._owners[id(module)] = next((host for host in self._hosts if host.owns(module)), None)
        return self._owners[id(module)]

    def is_opaque(self, module: nn.Module) -> bool:
        """Whether a module is called as a whole, since it has a state: a host's layer, a norm in training."""
        if isinstance(module, _BatchNorm):
            return module.training and module.track_running_stats
        return self.owner(module) is not None

    def draws(self, module: nn.Module) -> bool:
        """Whether backward through a host's layer takes random numbers, call by call in the user's order."""
        owner = self.owner(module)
        draws = getattr(owner.host, "draws", None) if owner is not None else None
        return draws is not None and bool(draws(module))

    def sequence(self, module: nn.Module) -> Callable[..., Any] | None:
        """What runs the module over a whole sequence: ``(x, states, record=...)``; ``None`` if nothing does."""
        owner = self.owner(module)
        make = getattr(owner.host, "sequence", None) if owner is not None else None
        return None if make is None else make(module)
