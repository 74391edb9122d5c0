"""What has been found out about objects of the user's, for as long as these live."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar
from weakref import ref

_Value = TypeVar("_Value")

_PLAIN = (bool, int, float, str, tuple)
_MOST_KEPT = 8
"""Of objects that cannot be referenced weakly, those asked for last are kept alive by what is known of them."""


def watched(attributes: Mapping[str, Any], names: Iterable[str]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Which attributes of a layer to compare by `same`, and what they are now: held weakly, but for plain values.

    A callable of the user's may lead to the layer, and must not be kept alive by what is known of that. One that cannot
    be referenced weakly is left out.
    """
    found = {}
    for name in names:
        value = attributes.get(name)
        try:
            found[name] = value if value is None or isinstance(value, _PLAIN) else ref(value)
        except TypeError:
            continue
    return tuple(found), tuple(found.values())


class Known(Generic[_Value]):
    """Values by the identity of objects: these need no hash, and are not kept alive.

    Not by equality, which a user's class may define as it likes. A method may be asked for if somebody holds it, as a
    layer does; what it is bound to, often a network with that layer in it, can then go.

    Args:
        find: Gives the value of an object. It must not hold the object.
    """

    def __init__(self, find: Callable[[Any], _Value]) -> None:
        self._find = find
        self._weak: dict[int, tuple[ref[Any], _Value]] = {}
        self._kept: list[tuple[Any, _Value]] = []

    def __call__(self, of: Any) -> _Value:
        """The value of an object, found at the first call."""
        found = self._weak.get(id(of))
        # Its entry goes with an object, and before its identity can be another's; a callback may yet come late.
        if found is not None and found[0]() is of:
            return found[1]
        for kept, value in self._kept:
            if kept is of:
                return value
        return self.put(of, self._find(of))

    def put(self, of: Any, value: _Value) -> _Value:
        """Makes this the value of an object."""
        key = id(of)
        try:
            self._weak[key] = (ref(of, lambda gone: self._forget(key, gone)), value)
        except TypeError:  # such as one of a class with __slots__
            others = [entry for entry in self._kept if entry[0] is not of]
            self._kept = [(of, value), *others[: _MOST_KEPT - 1]]
        return value

    def forget(self, of: Any) -> None:
        """Has the value of an object be found anew."""
        self._weak.pop(id(of), None)
        self._kept = [entry for entry in self._kept if entry[0] is not of]

    def _forget(self, key: int, gone: ref[Any]) -> None:
        found = self._weak.get(key)
        if found is not None and found[0] is gone:
            del self._weak[key]
