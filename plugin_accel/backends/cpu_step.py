"""Prepared single steps of the `cpu` backend: one call of the library each way, with nothing but addresses."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.neurons import Config, Neuron
from plugin_accel.neurons.layout import STEP

_MOST_BYTES = 1 << 19  # larger outputs go through the pool of the general path, which saves their page faults


def _strides(p: Tensor, inner_shape: torch.Size) -> tuple[int, int] | None:
    """How the kernels walk a parameter; None if it is neither one value nor one per neuron, dense."""
    if p.numel() == 1:
        return (0, 0)
    return (0, 1) if p.shape == inner_shape and p.is_contiguous() else None


class CpuStep:
    """See `PreparedStep`; fp32 alone."""

    def __init__(
        self, neuron: Neuron, config: Config, shape: torch.Size, params: Sequence[Tensor], slots: Sequence[int | None]
    ) -> None:
        outer, inner_shape = (shape[0], shape[1:]) if len(shape) > 1 else (1, shape)
        inner = prod(inner_shape)
        walks = [_strides(p, inner_shape) or (inner, 1) for p in params]
        self.states = len(neuron.states(config))
        self._neuron, self._config = neuron, config
        self._order = [i for i in slots if i is not None]  # of the call's parameters, as the library takes them
        self._alike = [name in neuron.summed_inputs for name in neuron.params(config)]
        self._reads: dict[tuple[bool, ...], tuple[bool, bool]] = {}
        self._step = _C.Step(
            (neuron.index, 0, *config.packed_variant),
            outer,
            inner,
            config.packed_flags,
            config.packed_surrogate,
            tuple(None if i is None else walks[i] for i in slots),
        )

    def forward(
        self, x: Tensor, states: Sequence[Tensor | None], params: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor | None, Tensor, list[Tensor]]:
        """See `PreparedStep`."""
        out = torch.empty_like(x)
        kept = torch.empty_like(x) if keep else None
        last = [torch.empty_like(x) for _ in states]
        self._step.forward(
            (
                x.data_ptr(),
                0 if kept is None else kept.data_ptr(),
                out.data_ptr(),
                *[0 if s is None else s.data_ptr() for s in states],
                *[s.data_ptr() for s in last],
                *[params[i].data_ptr() for i in self._order],
            ),
            torch.get_num_threads(),
        )
        return kept, out, last

    def reads(self, needs: tuple[bool, ...]) -> tuple[bool, bool]:
        """See `PreparedStep`."""
        found = self._reads.get(needs)
        if found is None:
            wanted = needs[1 + self.states :]
            neuron, config = self._neuron, self._config
            summed = [want and not same for want, same in zip(wanted, self._alike, strict=True)]
            found = (neuron.reads_input(config, summed), neuron.reads_first(config, summed))
            self._reads[needs] = found
        return found

    def backward(
        self,
        needs: tuple[bool, ...],
        x: Tensor | None,
        kept: Tensor,
        states: Sequence[Tensor | None],
        params: Sequence[Tensor],
        grads: Sequence[Tensor | None],
    ) -> list[Tensor | None]:
        """See `PreparedStep`."""
        n, alike = self.states, self._alike
        held = [g if g is None or g.is_contiguous() else g.contiguous() for g in grads]
        wanted = needs[1 + n :]
        with_input = needs[0] or any([want and same for want, same in zip(wanted, alike, strict=True)])
        g_x = torch.empty_like(kept) if with_input else None
        g_states = [torch.empty_like(kept) if want else None for want in needs[1 : 1 + n]]
        g_params = [
            torch.empty_like(p) if want and not same else None
            for p, want, same in zip(params, wanted, alike, strict=True)
        ]
        addresses = [0 if t is None else t.data_ptr() for t in (x, kept, held[0], g_x, *states, *held[1:], *g_states)]
        order = self._order
        self._step.backward(
            (
                *addresses,
                *[params[i].data_ptr() for i in order],
                *[0 if (g := g_params[i]) is None else g.data_ptr() for i in order],
            ),
            torch.get_num_threads(),
        )
        return [
            g_x if needs[0] else None,
            *g_states,
            *[g_x if want and same else g for g, want, same in zip(g_params, wanted, alike, strict=True)],
        ]


def prepare(
    neuron: Neuron, config: Config, x: Tensor, params: Sequence[Tensor], slots: Sequence[int | None]
) -> CpuStep | None:
    """A step for inputs like `x` and parameters like `params`; None where the general path must be taken."""
    if (
        config.time_dim != STEP
        or config.surrogate is None
        or x.dtype is not torch.float32
        or x.numel() == 0
        or x.numel() * x.element_size() > _MOST_BYTES
        or not x.is_contiguous()
    ):
        return None
    inner = x.shape[1:] if x.dim() > 1 else x.shape
    alike = neuron.summed_inputs
    for name, p in zip(neuron.params(config), params, strict=True):
        if p.dtype is not x.dtype or (p.shape != x.shape if name in alike else _strides(p, inner) is None):
            return None
    return CpuStep(neuron, config, x.shape, params, slots)
