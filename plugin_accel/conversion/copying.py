"""A copy of a model that keeps what ``copy.deepcopy`` of a host layer loses.

sinabs's ``StatefulLayer.__deepcopy__`` builds a new layer from constructor arguments: it drops ``requires_grad``,
hooks, the training flag and every attribute that is no argument, breaks references shared with the rest of the model,
and raises for some recurrent layers. The copy made here goes around it and copies the layer's ``__dict__`` as Python
does for any other module.

One thing cannot be copied: the autograd graph. Tensors that hang on one (states carried between calls, recordings)
are copied with their values and detached, so the copy starts with the same state and its own history.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from plugin_accel.conversion.exchange import base_class, own_class
from plugin_accel.conversion.walker import loaded_hosts, walk

__all__ = ["faithful_copy"]

_Model = TypeVar("_Model", bound=nn.Module)


def faithful_copy(model: _Model) -> _Model:
    """Copies ``model``, host layers included, without changing it.

    Kept: values, ``requires_grad``, hooks, training flags, attributes, parametrisations, states, and what modules share
    among each other. Detached: tensors with a graph. Left out, as by ``copy.deepcopy`` of any Parameter: its ``grad``.
    A ``__deepcopy__`` that the user wrote is called.

    Args:
        model: The model to copy.

    Returns:
        The copy, of the same class.
    """
    host_classes = tuple(cls for host in loaded_hosts() for cls in host.classes)
    memo: dict[int, Any] = {}
    replicas: list[tuple[nn.Module, nn.Module]] = []
    for module, _ in walk(model):
        for tensor in _graph_tensors(vars(module), set()):
            memo[id(tensor)] = tensor.detach().clone()
        if _copied_by_host(type(module), host_classes):
            # A parametrised module owns its class: remove_parametrizations() on one of two modules that share it
            # would break the other.
            cls = own_class(type(module), base_class(module))
            replica = cls.__new__(cls)
            memo[id(module)] = replica
            replicas.append((module, replica))
    for module, replica in replicas:
        state = vars(module).copy()
        # As nn.Module.__getstate__ does: what torch.compile made of the call belongs to the original.
        state.pop("_compiled_call_impl", None)
        vars(replica).update(copy.deepcopy(state, memo))
    return copy.deepcopy(model, memo)


def _copied_by_host(cls: type[nn.Module], host_classes: tuple[type[nn.Module], ...]) -> bool:
    """Whether the ``__deepcopy__`` that ``cls`` inherits is the host's, not the user's."""
    for parent in cls.__mro__:
        if "__deepcopy__" in vars(parent):
            return any(issubclass(host_class, parent) for host_class in host_classes)
    return False


def _graph_tensors(value: object, seen: set[int]) -> Iterator[torch.Tensor]:
    """The tensors in ``value`` that ``copy.deepcopy`` refuses, looked for through the usual containers."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        if not value.is_leaf:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _graph_tensors(item, seen)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _graph_tensors(item, seen)
