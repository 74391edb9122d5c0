"""``fused``, and the class that a module gets by ``convert(model, fuse_time=True)``."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import nn

from plugin_accel.conversion.exchange import base_class, exchange
from plugin_accel.conversion.fusion.engine import Engine
from plugin_accel.conversion.fusion.guards import CALLS, ENGINE, RUNNER

__all__ = ["engine_of", "fuse", "fused", "is_fused", "unfuse"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def fused(function: _Function) -> _Function:
    """Runs a function that holds a loop over time layer by layer, with the same results.

    For a loop outside of the network, such as ``forward_pass(net, num_steps, data)``. The first two calls of each
    signature run as they are and are recorded; from the third on, calls that do the same at each step run once over
    all steps. What cannot be fused runs as it is; ``function.fusion.reason`` says why, ``print(function.fusion.table)``
    shows the schedule.

    Args:
        function: The function; its networks may be arguments, globals or in its closure. Convert them first, so that
            their layers run as sequences.

    Returns:
        A function with the same signature.
    """
    engine = Engine()

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return engine.call(function, args, kwargs, [])

    call.fusion = engine  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


class _Fused(type):
    """The class of classes whose forward is fused; pickled as what they are made of."""


def _rebuild(base: type[nn.Module]) -> type[nn.Module]:
    return _fused_class(base)


copyreg.pickle(_Fused, lambda cls: (_rebuild, (cls.__bases__[0],)))  # type: ignore[return-value, arg-type]


def _fused_class(base: type[nn.Module]) -> type[nn.Module]:
    # The list of subclasses is weak: a class made here lives as long as a module of it.
    for known in type.__subclasses__(base):
        if type(known) is _Fused:
            return known

    @wraps(base.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        engine = vars(self).get(ENGINE)
        if engine is None or torch.compiler.is_compiling():
            return base.forward(self, *args, **kwargs)
        return engine.call(base.forward.__get__(self), args, kwargs, [self])

    members = {
        "forward": forward,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    return cast("type[nn.Module]", _Fused(base.__name__, (base,), members))


def is_fused(module: nn.Module) -> bool:
    """Whether the forward of this module is fused."""
    return type(base_class(module)) is _Fused


def engine_of(module: nn.Module) -> Engine | None:
    """What runs the fused forward of a module."""
    return vars(module).get(ENGINE) if is_fused(module) else None


def fuse(module: nn.Module, explain: bool) -> str | None:
    """Fuses the forward of a module; gives the reason if it cannot be."""
    module = getattr(module, "module", module) if _wraps(module) else module
    if is_fused(module):
        vars(module)[ENGINE] = Engine(explain)
        return None
    if "forward" in vars(module):
        return "its `forward` is replaced on the instance"
    base = base_class(module)
    if type(base) is not type:
        return f"its class has a metaclass, {type(base).__name__}"
    try:
        exchange(module, _fused_class(base))
    except TypeError as error:
        return f"its class cannot be exchanged in place ({error})"
    vars(module)[ENGINE] = Engine(explain)
    return None


def unfuse(module: nn.Module) -> None:
    """Gives a module its own class back."""
    for key in (CALLS, RUNNER):
        vars(module).pop(key, None)
    if is_fused(module):
        exchange(module, base_class(module).__bases__[0])
        vars(module).pop(ENGINE, None)


def _wraps(module: nn.Module) -> bool:
    return isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel))
