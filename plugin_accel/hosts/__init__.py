"""Host frameworks: what a host plugin offers, and the built-in ones.

A host says which layer classes of its framework have an accelerated subclass. The objects here are light: the file
that knows the framework (``plugin_accel.hosts.sinabs``) is imported only when the framework is already imported in
this process, since otherwise no model can contain one of its layers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from plugin_accel.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import nn

    from plugin_accel.hosts.sequences import SequenceFunction

__all__ = ["NORSE", "SINABS", "SNNTORCH", "FrameworkHost", "Host"]


@runtime_checkable
class Host(Protocol):
    """What conversion asks of a host framework.

    ``report`` also shows two things that a host may offer: ``backend(module) -> str | None``, the name of the backend
    that would run the module where it is now, ``None`` if there is none, ``"-"`` if it needs none; and
    ``last_fallback(module) -> str | None``, the reason why the module's last call ran the host's own forward.

    Attributes:
        name: Short unique name, e.g. ``"sinabs"``.
    """

    name: str

    def loaded(self) -> bool:
        """Whether the framework is imported in this process, so that a model can contain its layers."""

    def classes(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Maps each host class to its accelerated subclass, which adds no ``__init__``, member or state."""

    def owns(self, module: nn.Module) -> bool:
        """Whether this is a stateful neuron layer of the framework, converted or not, user subclasses included."""

    def reasons(self, module: nn.Module) -> tuple[str, ...]:
        """Why the module, converted, runs the host's own forward as it is configured now; ``()`` if it does not."""


class FrameworkHost:
    """A host whose knowledge lives in a module with ``classes()``, ``owns(module)`` and ``reasons(module)``.

    The module may also have ``last_fallback(module)``; ``emits_spikes(module)``, where some layers do not;
    ``neuron(module)``, which names the neuron that backends run for a layer; and ``sequence`` with
    ``has_sequence(module)``, see :mod:`plugin_accel.hosts.sequences`. While the
    framework is not imported, the module is not imported either and the host owns nothing.

    Args:
        name: Name of the host.
        framework: Import name of the framework.
        module: Dotted name of the module that holds the three functions.
    """

    def __init__(self, name: str, framework: str, module: str) -> None:
        self.name = name
        self.framework = framework
        self.module = module

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.framework!r}, {self.module!r})"

    def loaded(self) -> bool:
        """See :meth:`Host.loaded`."""
        # `None` in sys.modules is Python's way to block an import.
        return sys.modules.get(self.framework) is not None

    def _implementation(self) -> ModuleType | None:
        return import_module(self.module) if self.loaded() else None

    def classes(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """See :meth:`Host.classes`."""
        implementation = self._implementation()
        return {} if implementation is None else implementation.classes()

    def owns(self, module: nn.Module) -> bool:
        """See :meth:`Host.owns`."""
        implementation = self._implementation()
        return implementation is not None and bool(implementation.owns(module))

    def reasons(self, module: nn.Module) -> tuple[str, ...]:
        """See :meth:`Host.reasons`."""
        implementation = self._implementation()
        return () if implementation is None else tuple(implementation.reasons(module))

    def backend(self, module: nn.Module) -> str | None:
        """The backend that would run ``module``, by where its tensors are and what they are; see :class:`Host`.

        Raises:
            BackendError: A backend was named that cannot.
        """
        import torch

        from plugin_accel import backends

        neuron = getattr(self._implementation(), "neuron", None)
        name = None if neuron is None else neuron(module)
        if name is None:
            return "-"
        # The registries, not the attributes: those of a parametrised module are computed, which may change it.
        tensors = [*module.buffers(), *module.parameters()]
        floating = [tensor for tensor in tensors if tensor.is_floating_point()]
        device = floating[0].device if floating else torch.device("cpu")
        double = any(tensor.dtype is torch.float64 for tensor in floating)
        chosen = backends.choose(device, torch.float64 if double else torch.float32, name)
        return None if chosen is None else chosen.name

    def last_fallback(self, module: nn.Module) -> str | None:
        """Why the module's last call ran the host's own forward, if the implementation keeps that record."""
        last_fallback = getattr(self._implementation(), "last_fallback", None)
        return None if last_fallback is None else last_fallback(module)

    def emits_spikes(self, module: nn.Module) -> bool:
        """Whether what ``module`` gives is spikes, not a membrane or a current."""
        emits_spikes = getattr(self._implementation(), "emits_spikes", None)
        return emits_spikes is None or bool(emits_spikes(module))

    def why_left(self, module: nn.Module) -> str | None:
        """Why the class of ``module`` has no accelerated version, if the implementation has more to say than that."""
        why_left = getattr(self._implementation(), "why_left", None)
        return None if why_left is None else why_left(module)

    def draws(self, module: nn.Module) -> bool:
        """Whether backward through ``module`` takes random numbers, so that its calls must stay in the user's order."""
        draws = getattr(self._implementation(), "draws", None)
        return draws is not None and bool(draws(module))

    def sequence(self, module: nn.Module) -> SequenceFunction | None:
        """What runs ``module`` over all time steps at once; see :mod:`plugin_accel.hosts.sequences`.

        Returns:
            The function, or ``None``: the host has none for this layer, or the layer is not converted.
        """
        offered = getattr(self._implementation(), "has_sequence", None)
        if offered is None or not offered(module):
            return None
        function: SequenceFunction = self._implementation().sequence  # type: ignore[union-attr]
        return function

    @hookimpl
    def plugin_accel_hosts(self) -> Iterable[Host]:
        """The entry point names this object itself, which is both the plugin and the host."""
        return [self]


# Not named `sinabs`: importing the submodule of that name would replace it in this package.
SINABS = FrameworkHost("sinabs", "sinabs", "plugin_accel.hosts.sinabs")
SNNTORCH = FrameworkHost("snntorch", "snntorch", "plugin_accel.hosts.snntorch")
NORSE = FrameworkHost("norse", "norse.torch", "plugin_accel.hosts.norse")
