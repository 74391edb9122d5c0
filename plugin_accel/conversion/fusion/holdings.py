"""Which modules take part in a forward, what they hold, and what has become of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn

from plugin_accel.conversion.fusion.guards import OURS, SIMPLE
from plugin_accel.conversion.fusion.places import Place, containers, tensors_in
from plugin_accel.conversion.fusion.program import Unfusable, flatten

__all__ = ["Holdings"]

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_Snapshot = dict[tuple[str, str], tuple[Any, Any]]


class Holdings:
    """The modules and objects that a forward was seen to use, as they were when it was seen first."""

    def __init__(self) -> None:
        self.modules: dict[int, nn.Module] = {}
        self.objects: list[Any] = []
        self._places: dict[int, tuple[Tensor, list[Place]]] = {}  # with the tensor, so that no other can get its id
        self._names: dict[int, str] = {}
        self._states: dict[int, dict[str, Tensor | None]] = {}
        self._before: dict[int, _Snapshot] = {}

    def place(self, tensor: Tensor) -> Place | None:
        """Where a tensor was when the forward began."""
        known = self.places(tensor)
        return known[0] if known else None

    def places(self, tensor: Tensor) -> list[Place]:
        """All places where a tensor was: arguments first, then parameters and buffers, then what anybody may change."""
        known = self._places.get(id(tensor))
        return [] if known is None else sorted(known[1], key=lambda p: (p.holder is not None, not p.registered))

    def name(self, module: nn.Module) -> str:
        """The qualified name of a module, or its class if it has none."""
        return self._names[id(module)] or type(module).__name__

    def label(self, module: nn.Module) -> str:
        """The qualified name of a module; empty for the root."""
        return self._names[id(module)]

    def put(self, tensor: Tensor, place: Place) -> None:
        """Notes where a tensor is."""
        self._places.setdefault(id(tensor), (tensor, []))[1].append(place)

    def add_object(self, value: Any) -> None:
        """An argument that is no tensor, such as the ``self`` of a plain class."""
        self.objects.append(value)
        values = getattr(value, "__dict__", None)
        for (key, *path), tensor in tensors_in(values):
            self.put(tensor, Place(values, key, tuple(path)))

    def add_module(self, root: nn.Module, prefix: str) -> None:
        """A module with all that it contains."""
        for name, module in root.named_modules():
            if id(module) in self.modules:
                continue
            self.modules[id(module)] = module
            self._names[id(module)] = f"{prefix}.{name}" if prefix and name else name or prefix
            self._states[id(module)] = dict(module._buffers)
            self._before[id(module)] = _snapshot(module)
            values = vars(module)
            for registry in ("_parameters", "_buffers"):
                for key, tensor in values[registry].items():
                    if tensor is not None:
                        self.put(tensor, Place(values[registry], key, registered=True))
            for key, value in values.items():
                if isinstance(value, Tensor):
                    self.put(value, Place(values, key))
                elif key not in (*_REGISTRIES, *OURS):
                    for path, tensor in tensors_in(value):
                        self.put(tensor, Place(values, key, path))

    def remember(self, module: nn.Module) -> None:
        """The states of a layer are its own doing as they are now."""
        self._states[id(module)] = dict(module._buffers)

    def new_states(self, module: nn.Module) -> list[tuple[str, Tensor]]:
        """The states that somebody has put into a layer since :meth:`remember`."""
        before = self._states.get(id(module), {})
        found = [
            (key, tensor)
            for key, tensor in module._buffers.items()
            if tensor is not None and before.get(key) is not tensor
        ]
        self.remember(module)
        return found

    def changes(self, module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
        """What the forward put into a module: (dict, key, a tensor, or new lists and dicts with tensors and constants).

        Raises:
            Unfusable: It changed something else.
        """
        name = self.name(module)
        before, after = self._before[id(module)], _snapshot(module)
        for key in before.keys() - after.keys():
            raise Unfusable(f"removes {name}.{key[1]}")
        for key, (value, content) in after.items():
            old, old_content = before.get(key, (_ABSENT, None))
            if old is value and _same(old_content, content):
                continue
            registry, entry = key
            if isinstance(value, Tensor) or (registry == "" and value is not old and self._is_new(value)):
                yield (vars(module) if registry == "" else vars(module)[registry]), entry, value
            elif not (isinstance(value, (int, float, str, bool)) and type(old) is type(value) and old == value):
                raise Unfusable(f"changes {name}.{entry}")

    def _is_new(self, value: Any) -> bool:
        """Whether these are lists and dicts that no module had, with nothing but tensors and constants in them."""
        if not isinstance(value, (list, tuple, dict)):
            return False
        had = (containers(old) for before in self._before.values() for old, _ in before.values())
        plain = all(isinstance(leaf, (Tensor, *SIMPLE)) for leaf in flatten(value)[0])
        return plain and set(containers(value)).isdisjoint(chain.from_iterable(had))


_ABSENT = object()


def _same(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))


def _snapshot(module: nn.Module) -> _Snapshot:
    """All that a module holds, and what is in its lists and dicts."""
    values = vars(module)
    found: _Snapshot = {}
    for registry in ("", *_REGISTRIES):
        for key, value in (values if registry == "" else values[registry]).items():
            if registry == "" and key in (*_REGISTRIES, *OURS):
                continue
            content: tuple[Any, ...] | None = None
            if isinstance(value, dict):
                content = tuple(item for pair in value.items() for item in pair)
            elif isinstance(value, (list, set)):
                content = tuple(value)
            found[registry, key] = (value, content)
    return found
