"""Prepared single steps of the `cpu` backend: one call of the library each way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.neurons import Config, Neuron
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.prepared import thin

_MOST_BYTES = 1 << 19  # larger outputs go through the pool of the general path, which saves their page faults


def _strides(p: Tensor, inner_shape: torch.Size) -> tuple[int, int] | None:
    """How the kernels walk a parameter; None if it is neither one value nor one per neuron, dense."""
    if p.numel() == 1:
        return (0, 0)
    return (0, 1) if p.shape == inner_shape and p.is_contiguous() else None


class _Step(torch.autograd.Function):
    """(step, params, learned, reads, x, *states, *learned parameters) -> (out, *states); see csrc/cpu/step.cpp."""

    forward = _C.step_forward
    backward = _C.step_backward  # type: ignore[assignment]


_apply = thin(_Step)


class CpuStep:
    """See `PreparedStep`; fp32 alone."""

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
        self._neuron, self._config = neuron, config
        alike = self._alike = [name in neuron.summed_inputs for name in neuron.params(config)]
        of_spikes = [name in neuron.of_spikes(config) for name in neuron.params(config)]
        self._reads: dict[tuple[int, ...], tuple[bool, bool]] = {}
        with torch.inference_mode(False):
            models = [torch.empty(p.shape, dtype=torch.float32, device="cpu") for p in params]
            self.forward, self.backward, self._capsule = _C.step(
                (neuron.index, 0, *config.packed_variant),
                outer,
                inner,
                config.packed_flags,
                config.packed_surrogate,
                tuple(
                    [
                        None if i is None else (i, *walks[i], None if alike[i] else models[i], of_spikes[i])
                        for i in slots
                    ]
                ),
                torch.empty(shape, dtype=torch.float32, device="cpu"),
            )

    def apply(
        self, x: Tensor, states: Sequence[Tensor | None], params: Sequence[Tensor], learned: tuple[int, ...]
    ) -> Sequence[Tensor]:
        """See `DifferentiableStep`."""
        reads_input, reads_states = self.reads(learned)
        reads = 2 if reads_input else int(reads_states)
        flat: tuple[Tensor, ...] = _apply(
            self._capsule, params, learned, reads, x, *states, *[params[i] for i in learned]
        )
        return flat

    def reads(self, learned: tuple[int, ...]) -> tuple[bool, bool]:
        """See `PreparedStep`."""
        found = self._reads.get(learned)
        if found is None:
            neuron, config = self._neuron, self._config
            summed = [i in learned and not same for i, same in enumerate(self._alike)]
            found = (neuron.reads_input(config, summed), neuron.reads_first(config, summed))
            self._reads[learned] = found
        return found


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
