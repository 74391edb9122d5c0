"""What a forward reads of Python besides its arguments, and whether it is still the same.

A fused forward is not run again, so whatever could have made it take another path must be looked at before each call:
attributes of modules and objects, globals, lists and dicts, down to plain values. Which names matter is read off the
code that ran. What is only handed on to a layer's own code is that layer's business: layers are called for real.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from plugin_accel.conversion.fusion.places import Cell, Place, tensors_in
from plugin_accel.conversion.fusion.program import Unfusable, meta_of

__all__ = ["CALLS", "ENGINE", "OURS", "RUNNER", "SIMPLE", "Guards", "is_foreign"]

# Where a module keeps what runs its forward fused, and calls with it among the arguments; no forward reads them.
ENGINE = "_plugin_accel_fusion"
RUNNER = "_plugin_accel_run"
CALLS = "_plugin_accel_calls"
OURS = (ENGINE, RUNNER, CALLS)

SIMPLE = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size, range, slice)
_REGISTRIES = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MISSING = object()
# Their functions give something else at each call, and some are written such that no profiler sees the calls.
_FICKLE = ("random", "numpy.random", "time", "secrets", "uuid", "datetime")
_LIMIT = 5000


def is_foreign(module_name: str) -> bool:
    """Whether this is the code of a library whose workings are not part of what a user's forward decides by."""
    top = module_name.partition(".")[0]
    return top in ("torch", "plugin_accel", "builtins") or top in sys.stdlib_module_names


def _fingerprint(value: Any, budget: list[int]) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        raise Unfusable("reads a container too large to watch for changes")
    if isinstance(value, Tensor):
        return meta_of(value)[:4]
    if isinstance(value, Mapping):
        return type(value), tuple((_fingerprint(k, budget), _fingerprint(v, budget)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_fingerprint(item, budget) for item in value)
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(_fingerprint(item, budget) for item in value)
    if isinstance(value, SIMPLE):
        return type(value), repr(value)
    if _is_numpy(value):
        if value.size > _LIMIT:
            raise Unfusable("reads a large NumPy array")
        return type(value), str(value.dtype), value.shape, value.tobytes()
    return id(value)


def _home(value: Any) -> str:
    """The Python module that a module, function or object belongs to."""
    if isinstance(value, ModuleType):
        return value.__name__
    own = getattr(value, "__module__", None)
    return own if isinstance(own, str) else type(value).__module__


def _is_numpy(value: Any) -> bool:
    return type(value).__module__ == "numpy" and hasattr(value, "tobytes")  # without importing it


class Guards:
    """Watches the Python values that decide what a forward does.

    Args:
        names: The names that the code of the forward mentions; of an object, only these are watched.
        everything: Watch all attributes: the code looks some up by computed names.
        opaque: The layers that are called as a whole.
        is_host: Whether a Python module belongs to a host framework, whose workings are its own.
    """

    def __init__(
        self, names: frozenset[str], everything: bool, opaque: Iterable[nn.Module], is_host: Callable[[str], bool]
    ) -> None:
        self._names, self._everything = names, everything
        self._is_host = is_host
        self._opaque = {id(module) for module in opaque}
        self._seen: set[int] = set()
        self._kept: list[Any] = []
        self._same: list[tuple[Any, Any, Any]] = []  # (dict, key, simple value)
        self._tensors: list[tuple[Any, Any, Any]] = []  # (dict, key, shape, dtype, device, requires_grad)
        self._deep: list[tuple[Any, Any, Any]] = []  # (dict, key, fingerprint)
        self._types: list[tuple[Any, type]] = []
        self._sizes: list[tuple[Any, int]] = []
        self._alike: list[list[Place]] = []

    def _is_foreign(self, name: str) -> bool:
        return is_foreign(name) or self._is_host(name)

    def hold(self, arguments: list[Any]) -> bool:
        """Whether everything is as it was."""
        for holder, key, value in self._same:
            now = holder.get(key, _MISSING)
            if now is not value and not (
                type(now) is type(value) and isinstance(now, (*SIMPLE, tuple)) and now == value
            ):
                return False
        for module, cls in self._types:
            if type(module) is not cls:
                return False
        for container, size in self._sizes:
            if len(container) != size:
                return False
        for holder, key, (shape, dtype, device, requires_grad) in self._tensors:
            now = holder.get(key, _MISSING)
            if not isinstance(now, Tensor):
                return False
            same = now.dtype is dtype and now.requires_grad is requires_grad and now.shape == shape
            if not same or now.device != device:
                return False
        try:
            if any(_fingerprint(holder.get(key), [_LIMIT]) != print_ for holder, key, print_ in self._deep):
                return False
            return all(place.read(arguments) is first.read(arguments) for first, *rest in self._alike for place in rest)
        except (Unfusable, LookupError, TypeError):
            return False

    def identities(self) -> list[int]:
        """Which tensors are in the watched places now; a forward that puts others there has a side effect."""
        found = [id(holder.get(key)) for holder, key, _ in self._tensors]
        for holder, key, _ in self._deep:
            found += [id(tensor) for _, tensor in tensors_in(holder.get(key))]
        return found

    def add_alike(self, places: list[Place]) -> None:
        """Watches places that hold one tensor: a program that takes it from the first of them takes it for all."""
        first, *others = places
        seen = [p for p in others if p.holder is None or p.registered or self._everything or p.key in self._names]
        if seen:
            self._alike.append([first, *seen])

    def add_code(self, code: CodeType, namespace: dict[str, Any]) -> None:
        """Watches the globals that ``code`` mentions."""
        for name in code.co_names:
            if name in namespace:
                self.add(namespace, name)

    def add_function(self, function: FunctionType) -> None:
        """Watches the closure and the defaults of a function."""
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            self.add(Cell(cell), name)
        for index, value in enumerate(function.__defaults__ or ()):
            self.add({index: value}, index)

    def add(self, holder: Any, key: Any) -> None:
        """Watches one entry of a dict."""
        value = holder.get(key)
        if isinstance(value, Tensor):
            self._tensors.append((holder, key, tuple(meta_of(value)[:4])))
        elif isinstance(value, SIMPLE) or (type(value) is tuple and all(isinstance(v, SIMPLE) for v in value)):
            self._same.append((holder, key, value))
        elif isinstance(value, (list, tuple, dict, set, frozenset)) or _is_numpy(value):
            self._deep.append((holder, key, _fingerprint(value, [_LIMIT])))
            self._inside(value)
        elif any(_home(value).startswith(name) for name in _FICKLE):
            raise Unfusable(f"reads {key!r}, of {_home(value)}: what it gives next cannot be known")
        elif hasattr(value, "__next__") and not isinstance(value, type):
            raise Unfusable(f"reads {key!r}, an iterator: what it gives next cannot be known")
        else:
            self._same.append((holder, key, value))
            self.add_object(value)

    def _inside(self, value: Any) -> None:
        for item in () if _is_numpy(value) else list(value.values() if isinstance(value, dict) else value):
            if isinstance(item, (list, tuple, dict)):
                self._inside(item)
            elif not isinstance(item, (Tensor, *SIMPLE)):
                self.add_object(item)

    def add_object(self, value: Any) -> None:
        """Watches what an object holds, as far as the code mentions it."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._kept.append(value)
        if isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, ModuleType):
            if not self._is_foreign(value.__name__):
                self._attributes(vars(value))
        elif isinstance(value, type):
            self._class(value)
        elif not isinstance(value, (FunctionType,)) and hasattr(value, "__dict__"):
            self._types.append((value, type(value)))
            if not self._is_foreign(type(value).__module__):
                self._attributes(vars(value))
                self._class(type(value))

    def _attributes(self, holder: Any) -> None:
        for key in list(holder):
            if key in self._names or self._everything:
                self.add(holder, key)
        # A name that is not there yet may come.
        for key in self._names - set(holder):
            if key.startswith("__"):
                continue
            self._same.append((holder, key, _MISSING))

    def _class(self, cls: type) -> None:
        for parent in cls.__mro__:
            if self._is_foreign(parent.__module__) or (id(parent) in self._seen and parent is not cls):
                continue
            self._seen.add(id(parent))
            for key, value in vars(parent).items():
                if key in self._names and not key.startswith("__"):
                    if isinstance(value, (list, dict, set)):
                        self._deep.append((vars(parent), key, _fingerprint(value, [_LIMIT])))
                    else:
                        self._same.append((vars(parent), key, value))

    def _module(self, module: nn.Module) -> None:
        values = vars(module)
        self._types.append((module, type(module)))
        self._same.append((values, "training", module.training))
        self._same.append((values, "forward", values.get("forward", _MISSING)))
        self._sizes += [(values[name], len(values[name])) for name in (*_HOOKS, *_REGISTRIES)]
        if id(module) in self._opaque:
            self._same += [(values, key, value) for key, value in values.items() if type(value) in (bool, int, str)]
            return
        for registry in ("_parameters", "_buffers"):
            for name, tensor in values[registry].items():
                if tensor is None:
                    self._same.append((values[registry], name, None))
                else:
                    self._tensors.append((values[registry], name, tuple(meta_of(tensor)[:4])))
        foreign = self._is_foreign(type(module).__module__)
        for key in list(values):
            if key not in (*_REGISTRIES, *_HOOKS, *OURS) and (foreign or self._everything or key in self._names):
                if foreign and not isinstance(values[key], (*SIMPLE, tuple)):
                    continue
                self.add(values, key)
        if not foreign:
            self._same += [
                (values, key, _MISSING)
                for key in self._names
                if key not in values
                and not key.startswith("__")
                and not any(key in values[registry] for registry in _REGISTRIES)
            ]
            self._class(type(module))
        for name, child in values["_modules"].items():
            self._same.append((values["_modules"], name, child))
            if child is not None:
                self.add_object(child)
