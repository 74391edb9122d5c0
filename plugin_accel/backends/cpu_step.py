"""Prepared single steps of the `cpu` backend: one call of the library each way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.neurons import Config, Neuron
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.prepared import thin
from plugin_accel.neurons.reach import reached

_MOST_BYTES = 1 << 19  # larger outputs go through the pool of the general path, which saves their page faults


def _strides(p: Tensor, inner_shape: torch.Size) -> tuple[int, int] | None:
    """How the kernels walk a parameter; None if it is neither one value nor one per neuron, dense."""
    if p.numel() == 1:
        return (0, 0)
    return (0, 1) if p.shape == inner_shape and p.is_contiguous() else None


class _Step(torch.autograd.Function):
    """(call, params, x, *states, *learned parameters) -> (out, *states); see csrc/cpu/step.cpp."""

    forward = _C.step_forward
    backward = _C.step_backward  # type: ignore[assignment]


_apply = thin(_Step)


class CpuStep:
    """See `PreparedStep`; fp32 alone."""

    copies = True

    forward: Callable[
        [Tensor, Sequence[Tensor | None], Sequence[Tensor], bool], tuple[Tensor | None, Tensor, Sequence[Tensor]]
    ]
    backward: Callable[..., Sequence[Tensor | None]]
    # The library's own functions: one of Python around them would take as long as the arithmetic.

    def __init__(
        self, neuron: Neuron, config: Config, shape: torch.Size, params: Sequence[Tensor], slots: Sequence[int | None]
    ) -> None:
        outer, inner_shape = (shape[0], shape[1:]) if len(shape) > 1 else (1, shape)
        inner = prod(inner_shape)
        walks = [_strides(p, inner_shape) or (inner, 1) for p in params]
        self.states = len(neuron.states(config))
        alike = [name in neuron.summed_inputs for name in neuron.params(config)]
        masks = reached(neuron, config)
        before = tuple([masks[name] for name in ("x", *neuron.states(config))])
        acts_on = [masks[name] for name in neuron.params(config)]
        self._reads = _Reads(neuron, config, alike)
        with torch.inference_mode(False):
            models = [torch.empty(p.shape, dtype=torch.float32, device="cpu") for p in params]
            self.forward, self.backward, self._capsule = _C.step(
                (neuron.index, 0, *config.packed_variant),
                outer,
                inner,
                config.packed_flags,
                config.packed_surrogate,
                tuple(
                    [None if i is None else (i, *walks[i], None if alike[i] else models[i], acts_on[i]) for i in slots]
                ),
                torch.empty(shape, dtype=torch.float32, device="cpu"),
                before,
            )
            self.run = _run(self._capsule, self._reads, False)

    def hearing(self) -> Callable[..., Sequence[Tensor]]:
        """See `DifferentiableStep`."""
        return _run(self._capsule, self._reads, True)

    def reads(self, learned: tuple[int, ...]) -> tuple[bool, bool]:
        """See `PreparedStep`."""
        return self._reads(learned)


class _Reads:
    """See `PreparedStep.reads`."""

    def __init__(self, neuron: Neuron, config: Config, alike: Sequence[bool]) -> None:
        self.alike = alike
        self._neuron, self._config = neuron, config
        self._known: dict[tuple[int, ...], tuple[bool, bool]] = {}

    def __call__(self, learned: tuple[int, ...]) -> tuple[bool, bool]:
        found = self._known.get(learned)
        if found is None:
            neuron, config = self._neuron, self._config
            summed = [i in learned and not same for i, same in enumerate(self.alike)]
            found = (neuron.reads_input(config, summed), neuron.reads_first(config, summed))
            self._known[learned] = found
        return found


def _run(capsule: object, reads: _Reads, heard: bool) -> Callable[..., Sequence[Tensor]]:
    return _C.step_run(capsule, _apply, partial(_call, capsule, reads, heard), heard)


def _call(capsule: object, reads: _Reads, heard: bool, requiring: tuple[int, ...]) -> object:
    """What the autograd function is told, for the parameters that require a gradient."""
    learned = tuple([i for i in requiring if i < len(reads.alike) - 1]) if heard else requiring
    reads_input, reads_states = reads(learned)
    return _C.step_call(capsule, learned, 2 if reads_input else int(reads_states), heard)


def prepare(
    neuron: Neuron, config: Config, x: Tensor, params: Sequence[Tensor], slots: Sequence[int | None]
) -> CpuStep | None:
    """A step for inputs like `x` and parameters like `params`; None where the general path must be taken."""
    if (
        config.time_dim != STEP
        or (config.spiking and config.surrogate is None)
        or x.dtype is not torch.float32
        or x.numel() == 0
        or x.numel() * x.element_size() > _MOST_BYTES
        or not x.is_contiguous()
    ):
        return None
    inner = x.shape[1:] if x.dim() > 1 else x.shape
    alike = neuron.summed_inputs
    for name, p in zip(neuron.params(config), params, strict=True):
        if p.dtype is not x.dtype or p.dim() > x.dim():  # more dimensions enlarge the host's state
            return None
        if p.shape != x.shape if name in alike else _strides(p, inner) is None:
            return None
    return CpuStep(neuron, config, x.shape, params, slots)
