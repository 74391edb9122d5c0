"""Layers fed with spikes: which these are, and what ``convert(model, sparse=...)`` makes of them.

A product or a convolution is computed from its spikes by a subclass in :mod:`plugin_accel.layers` that gives the same
at any density, up to the order of its sums. So it is never wrong to convert one; it is of use where spikes come in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any, TypeAlias

import torch
from torch import nn

from plugin_accel.conversion.selection import Selector, select
from plugin_accel.conversion.walker import Layer, LoadedHost, classify, loaded_hosts, walk

__all__ = ["Sparse", "dense_layers", "fed", "originals", "spike_layers", "told"]

Sparse: TypeAlias = "bool | Selector"
_LAYERS = "plugin_accel.layers"
_TAKERS = (nn.Linear, nn.Conv2d)
# What hands on zeros: by far the most of what comes out is 0 where that is so of what comes in.
_KEEPS_ZEROS = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.ReLU, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.LPPool1d, nn.LPPool2d),
)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class _Torch:
    """The dense layers of torch, in the place of a host; see :class:`plugin_accel.hosts.Host`."""

    name = "torch"

    def loaded(self) -> bool:
        return True

    def classes(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        layers = import_module(_LAYERS)
        return {nn.Linear: layers.SpikeLinear, nn.Conv2d: layers.SpikeConv2d}

    def owns(self, module: nn.Module) -> bool:
        return False

    def reasons(self, module: nn.Module) -> tuple[str, ...]:
        why = _conv().why_dense(module) if isinstance(module, nn.Conv2d) else None
        return () if why is None else (why,)

    def backend(self, module: nn.Module) -> str | None:
        tensors = list(module.parameters(recurse=True))
        floats = (torch.float32, torch.float64) if isinstance(module, nn.Linear) else (torch.float32,)
        here = all(t.device.type == "cpu" and t.dtype in floats for t in tensors)
        return "sparse" if here else None

    def last_fallback(self, module: nn.Module) -> str | None:
        """Not a fallback: how the last call ran, which depends on the density of its input."""
        said: str | None = _conv().last_call(module) if isinstance(module, nn.Conv2d) else None
        return said


def _conv() -> Any:
    return import_module("plugin_accel.layers.spike_conv")


@cache
def _torch() -> LoadedHost:
    host = _Torch()
    classes = host.classes()
    return LoadedHost(host, classes, {taker: base for base, taker in classes.items()})


def originals() -> dict[type[nn.Module], type[nn.Module]]:
    """Accelerated class to host class, of all hosts and of torch's dense layers."""
    hosts = [*loaded_hosts(), *([_torch()] if _LAYERS in sys.modules else [])]
    return {new: old for host in hosts for new, old in host.originals.items()}


def dense_layers(model: nn.Module) -> list[Layer]:
    """The linear layers and convolutions of ``model`` outside of a host's layers, converted or not."""
    inside = {id(part) for host in loaded_hosts() for part in _inside(model, host)}
    modules = [
        (module, names)
        for module, names in walk(model)
        if isinstance(module, _TAKERS) and id(module) not in inside and not isinstance(module, torch.jit.ScriptModule)
    ]
    layers = (classify(module, names, [_torch()]) for module, names in modules)
    return [layer for layer in layers if layer is not None]


def _inside(model: nn.Module, host: LoadedHost) -> Iterator[nn.Module]:
    for module, _ in walk(model):
        if host.owns(module):
            yield from module.modules()


def spike_layers(model: nn.Module, sparse: Sparse) -> list[Layer]:
    """The layers that ``convert(model, sparse=sparse)`` computes from their spikes, those converted before included.

    Args:
        model: A module.
        sparse: ``True``: the layers that a spiking layer feeds, see :func:`fed`. A selector: those it selects.

    Returns:
        The layers, in the order of ``model.named_modules()``.

    Raises:
        TypeError: If the selector is of an unknown form.
    """
    if sparse is False or sparse is None:
        return []
    layers = dense_layers(model)
    if sparse is not True:
        return select(layers, sparse)
    sources = fed(model)
    return [layer for layer in layers if id(layer.module) in sources]


def told(model: nn.Module) -> list[Layer]:
    """What the report says of dense layers: nothing, unless some of them are computed from spikes."""
    if _LAYERS not in sys.modules:
        return []
    layers = dense_layers(model)
    if not any(layer.runs_accelerated for layer in layers):
        return []
    sources = fed(model)
    found = []
    for layer in layers:
        source = sources.get(id(layer.module))
        if source is not None:
            note = f"fed by {source or 'the model itself'}, as layers are registered"
            found.append(replace(layer, note=note))
        elif layer.runs_accelerated:
            found.append(replace(layer, note="named by the user; no spiking layer is registered before it"))
        else:
            why = (
                "no spiking layer is registered before it; if spikes do come in, name it:"
                f" convert(model, sparse=[{layer.names[0]!r}])"
            )
            found.append(replace(layer, target=None, refusal=why))
    return found


def fed(model: nn.Module) -> dict[int, str]:
    """The linear layers and convolutions whose input comes from a spiking layer: ``id`` to the name of that layer.

    Layers are taken to be called in the order in which they are registered, as those of ``nn.Sequential`` are. From a
    layer that emits spikes on, those are followed through what keeps zeros; anything else ends the trail. What a
    ``forward`` does between its layers is not looked at.
    """
    hosts = loaded_hosts()
    found: dict[int, str] = {}
    path: set[int] = set()
    source: str | None = None

    def visit(module: nn.Module, name: str) -> None:
        nonlocal source
        owner = next((host for host in hosts if host.owns(module)), None)
        if owner is not None:
            source = name if owner.emits_spikes(module) else None
        elif isinstance(module, torch.jit.ScriptModule):
            source = None
        elif isinstance(module, _TAKERS):
            if source is not None:
                found.setdefault(id(module), source)
            source = None
        elif module._modules and id(module) not in path and not isinstance(module, _KEEPS_ZEROS):
            path.add(id(module))
            for child_name, child in module._modules.items():
                if child is not None:
                    visit(child, f"{name}.{child_name}" if name else child_name)
            path.remove(id(module))
        elif not isinstance(module, (*_KEEPS_ZEROS, *_CONTAINERS)):
            source = None

    visit(model, "")
    return found
