"""What the public entries of a neuron check before any kernel reads memory: `neurons.run` and the ops.

Host layers establish the same by themselves, at less cost, and call `run_unchecked`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugin_accel.errors import InputError
from plugin_accel.neurons.config import Config
from plugin_accel.neurons.layout import STEP

if TYPE_CHECKING:
    from plugin_accel.neurons.neuron import Neuron


def _count(what: str, got: Sequence[object], names: Sequence[str]) -> None:
    if len(got) != len(names):
        raise InputError(f"{what}: expected {len(names)} ({', '.join(names) or 'none'}), got {len(got)}")


def _plain(name: str, t: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    if t.layout is not torch.strided:
        raise InputError(f"{name}: expected a strided tensor, got {t.layout}; make it dense with to_dense()")
    if t.dtype is not dtype:
        raise InputError(f"{name}: expected {dtype} as the input, got {t.dtype}; convert it with .to({dtype})")
    if t.device != device:
        raise InputError(f"{name}: expected a tensor on {device} as the input, got {t.device}; move it with .to(...)")


def _shaped(name: str, t: Tensor, shape: Sequence[int]) -> None:
    if tuple(t.shape) != tuple(shape):
        raise InputError(f"{name}: expected shape {tuple(shape)}, got {tuple(t.shape)}")


def _state_shape(name: str, sequence: Tensor, time_dim: int) -> tuple[int, ...]:
    """Shape of a state, of a sequence that has a time dimension where it should."""
    least = 1 if time_dim == STEP else time_dim + 1
    if sequence.dim() < least:
        wanted = "a single step" if time_dim == STEP else f"time at position {time_dim}"
        raise InputError(f"{name}: expected {least} dimensions or more ({wanted}), got shape {tuple(sequence.shape)}")
    shape = tuple(sequence.shape)
    return shape if time_dim == STEP else shape[:time_dim] + shape[time_dim + 1 :]


def _floating(name: str, t: Tensor) -> None:
    if t.dtype not in (torch.float32, torch.float64):
        raise InputError(f"{name}: expected float32 or float64, got {t.dtype}; convert it with .float()")


def _params(neuron: Neuron, config: Config, params: Sequence[Tensor], shape: tuple[int, ...], like: Tensor) -> None:
    names = neuron.params(config)
    _count(f"{neuron.name} parameters", params, names)
    for name, p in zip(names, params, strict=True):
        _plain(name, p, like.dtype, like.device)
        fits = p.dim() <= len(shape) and all(
            n == 1 or n == m for n, m in zip(reversed(p.shape), reversed(shape), strict=False)
        )
        if not fits:
            raise InputError(
                f"{name}: expected a shape that broadcasts to the state's {shape}, got {tuple(p.shape)}; "
                "give it one value, one per neuron or one per sample and neuron"
            )


def _states(neuron: Neuron, config: Config, first: Sequence[Tensor], shape: tuple[int, ...], like: Tensor) -> None:
    names = neuron.states(config)
    _count(f"{neuron.name} states", first, names)
    for name, s in zip(names, first, strict=True):
        _plain(name, s, like.dtype, like.device)
        _shaped(name, s, shape)


def check_call(neuron: Neuron, config: Config, x: Tensor, first: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    """Checks the arguments of a forward call.

    Raises:
        InputError: one of them is not what the kernels read.
    """
    _floating("input", x)
    shape = _state_shape("input", x, config.time_dim)
    _plain("input", x, x.dtype, x.device)
    _states(neuron, config, first, shape, x)
    _params(neuron, config, params, shape, x)


def check_backward(
    neuron: Neuron,
    config: Config,
    x: Tensor | None,
    kept: Tensor,
    first: Sequence[Tensor],
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> None:
    """Checks the arguments of a backward call; `grads` and `wanted` in the order of the op's results and arguments.

    Raises:
        InputError: one of them is not what the kernels read.
    """
    _floating("kept", kept)
    shape = _state_shape("kept", kept, config.time_dim)
    _plain("kept", kept, kept.dtype, kept.device)
    _states(neuron, config, first, shape, kept)
    _params(neuron, config, params, shape, kept)
    names = neuron.states(config)
    _count("wanted", wanted, ("x", *names, *neuron.params(config)))
    mean: tuple[int, ...] = () if neuron.gives_mean(config) else (0,)  # as the op has it, which always gives one
    results = [("out", kept.shape), ("mean", mean), *((n, shape) for n in names), ("kept", kept.shape)]
    results += [(f"record of {n}", kept.shape) for n in names] if len(grads) > len(results) else []
    _count("gradients", grads, [name for name, _ in results])
    for (name, expected), g in zip(results, grads, strict=True):
        if g is not None:
            _plain(f"gradient of {name}", g, g.dtype, kept.device)
            _shaped(f"gradient of {name}", g, expected)
            if not g.dtype.is_floating_point:
                raise InputError(f"gradient of {name}: expected a floating dtype, got {g.dtype}")
    if x is not None:
        _plain("x", x, kept.dtype, kept.device)
        _shaped("x", x, kept.shape)
    elif neuron.reads_input(config, wanted[1 + len(names) :]):
        check_saved(x)
    check_surrogate(config)


def check_saved(x: Tensor | None) -> None:
    """Checks that backward has its input.

    Raises:
        InputError: it was not saved.
    """
    if x is None:
        raise InputError(
            "x: expected the input of the forward call, got None; "
            "a synapse, gradients of parameters and some backends need it"
        )


def check_surrogate(config: Config) -> None:
    """Checks that spikes have a gradient.

    Raises:
        InputError: the configuration names no surrogate.
    """
    if config.spiking and config.surrogate is None:
        raise InputError("surrogate: expected one in the configuration, got None; spikes have no gradient without it")
