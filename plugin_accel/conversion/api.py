"""``convert``, ``restore`` and ``converted``: a model accelerated in place, and given back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

from torch import nn

from plugin_accel import plugins
from plugin_accel.conversion.copying import faithful_copy
from plugin_accel.conversion.exchange import base_class, exchange
from plugin_accel.conversion.fusion import fuse, unfuse
from plugin_accel.conversion.selection import Selector, select
from plugin_accel.conversion.spikes import Sparse, dense_layers, originals, spike_layers, told
from plugin_accel.conversion.walker import Layer, find_layers, loaded_hosts, walk
from plugin_accel.errors import ConversionError

__all__ = ["convert", "converted", "restore"]

_Model = TypeVar("_Model", bound=nn.Module)


def convert(
    model: _Model,
    *,
    copy: bool = False,
    strict: bool = False,
    include: Selector = None,
    exclude: Selector = None,
    gru_to_egru: bool | Mapping[str, Any] = False,
    sparse: Sparse = False,
    fuse_time: bool = False,
    explain: bool = False,
) -> _Model:
    """Accelerates the layers of ``model`` that a host plugin knows.

    Each layer of exactly a known class gets the accelerated subclass of that class, by ``__class__`` and nothing
    else: Parameters, buffers, states, hooks, flags, names, ``state_dict`` keys and optimizers stay as they are. A layer
    whose configuration the kernels do not take runs the host's own forward; :func:`report` says so and why. Layers
    converted before stay as they are.

    Args:
        model: A module, a container, or one that wraps a model (DataParallel, DistributedDataParallel).
        copy: Convert a copy and leave ``model`` alone. The copy keeps what ``copy.deepcopy`` of a host layer may lose;
            states that carry a graph come without it.
        strict: Raise, before anything is changed, if a selected layer of a host would not be accelerated.
        include: Which layers to convert: a glob on the qualified name, a type, a module, a
            ``predicate(name, module)``, or an iterable of them. All, if ``None``.
        exclude: Which layers to leave alone; in the same form.
        gru_to_egru: Also replace each ``nn.GRU`` inside ``model`` by a new :class:`plugin_accel.layers.EGRU` with its
            weights: another model, with other outputs and parameters, that :func:`restore` does not undo. ``True``, or
            the options of ``egru_from_gru``.
        sparse: Also compute linear layers and 2-d convolutions from the spikes that come in, with the same results up
            to the order of sums. ``True``: those that a spiking layer feeds, in the order in which layers are
            registered, followed through flattening, pooling, dropout and what else keeps zeros. Or exactly those that
            a selector names, in the form of ``include``; so also a first layer that is fed with encoded data. Each call
            measures how many of its inputs are not 0 and runs torch's own product where these are many. See
            docs/sparse.md.
        fuse_time: Also run the loop over time in ``model.forward`` layer by layer, with the same results: the first two
            calls of each signature are recorded, later ones replayed. A forward that cannot be fused runs as it is, and
            :func:`report` says why. See docs/fusion.md.
        explain: With ``fuse_time``, print the schedule each time one is made.

    Returns:
        ``model`` itself, or its converted copy.

    Raises:
        ConversionError: With ``strict``, if a layer would not be accelerated.
        InputError: If an ``nn.GRU`` cannot become an ``EGRU``.
        TypeError: If ``model`` is no module, or a selector is of an unknown form.

    Warns:
        PluginAccelWarning: If ``model`` has no layer to convert, or one could not be.
    """
    _check_model("convert", model)
    if gru_to_egru is not False:
        if copy:
            model, copy = faithful_copy(model), False
        # By name: layers choose backends by themselves, this package knows none.
        replace = import_module("plugin_accel.layers").replace_gru
        replaced = replace(model, {} if gru_to_egru is True else gru_to_egru)
        if replaced and not fuse_time and not find_layers(model):
            return model
    model, layers = _plan(model, copy, strict, include, exclude, sparse, warn=not fuse_time)
    _exchange_all(layers)
    if fuse_time:
        why_not = fuse(model, explain)
        if why_not is not None:
            plugins.warn(f"convert: time is not fused: {why_not}")
    return model


def restore(model: _Model, *, copy: bool = False) -> _Model:
    """Gives the host's own classes back to the accelerated layers of ``model``, in place.

    Layers built from the accelerated namespace (``from sinabs.accel.layers import LIF``) become host layers too. A
    model without accelerated layers comes back as it is.

    Args:
        model: A module, converted or not.
        copy: Restore a copy and leave ``model`` alone; see :func:`convert`.

    Returns:
        ``model`` itself, or its restored copy.

    Raises:
        TypeError: If ``model`` is no module.

    Warns:
        PluginAccelWarning: If a layer's class is a user's subclass of an accelerated class: it has no host class.
    """
    _check_model("restore", model)
    if copy:
        model = faithful_copy(model)
    for module, _ in walk(model):
        unfuse(module)
    for layer in (*find_layers(model), *told(model)):
        if layer.original is not None:
            exchange(layer.module, layer.original)
        elif layer.runs_accelerated:
            plugins.warn(
                f"restore: {_name(layer)} stays accelerated: its class {layer.host_class.__qualname__} is derived from"
                " an accelerated class; derive it from the host's class and convert the model instead"
            )
    return model


@contextmanager
def converted(
    model: _Model,
    *,
    copy: bool = False,
    strict: bool = False,
    include: Selector = None,
    exclude: Selector = None,
    sparse: Sparse = False,
) -> Iterator[_Model]:
    """Converts ``model`` for the length of a ``with`` block.

    On the way out, also by an exception, exactly the layers converted on the way in are restored: those that were
    accelerated before stay so.

    Args:
        model: See :func:`convert`, as for the other arguments.
        copy: See :func:`convert`.
        strict: See :func:`convert`.
        include: See :func:`convert`.
        exclude: See :func:`convert`.
        sparse: See :func:`convert`.

    Yields:
        ``model`` itself, or its converted copy.
    """
    _check_model("converted", model)
    model, layers = _plan(model, copy, strict, include, exclude, sparse)
    exchanged = _exchange_all(layers)
    try:
        yield model
    finally:
        known = originals()
        for module in exchanged:
            # The block may have restored the layer, or parametrised it, itself.
            original = known.get(base_class(module))
            if original is not None:
                exchange(module, original)


def _plan(
    model: _Model,
    copy: bool,
    strict: bool,
    include: Selector,
    exclude: Selector,
    sparse: Sparse,
    warn: bool = True,
) -> tuple[_Model, list[Layer]]:
    """Finds the layers to convert, in a copy of ``model`` if asked for; raises or warns where there is cause."""
    found, takers = find_layers(model), spike_layers(model, sparse)
    selected, dense = select(found, include, exclude), select(takers, include, exclude)
    if strict:
        _check_strict([*selected, *dense])
    if sparse and not dense:
        plugins.warn(f"convert: no layer to compute from spikes: {_why_dense(sparse, takers)}")
    if warn and not any(layer.target is not None or layer.runs_accelerated for layer in (*selected, *dense)):
        plugins.warn(f"convert: nothing to convert: {_why_nothing(found, selected)}")
    selected += dense
    if copy:
        # Selectors were asked about the original, which a predicate or a module given may know by identity.
        names = {layer.names for layer in selected}
        model = faithful_copy(model)
        selected = [layer for layer in (*find_layers(model), *dense_layers(model)) if layer.names in names]
    return model, [layer for layer in selected if layer.target is not None]


def _exchange_all(layers: Sequence[Layer]) -> list[nn.Module]:
    """Converts the layers, all or none."""
    done: list[Layer] = []
    try:
        for layer in layers:
            assert layer.target is not None
            exchange(layer.module, layer.target)
            done.append(layer)
    except BaseException:
        for layer in done:
            exchange(layer.module, layer.host_class)
        raise
    return [layer.module for layer in done]


def _check_strict(selected: Sequence[Layer]) -> None:
    refused = [(layer, reasons) for layer in selected if (reasons := layer.reasons())]
    if refused:
        lines = "".join(f"\n  {_name(layer)} ({layer.host_class.__name__}): {'; '.join(r)}" for layer, r in refused)
        raise ConversionError(
            "convert(strict=True): expected every selected host layer to be accelerated, got"
            f" {len(refused)} of {len(selected)} that would not be; change or exclude them, or drop strict=True:{lines}"
        )


def _why_nothing(found: Sequence[Layer], selected: Sequence[Layer]) -> str:
    if selected:
        return "; ".join(f"{_name(layer)}: {', '.join(layer.reasons())}" for layer in selected)
    if found:
        return f"include and exclude leave none of its {len(found)} host layers"
    hosts = plugins.hosts()
    if not hosts:
        return "no host plugin is registered; see `plugin-accel info`"
    loaded = [host.host.name for host in loaded_hosts()]
    if not loaded:
        return f"no host framework is imported (there are plugins for: {', '.join(hosts)})"
    return f"it has no layer of a host framework (imported: {', '.join(loaded)})"


def _why_dense(sparse: Sparse, takers: Sequence[Layer]) -> str:
    if takers:
        return f"include and exclude leave none of {len(takers)}"
    if sparse is True:
        return "no Linear or Conv2d is registered after a spiking layer; name those that spikes come to: sparse=[...]"
    return f"sparse={sparse!r} selects no Linear or Conv2d"


def _name(layer: Layer) -> str:
    return " = ".join(name or "the model itself" for name in layer.names)


def _check_model(function: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: expected a torch.nn.Module, got {type(model).__name__}; pass the network itself")
