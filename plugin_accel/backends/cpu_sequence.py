"""Prepared short sequences of the `cpu` backend: without gradients, what streaming calls again and again."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.neurons import Config, Kernels, Neuron
from plugin_accel.neurons.layout import layout_of
from plugin_accel.neurons.prepared_sequence import Derivations, GeneralSequence

if TYPE_CHECKING:
    from plugin_accel.backends.cpu_arguments import Static

_MOST_BYTES = 1 << 16  # longer ones go through the general path, whose memory is pooled


class CpuSequence(GeneralSequence):
    """See `PreparedSequence`; all parameters one value."""

    def __init__(
        self,
        neuron: Neuron,
        kernels: Kernels,
        config: Config,
        derivations: Derivations | None,
        x: Tensor,
        static: Static,
    ) -> None:
        super().__init__(neuron, kernels, config, derivations)
        layout = layout_of(x, config.time_dim)
        self._static, self._sizes, self._rows = static, layout.sizes, layout.dense_rows
        self._states = range(len(neuron.states(config)))
        # `empty_like` is the quickest way to a tensor
        with torch.inference_mode(False):
            self._out = torch.empty(layout.shape, dtype=x.dtype, device="cpu")
            self._state = torch.empty(layout.state_shape, dtype=x.dtype, device="cpu")
            self._mean = static.scalar if neuron.gives_mean(config) else None

    def run(
        self,
        x: Tensor,
        states: Sequence[Tensor],
        params: Sequence[Tensor],
        learned: tuple[int, ...],
        learns: bool,
    ) -> Sequence[Tensor]:
        """See `PreparedSequence`."""
        if (learned or learns) and torch.is_grad_enabled():
            return super().run(x, states, params, learned, learns)
        static, rows = self._static, self._rows
        out, mean = torch.empty_like(self._out), None if self._mean is None else torch.empty_like(self._mean)
        last = [torch.empty_like(self._state) for _ in self._states]
        given = [(p.data_ptr(), 0, 0) for p in params]
        _C.forward(
            static.variant,
            self._sizes,
            static.flags,
            tuple([None if i is None else given[i] for i in static.slots]),
            (x.data_ptr(), *rows),
            None,
            tuple([s.data_ptr() for s in states]),
            (out.data_ptr(), *rows),
            (),
            tuple([s.data_ptr() for s in last]),
            0 if mean is None else mean.data_ptr(),
            torch.get_num_threads(),
        )
        return (out, *last) if mean is None else (out, *last, mean)


def prepare(
    neuron: Neuron,
    kernels: Kernels,
    config: Config,
    x: Tensor,
    params: Sequence[Tensor],
    derivations: Derivations | None,
    static: Static,
) -> CpuSequence | None:
    """A sequence for inputs like `x`; None where the general path must be taken."""
    fits = x.dtype is torch.float32 and x.is_contiguous() and 0 < prod(x.shape) * x.element_size() <= _MOST_BYTES
    if not fits or any(p.numel() != 1 or p.dtype is not x.dtype for p in params):
        return None
    return CpuSequence(neuron, kernels, config, derivations, x, static)
