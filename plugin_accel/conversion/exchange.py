"""Exchanging the class of a module in place, parametrised modules included.

Nothing else of the module changes: Parameters, buffers, hooks, flags and attributes live in its ``__dict__``, which
stays the same object.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

__all__ = ["base_class", "exchange", "incompatible", "own_class"]


def is_dynamic(cls: type[nn.Module]) -> bool:
    """Whether ``torch.nn.utils.parametrize`` made this class for one parametrised module."""
    return (
        cls.__module__ == parametrize.__name__
        and len(cls.__bases__) == 1
        and cls.__name__ == f"Parametrized{cls.__bases__[0].__name__}"
    )


def base_class(module: nn.Module) -> type[nn.Module]:
    """The class of the module before parametrisation."""
    cls = type(module)
    while is_dynamic(cls):
        cls = cls.__bases__[0]
    return cls


def own_class(cls: type[nn.Module], base: type[nn.Module]) -> type[nn.Module]:
    """Rebuilds the dynamic class of a parametrised module on top of ``base``.

    ``parametrize`` makes one class per module, holding one property per parametrised tensor, and finds the class to
    go back to in ``__bases__[0]``. A class like it on top of ``base`` therefore lets further parametrisations and
    ``remove_parametrizations`` work as before.

    Args:
        cls: A plain or a dynamic class.
        base: The class to put in place of the one before parametrisation.

    Returns:
        ``base`` itself if ``cls`` is plain, else a new dynamic class.
    """
    if not is_dynamic(cls):
        return base
    members = {key: value for key, value in vars(cls).items() if key not in ("__dict__", "__weakref__")}
    below = own_class(cls.__bases__[0], base)
    return type(f"Parametrized{below.__name__}", (below,), members)


def exchange(module: nn.Module, base: type[nn.Module]) -> None:
    """Makes ``module`` an instance of ``base``, keeping its parametrisations.

    Raises:
        TypeError: If Python cannot give the module that class; the module is then unchanged.
    """
    # Not `module.__class__ = ...`: that runs nn.Module.__setattr__, which searches the module's registries.
    object.__setattr__(module, "__class__", own_class(type(module), base))


def incompatible(current: type[nn.Module], base: type[nn.Module]) -> str | None:
    """Why an instance of ``current`` cannot become one of ``base``, ``None`` if it can.

    Tried on an empty instance, since Python offers no other way to compare the layout of two classes.
    """
    if not issubclass(base, current):
        return f"its host plugin maps it to {base.__qualname__}, which is no subclass of {current.__qualname__}"
    try:
        probe = object.__new__(current)
        object.__setattr__(probe, "__class__", base)
    except TypeError as error:
        return f"its class cannot be exchanged in place ({error})"
    return None
