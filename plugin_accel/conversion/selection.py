"""``include=`` and ``exclude=``: which layers a conversion touches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from plugin_accel.conversion.walker import Layer

__all__ = ["Selector", "select"]

Selector: TypeAlias = "str | type | nn.Module | Callable[[str, nn.Module], bool] | Iterable[Selector] | None"
_Test: TypeAlias = Callable[[Layer], bool]


def select(layers: Iterable[Layer], include: Selector = None, exclude: Selector = None) -> list[Layer]:
    """The layers that ``include`` selects (all, if ``None``) and ``exclude`` does not.

    Each of the two is one of these, or an iterable of them, any of which may match:

    * a string: a glob on the qualified name, where ``*`` crosses dots (``"encoder.*"`` is all of the encoder). A
      shared layer matches by any of its names;
    * a type: a layer class of the host matches that class alone (sinabs's IAF derives from LIF, but
      ``include=LIF`` does not mean IAF); any other type, such as a base class or a mixin, matches its subclasses;
    * a module: itself and all layers inside it;
    * a callable ``predicate(name, module) -> bool``, asked for each name.

    Raises:
        TypeError: If a selector is something else.
    """
    included = (lambda layer: True) if include is None else _compile("include", include)
    excluded = (lambda layer: False) if exclude is None else _compile("exclude", exclude)
    return [layer for layer in layers if included(layer) and not excluded(layer)]


def _compile(what: str, selector: Selector) -> _Test:
    if isinstance(selector, str):
        pattern = selector
        return lambda layer: any(fnmatchcase(name, pattern) for name in layer.names)
    if isinstance(selector, type):
        cls = selector
        return lambda layer: _has_type(layer, cls)
    # Before the two below: a module can be called, and a container iterated.
    if isinstance(selector, nn.Module):
        inside = {id(module) for module in selector.modules()}
        return lambda layer: id(layer.module) in inside
    if callable(selector):
        predicate = selector
        return lambda layer: any(predicate(name, layer.module) for name in layer.names)
    if isinstance(selector, Iterable):
        tests = [_compile(what, item) for item in selector]
        return lambda layer: any(test(layer) for test in tests)
    raise TypeError(
        f"{what}: expected a name pattern, a type, a module, a predicate(name, module) or an iterable of them, got"
        f" {selector!r} ({type(selector).__name__}); pass for example {what}='encoder.*'"
    )


def _has_type(layer: Layer, cls: type) -> bool:
    wanted = layer.host.originals.get(cls, cls)
    if wanted in layer.host.classes:
        return layer.host_class is wanted
    return isinstance(layer.module, cls)
