"""Which modules take part in a forward, what they hold, and what has become of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from plugin_accel.conversion.fusion.guards import ENGINE, RUNNER, Place, tensors_in
from plugin_accel.conversion.fusion.program import Unfusable

__all__ = ["Holdings"]

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_Snapshot = dict[tuple[str, str], tuple[Any, Any]]


class Holdings:
    """The modules and objects that a forward was seen to use, as they were when it was seen first."""

    def __init__(self) -> None:
        self.modules: dict[int, nn.Module] = {}
        self.objects: list[Any] = []
        self._places: dict[int, tuple[Tensor, Place]] = {}  # with the tensor, so that no other can get its id
        self._names: dict[int, str] = {}
        self._states: dict[int, dict[str, Tensor | None]] = {}
        self._before: dict[int, _Snapshot] = {}

    def place(self, tensor: Tensor) -> Place | None:
        """Where a tensor was when the forward began."""
        known = self._places.get(id(tensor))
        return None if known is None else known[1]

    def name(self, module: nn.Module) -> str:
        """The qualified name of a module, or its class if it has none."""
        return self._names[id(module)] or type(module).__name__

    def label(self, module: nn.Module) -> str:
        """The qualified name of a module; empty for the root."""
        return self._names[id(module)]

    def put(self, tensor: Tensor, place: Place) -> None:
        """Notes where a tensor is."""
        self._places.setdefault(id(tensor), (tensor, place))

    def add_object(self, value: Any) -> None:
        """An argument that is no tensor, such as the ``self`` of a plain class."""
        self.objects.append(value)
        for holder, key, tensor in tensors_in(getattr(value, "__dict__", None)):
            self.put(tensor, Place(holder, key))

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
                        self.put(tensor, Place(values[registry], key))
            for key, value in values.items():
                if isinstance(value, Tensor):
                    self.put(value, Place(values, key))
                elif key not in (*_REGISTRIES, ENGINE, RUNNER):
                    for holder, place, tensor in tensors_in(value):
                        self.put(tensor, Place(holder, place))

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

    def changes(self, module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
        """The tensors that the forward put into a module: (dict, key, tensor).

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
            if isinstance(value, Tensor):
                yield (vars(module) if registry == "" else vars(module)[registry]), entry, value
            elif not (isinstance(value, (int, float, str, bool)) and type(old) is type(value) and old == value):
                raise Unfusable(f"changes {name}.{entry}")


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
            if registry == "" and key in (*_REGISTRIES, ENGINE, RUNNER):
                continue
            content: tuple[Any, ...] | None = None
            if isinstance(value, dict):
                content = tuple(item for pair in value.items() for item in pair)
            elif isinstance(value, (list, set)):
                content = tuple(value)
            found[registry, key] = (value, content)
    return found
