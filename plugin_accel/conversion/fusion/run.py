"""``run``: a network over a whole sequence, layer by layer, where the user would write the loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from plugin_accel.conversion.fusion.chain import states_of
from plugin_accel.conversion.fusion.engine import Engine
from plugin_accel.conversion.fusion.guards import RUNNER
from plugin_accel.conversion.fusion.layers import Layers
from plugin_accel.errors import Refused

__all__ = ["Run", "run"]

# One sample of their input gives one of their output, whatever stands beside it; number of dimensions with the batch.
_PER_SAMPLE: dict[type[nn.Module], int] = {
    nn.Linear: 0,
    nn.Conv1d: 3,
    nn.Conv2d: 4,
    nn.Conv3d: 5,
    nn.MaxPool1d: 3,
    nn.MaxPool2d: 4,
    nn.AvgPool1d: 3,
    nn.AvgPool2d: 4,
    nn.AdaptiveAvgPool2d: 4,
    nn.BatchNorm1d: 0,
    nn.BatchNorm2d: 4,
    nn.GroupNorm: 0,
    nn.LayerNorm: 0,
    nn.ReLU: 0,
    nn.Identity: 0,
    nn.Dropout: 0,
    nn.Dropout2d: 0,
}


def _dims(module: nn.Module) -> int:
    """Of a layer in `_PER_SAMPLE`, or of one that says so of its own class; else -1."""
    return int(_PER_SAMPLE.get(type(module), vars(type(module)).get("per_sample", -1)))


class Run(NamedTuple):
    """What :func:`run` gives.

    Attributes:
        outputs: What the calls return, in their structure, each tensor stacked over time: ``[T, ...]``.
        states: The states after the last step: qualified name of the layer to buffer name to tensor.
        recordings: What the layers named by ``record`` returned first (their spikes), ``[T, ...]``.
        state: The last state of a network that is handed its state, as Norse's are; ``outputs`` is without it.
    """

    outputs: Any
    states: dict[str, dict[str, Tensor]]
    recordings: dict[str, Tensor]
    state: Any = None


def run(net: nn.Module, x: Tensor, *, state: Any = None, chunk: int | None = None, record: Iterable[str] = ()) -> Run:
    """Runs a network with hidden states over a sequence; the same as calling it once per step.

    A ``Sequential`` (nested ones included) is run layer by layer at once. Any other module is run step by step and
    recorded the first two times, and fused from the third on, like :func:`~plugin_accel.fused`; with ``chunk``, each
    chunk counts as a time, so that most of the first call is fused already. States continue from where they are: reset
    them first.

    A network whose ``forward(x, state)`` gives output and state, as Norse's cells and ``SequentialState``, is handed at
    each step the state of the step before.

    Args:
        net: The network, converted. It takes the input of one step, and keeps its states itself or is handed them.
        x: The input of all steps, ``[T, ...]``.
        state: The first state of a network that is handed its state; ``None`` for its own.
        chunk: Run this many steps at a time, so that what a layer gives for all steps need not be in memory at once.
        record: Qualified names of layers of a ``Sequential`` whose first results to keep.

    Returns:
        Results, last states and recordings.

    Raises:
        TypeError: If ``net`` is no module, ``x`` no tensor, or ``state`` is given and ``net`` takes none.
        ValueError: If ``x`` has no time steps, ``chunk`` is no positive number, or ``record`` names no layer.
    """
    _check(net, x)
    if x.dim() == 0 or len(x) == 0 or (chunk is not None and chunk < 1):
        raise ValueError(
            f"run: expected x [T >= 1, ...] and chunk >= 1, got {tuple(x.shape)} and {chunk}; pass steps first"
        )
    names = set(record)
    missing = names - {name for name, _ in _leaves(net)} if names else names
    if missing:
        raise ValueError(
            f"run: expected record to name layers of a Sequential, got {sorted(missing)}; see named_modules()"
        )
    handed = "state" in signature(type(net).forward).parameters
    if state is not None and not handed:
        raise TypeError(f"run: expected no state for {type(net).__name__}, got one; its layers keep theirs")
    layers = Layers()
    recordings: dict[str, list[Tensor]] = {name: [] for name in names}
    parts = []
    for piece in [x] if chunk is None else x.split(chunk):
        if handed:
            engine = vars(net).setdefault(RUNNER, Engine())
            outputs, state = engine.call(_hand_on, (net, piece, state), {}, [net])
            parts.append(outputs)
        elif _is_plain(net, layers):
            parts.append(_layer_by_layer(net, piece, layers, recordings))
        else:
            engine = vars(net).setdefault(RUNNER, Engine())
            parts.append(engine.call(_loop, (net, piece), {}, [net]))
    outputs = parts[0] if len(parts) == 1 else tree_map(lambda *values: torch.cat(values), *parts)
    states = {
        name: {
            key: tensor
            for key, tensor in module._buffers.items()
            if tensor is not None and key not in module.state_dict()
        }
        for name, module in net.named_modules()
        if layers.owner(module) is not None
    }
    return Run(outputs, states, {name: torch.cat(pieces) for name, pieces in recordings.items()}, state)


def _check(net: object, x: object) -> None:
    if not (isinstance(net, nn.Module) and isinstance(x, Tensor)):
        given = type(x if isinstance(net, nn.Module) else net).__name__
        raise TypeError(f"run: expected a torch.nn.Module and a tensor, got {given}; pass the network, then its input")


def _loop(net: nn.Module, x: Tensor) -> Any:
    return _stacked([net(x_t) for x_t in x])


def _hand_on(net: nn.Module, x: Tensor, state: Any) -> Any:
    state = tree_map(lambda leaf: leaf, state)  # Norse writes into the lists that it is handed
    outputs = []
    for x_t in x:
        out, state = net(x_t, state)
        outputs.append(out)
    return _stacked(outputs), state


def _stacked(results: list[Any]) -> Any:
    return tree_map(lambda *values: torch.stack(values), *results)


def _leaves(net: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested Sequentials, in order."""
    if type(net) is not nn.Sequential:
        yield prefix, net
        return
    for name, child in net._modules.items():
        assert child is not None
        yield from _leaves(child, f"{prefix}.{name}" if prefix else name)


def _is_plain(net: nn.Module, layers: Layers) -> bool:
    """Whether layer by layer is the same as step by step: no hooks, a layer once, one that draws."""
    found = [module for _, module in _leaves(net)]
    random = [m for m in found if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]
    known = all(_dims(m) >= 0 or isinstance(m, nn.Flatten) or layers.owner(m) is not None for m in found)
    hooks = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())
    draws = sum(map(layers.draws, found)) > 1
    return known and not (hooks or draws) and len(random) <= 1 and len(set(map(id, found))) == len(found)


def _layer_by_layer(net: nn.Module, x: Any, layers: Layers, recordings: dict[str, list[Tensor]]) -> Any:
    for name, module in _leaves(net):
        x = _over_time(module, x, layers)
        if name in recordings:
            recordings[name].append(x[0] if isinstance(x, tuple) else x)
    return x


def _over_time(module: nn.Module, x: Any, layers: Layers) -> Any:
    """What a layer gives for all steps."""
    sequence = layers.sequence(module)
    if sequence is not None:
        count = states_of(module)
        try:
            outputs = sequence(module, x, [None] * count, record=(True,) * count).outputs
            return outputs[0] if len(outputs) == 1 else outputs
        except Refused:
            pass
    dims = x.dim() - 1 if isinstance(x, Tensor) else 0
    batch = _dims(module)
    drawn = isinstance(module, nn.modules.dropout._DropoutNd) and module.training
    if batch >= 0 and (dims == batch or (batch == 0 and dims >= 2)) and not layers.is_opaque(module) and not drawn:
        return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    if type(module) is nn.Flatten and module.start_dim == 1 and module.end_dim == -1 and dims >= 2:
        return x.flatten(2)
    return _stacked([module(x_t) for x_t in x])
