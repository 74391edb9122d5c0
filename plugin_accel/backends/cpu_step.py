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
        self._none = (0,) * len(self._order)
        self._shapes = [p.shape for p in params]
        self._alike = [name in neuron.summed_inputs for name in neuron.params(config)]
        self._of_spikes = {i for i, name in enumerate(neuron.params(config)) if name in neuron.of_spikes(config)}
        self._reads: dict[tuple[int, ...], tuple[bool, bool]] = {}
        step = _C.Step(
            (neuron.index, 0, *config.packed_variant),
            outer,
            inner,
            config.packed_flags,
            config.packed_surrogate,
            tuple([None if i is None else walks[i] for i in slots]),
        )
        self._forward, self._backward = step.forward, step.backward
        # `empty_like` is the quickest way to a tensor
        with torch.inference_mode(False):
            self._row = torch.empty(shape, dtype=torch.float32, device="cpu")
            self._kept = torch.empty(step.kept_elements, dtype=torch.float32, device="cpu")

    def forward(
        self, x: Tensor, states: Sequence[Tensor | None], params: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor | None, Tensor, Sequence[Tensor]]:
        """See `PreparedStep`."""
        like = self._row
        out = torch.empty_like(like)
        kept = torch.empty_like(self._kept) if keep else None
        if self.states == 1:  # the most frequent case, spelt out: what follows costs more than its arithmetic
            (state,), after = states, torch.empty_like(like)
            self._forward(
                (
                    x.data_ptr(),
                    0 if kept is None else kept.data_ptr(),
                    out.data_ptr(),
                    0 if state is None else state.data_ptr(),
                    after.data_ptr(),
                    *[params[i].data_ptr() for i in self._order],
                ),
                torch.get_num_threads(),
            )
            return kept, out, (after,)
        last = [torch.empty_like(like) for _ in states]
        self._forward(
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

    def reads(self, learned: tuple[int, ...]) -> tuple[bool, bool]:
        """See `PreparedStep`."""
        found = self._reads.get(learned)
        if found is None:
            neuron, config = self._neuron, self._config
            summed = [i in learned and not same for i, same in enumerate(self._alike)]
            found = (neuron.reads_input(config, summed), neuron.reads_first(config, summed))
            self._reads[learned] = found
        return found

    def backward(
        self,
        needs: Sequence[bool],
        learned: tuple[int, ...],
        kept: Tensor,
        x: Tensor | None,
        states: Sequence[Tensor | None],
        grads: Sequence[Tensor | None],
    ) -> Sequence[Tensor | None]:
        """See `PreparedStep`."""
        like, n = self._row, self.states
        if n == 1 and not learned:
            g_out, g_after = grads
            if g_out is not None and not g_out.is_contiguous():
                g_out = g_out.contiguous()
            if g_after is not None and not g_after.is_contiguous():
                g_after = g_after.contiguous()
            g_x = torch.empty_like(like) if needs[0] else None
            g_state = torch.empty_like(like) if needs[1] else None
            state = states[0]
            self._backward(
                (
                    0 if x is None else x.data_ptr(),
                    kept.data_ptr(),
                    0 if g_out is None else g_out.data_ptr(),
                    0 if g_x is None else g_x.data_ptr(),
                    0 if state is None else state.data_ptr(),
                    0 if g_after is None else g_after.data_ptr(),
                    0 if g_state is None else g_state.data_ptr(),
                    *self._none,
                ),
                torch.get_num_threads(),
            )
            return (g_x, g_state)
        addresses = []
        held = []  # copies among them must outlive the call
        for g in grads:
            if g is None:
                addresses.append(0)
                continue
            dense = g if g.is_contiguous() else g.contiguous()
            held.append(dense)
            addresses.append(dense.data_ptr())
        made: list[Tensor | None] = [torch.empty_like(like) if want else None for want in needs[: 1 + n]]
        of_learned: dict[int, Tensor] = {}
        if learned:
            alike = [i for i in learned if self._alike[i]]
            if alike and made[0] is None:
                made[0] = torch.empty_like(like)
            of_learned = {i: torch.empty(self._shapes[i], device="cpu") for i in learned if i not in alike}
        into = [0 if t is None else t.data_ptr() for t in made]
        self._backward(
            (
                0 if x is None else x.data_ptr(),
                kept.data_ptr(),
                addresses[0],
                into[0],
                *[0 if s is None else s.data_ptr() for s in states],
                *addresses[1:],
                *into[1:],
                *([of_learned[i].data_ptr() if i in of_learned else 0 for i in self._order] if learned else self._none),
            ),
            torch.get_num_threads(),
        )
        if learned:
            g_x = made[0]
            if not needs[0]:
                made[0] = None
            silent = self._of_spikes if grads[0] is None else ()
            made += [None if i in silent else of_learned.get(i, g_x) for i in learned]
        return made


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
