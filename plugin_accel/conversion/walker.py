"""Finding the layers of a model that some host framework owns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import nn

from plugin_accel import plugins
from plugin_accel.conversion.exchange import base_class, incompatible

if TYPE_CHECKING:
    from plugin_accel.hosts import Host

__all__ = ["Layer", "LoadedHost", "classify", "find_layers", "loaded_hosts", "walk"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class LoadedHost:
    """A host whose framework is imported, with its class mapping read once.

    Attributes:
        host: The host.
        classes: Host class to accelerated class.
        originals: Accelerated class to host class.
    """

    host: Host
    classes: Mapping[type[nn.Module], type[nn.Module]]
    originals: Mapping[type[nn.Module], type[nn.Module]]

    def owns(self, module: nn.Module) -> bool:
        """Whether ``module`` is a stateful neuron layer of the framework."""
        return bool(_ask(self.host, lambda: self.host.owns(module), False))

    def emits_spikes(self, module: nn.Module) -> bool:
        """Whether what a layer of the framework gives is spikes; a host that does not tell has no other."""
        emits = getattr(self.host, "emits_spikes", None)
        return emits is None or bool(_ask(self.host, lambda: emits(module), False))


@dataclass(frozen=True)
class Layer:
    """One module that a host owns.

    Attributes:
        names: All qualified names of the module, in the order of the walk; ``""`` is the root.
        module: The module.
        host: The host that owns it.
        host_class: Its class in the host framework; for a user's subclass, that subclass.
        target: The class that ``convert`` gives it, ``None`` if it is converted already or cannot be.
        original: The class that ``restore`` gives it, ``None`` if there is nothing to restore.
        runs_accelerated: Whether its class is an accelerated one or derives from one.
        refusal: Why its class is left alone, ``None`` if it is converted or can be.
        note: What else the report says of it.
    """

    names: tuple[str, ...]
    module: nn.Module
    host: LoadedHost
    host_class: type[nn.Module]
    target: type[nn.Module] | None = None
    original: type[nn.Module] | None = None
    runs_accelerated: bool = False
    refusal: str | None = None
    note: str | None = None

    def reasons(self) -> tuple[str, ...]:
        """Why this layer, converted, would run the host's own forward; ``()`` if nothing stands against it."""
        if self.refusal is not None:
            return (self.refusal,)
        if "forward" in vars(self.module):
            return ("its `forward` is replaced on the instance, and the accelerated one is not called",)
        host = self.host.host
        return tuple(_ask(host, lambda: host.reasons(self.module), ("its host plugin failed to say",)))

    def backend(self) -> str | None:
        """The backend that would run this layer, ``None`` if there is none, ``"-"`` if its host names none.

        Raises:
            BackendError: A backend was named that cannot.
        """
        backend = getattr(self.host.host, "backend", None)
        return "-" if backend is None else cast("str | None", backend(self.module))

    def last_fallback(self) -> str | None:
        """Why the last call of this layer ran the host's own forward, if its host keeps that record."""
        host = self.host.host
        last_fallback = getattr(host, "last_fallback", None)
        return None if last_fallback is None else _ask(host, lambda: last_fallback(self.module), None)


def walk(model: nn.Module) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """Lists each module once, in the order of ``model.named_modules()``, with all of its names.

    Does not enter a ScriptModule: what it holds is compiled, and has no Python class to exchange.
    """
    found: dict[int, tuple[nn.Module, list[str]]] = {}
    path: set[int] = set()

    def visit(module: nn.Module, name: str) -> None:
        found.setdefault(id(module), (module, []))[1].append(name)
        # A module may contain itself; named_modules() survives that, so this does too.
        if id(module) in path or isinstance(module, torch.jit.ScriptModule):
            return
        path.add(id(module))
        for child_name, child in module._modules.items():
            if child is not None:
                visit(child, f"{name}.{child_name}" if name else child_name)
        path.remove(id(module))

    visit(model, "")
    return [(module, tuple(names)) for module, names in found.values()]


def loaded_hosts() -> list[LoadedHost]:
    """The hosts whose framework is imported. One that fails to list its classes is left out with a warning."""
    result = []
    for host in plugins.hosts().values():
        if _ask(host, host.loaded, False):
            none: Mapping[type[nn.Module], type[nn.Module]] = {}
            classes = _ask(host, host.classes, none)
            originals = {accelerated: original for original, accelerated in classes.items()}
            result.append(LoadedHost(host, classes, originals))
    return result


def find_layers(model: nn.Module) -> list[Layer]:
    """Lists the layers of ``model`` that a loaded host owns. Changes nothing."""
    hosts = loaded_hosts()
    layers = (classify(module, names, hosts) for module, names in walk(model))
    return [layer for layer in layers if layer is not None]


def classify(module: nn.Module, names: tuple[str, ...], hosts: list[LoadedHost]) -> Layer | None:
    """What a module is to these hosts, ``None`` if nothing."""
    if isinstance(module, torch.jit.ScriptModule):
        return _classify_script(module, names, hosts)
    cls = base_class(module)
    for host in hosts:
        if cls in host.classes:
            target = host.classes[cls]
            refusal = incompatible(cls, target)
            return Layer(names, module, host, cls, target=None if refusal else target, refusal=refusal)
        if cls in host.originals:
            original = host.originals[cls]
            return Layer(names, module, host, original, original=original, runs_accelerated=True)
        if issubclass(cls, tuple(host.originals)):
            return Layer(names, module, host, cls, runs_accelerated=True)
        if host.owns(module):
            return Layer(names, module, host, cls, refusal=_why_unsupported(module, cls, host))
    return None


def _why_unsupported(module: nn.Module, cls: type[nn.Module], host: LoadedHost) -> str:
    why_left = getattr(host.host, "why_left", None)
    known: str | None = None if why_left is None else _ask(host.host, lambda: why_left(module), None)
    if known is not None:
        return known
    for parent in cls.__mro__:
        if parent in host.classes:
            return (
                f"its class {cls.__qualname__} is a subclass of {parent.__qualname__}, and only the exact class is"
                " converted, since a subclass may change the dynamics"
            )
    return f"{host.host.name}'s {cls.__qualname__} has no accelerated version"


def _classify_script(module: torch.jit.ScriptModule, names: tuple[str, ...], hosts: list[LoadedHost]) -> Layer | None:
    # TorchScript keeps the Python class of what it compiled by its bare name alone.
    inside = {getattr(part, "original_name", "") for part in module.modules()}
    for host in hosts:
        for cls in host.classes:
            if cls.__name__ in inside:
                refusal = f"TorchScript compiled it, with {cls.__name__} inside, and fixed then what it runs"
                return Layer(names, module, host, type(module), refusal=refusal)
    return None


def _ask(host: Host, question: Callable[[], _T], default: _T) -> _T:
    """Asks a host plugin, and does not let its failure reach the user's program."""
    try:
        return question()
    except Exception as error:
        plugins.warn(
            f"host plugin {host.name!r} of plugin_accel failed ({type(error).__name__}: {error}); what it cannot tell"
            " is left to the host's own forward"
        )
        return default
