"""Where tensors come from: arguments, entries of dicts, closures, and lists and dicts within."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Cell", "Place", "cell_content", "containers", "tensors_in"]


class Place(NamedTuple):
    """Where a tensor that a forward uses comes from.

    A leaf of the arguments; or an entry of the dict of a module, a function or an object; or what ``path`` leads to
    from there, through lists and dicts that somebody may have replaced by then.
    """

    holder: Any
    key: Any
    path: tuple[Any, ...] = ()
    registered: bool = False  # a parameter or a buffer

    def read(self, arguments: list[Any]) -> Tensor:
        """The tensor that is there now."""
        value = arguments[self.key] if self.holder is None else self.holder[self.key]
        for key in self.path:
            value = value[key]
        tensor: Tensor = value
        return tensor


def tensors_in(value: Any, depth: int = 3) -> Iterable[tuple[tuple[Any, ...], Tensor]]:
    """(path, tensor) for the tensors in a list, tuple or dict: ``value[path[0]][path[1]]...``."""
    if depth == 0 or not isinstance(value, (list, tuple, dict)):
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, Tensor):
            yield (key,), item
        else:
            yield from (((key, *path), tensor) for path, tensor in tensors_in(item, depth - 1))


def containers(value: Any) -> Iterator[int]:
    """The ids of the lists and dicts that a value is made of, which somebody could change."""
    if isinstance(value, (list, dict)):
        yield id(value)
    if isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


def cell_content(cell: Any) -> Any:
    """What a closure's cell holds, ``None`` if it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


class Cell:
    """A closure's cell that is read like a dict of one entry."""

    def __init__(self, cell: Any) -> None:
        self._cell = cell

    def get(self, _key: Any, _default: Any = None) -> Any:
        """What it holds."""
        return cell_content(self._cell)

    def __getitem__(self, _key: Any) -> Any:
        return self._cell.cell_contents
