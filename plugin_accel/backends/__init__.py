"""Backends: the protocol, and how one is chosen.

Order: the `backend=` argument of a call, `with use_backend(name)`, the environment variable `PLUGIN_ACCEL_BACKEND`,
then automatically by device. A backend that was named and cannot be used raises `BackendError` with what is available
and why each other is not; the automatic choice passes over it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch

from plugin_accel import plugins
from plugin_accel.errors import BackendError
from plugin_accel.modes import capturing
from plugin_accel.neurons import Kernels, ops

VARIABLE = "PLUGIN_ACCEL_BACKEND"
AUTO = "auto"


class Backend(Kernels, Protocol):
    """What a backend plugin returns from `plugin_accel_backends`."""

    devices: frozenset[str]
    """Types of the torch devices it runs on."""

    def unavailable(self) -> str | None:
        """Why it cannot be used on this machine; None if it can."""
        ...

    def details(self) -> str:
        """One line for `plugin-accel info`."""
        ...

    def refuses(self, neuron: str, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it cannot run this neuron on this device with this dtype; None if it can."""
        ...


_in_force: ContextVar[str | None] = ContextVar("plugin_accel_backend", default=None)
_choices: dict[tuple[str, torch.device, torch.dtype, str], Backend | None] = {}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Use a backend by name (or "auto") within a `with` block, in this thread or task.

    Raises:
        BackendError: no usable backend of that name.
    """
    if name != AUTO:
        get(name)
    token = _in_force.set(name)
    try:
        yield
    finally:
        _in_force.reset(token)


# What os.environ keeps its values in, where it is the one of CPython on POSIX: ten times as fast to ask, at every call
# of a layer.
_values: dict[bytes, bytes] | None = getattr(os.environ, "_data", None) if os.name == "posix" else None
_key = VARIABLE.encode()


def requested() -> str:
    """The name in force: of `use_backend`, of the environment variable, or "auto"."""
    if _values is not None and _key not in _values:
        return _in_force.get() or AUTO
    return _in_force.get() or os.environ.get(VARIABLE) or AUTO


def available() -> dict[str, Backend]:
    """Every registered backend that can be used on this machine, by name."""
    return {name: b for name, b in plugins.backends().items() if b.unavailable() is None}


def get(name: str) -> Backend:
    """A usable backend by name.

    Raises:
        BackendError: not registered, or not usable on this machine.
    """
    found = plugins.backends().get(name)
    why = "not registered" if found is None else found.unavailable()
    if found is None or why is not None:
        others = [f"{n} ({b.unavailable() or 'usable'})" for n, b in sorted(plugins.backends().items()) if n != name]
        raise BackendError(
            f"backend: expected one that can be used here, got {name!r} ({why}); known besides: "
            f"{', '.join(others) or 'none'}; set {VARIABLE} or use_backend(...) to one of {sorted(available())}"
            f" or {AUTO!r}"
        )
    return found


def choose(device: torch.device | str, dtype: torch.dtype, neuron: str, backend: str | None = None) -> Backend | None:
    """The backend to run `neuron` with; None if the automatic choice finds none (the host then runs its own forward).

    Args:
        device: Where the data is.
        dtype: fp32 or fp64.
        neuron: Name of the neuron model.
        backend: A name that overrides what is in force.

    Raises:
        BackendError: a backend was named that cannot do it.
    """
    device = torch.device(device) if isinstance(device, str) else device
    key = (backend or requested(), device, dtype, neuron)
    if key in _choices:
        return _choices[key]
    chosen = _choose(*key)
    if not capturing(device):  # in which a GPU cannot be tried
        _choices[key] = chosen
    return chosen


def _choose(name: str, device: torch.device, dtype: torch.dtype, neuron: str) -> Backend | None:
    if name != AUTO:
        named = get(name)
        why = named.refuses(neuron, device, dtype)
        if why is not None:
            usable = [n for n, b in available().items() if b.refuses(neuron, device, dtype) is None]
            raise BackendError(
                f"backend {name!r}: expected a call it can run, got {neuron} with {dtype} on {device} ({why}); "
                f"backends that can: {usable or 'none'}"
            )
        return named
    for candidate in plugins.backends().values():
        # Its devices come first: to ask for more may load a compiler that data on the CPU has no use for.
        if candidate.name == "reference" or device.type not in candidate.devices:
            continue
        if candidate.unavailable() is None and candidate.refuses(neuron, device, dtype) is None:
            return candidate
    _say_why_none(device, dtype, neuron)
    return None


_said: set[str] = set()


def _say_why_none(device: torch.device, dtype: torch.dtype, neuron: str) -> None:
    """One warning for each reason that leaves data on a GPU to the host, where there is a backend for GPUs."""
    for name, backend in plugins.backends().items():
        if device.type == "cpu" or name == "reference" or device.type not in backend.devices:
            continue
        why = backend.unavailable() or backend.refuses(neuron, device, dtype)
        if why is not None and why not in _said:
            _said.add(why)
            plugins.warn(f"backend {name!r} cannot run {neuron} on {device}, the host's own forward does: {why}")


_forgetful: list[Callable[[], None]] = []


def when_choices_change(forget: Callable[[], None]) -> None:
    """Have what was prepared for a chosen backend forgotten with the choice."""
    _forgetful.append(forget)


def forget_choices() -> None:
    """Choose anew from now on; called when plugins come or go."""
    _choices.clear()
    for forget in _forgetful:
        forget()


def _resolve(neuron: str, device: torch.device, dtype: torch.dtype, backend: str) -> Kernels:
    chosen = choose(device, dtype, neuron, backend or None)
    if chosen is None:
        raise BackendError(
            f"backend: expected one for {neuron} with {dtype} on {device}, got none; "
            f"available: {sorted(available())}; use_backend('reference') runs on any device"
        )
    return chosen


ops.set_resolver(_resolve)

__all__ = [
    "AUTO",
    "VARIABLE",
    "Backend",
    "available",
    "choose",
    "forget_choices",
    "get",
    "requested",
    "use_backend",
    "when_choices_change",
]
