"""Prepared short sequences of the `cpu` backend, without gradients: what streaming calls again and again."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.neurons import Result
from plugin_accel.neurons.layout import layout_of

if TYPE_CHECKING:
    from plugin_accel.backends.cpu_arguments import Static

_MOST_BYTES = 1 << 16  # longer ones go through the general path, whose memory is pooled


class CpuSequence:
    """See `PreparedSequence`; fp32, all parameters one value."""

    def __init__(self, x: Tensor, time_dim: int, states: int, static: Static) -> None:
        layout = layout_of(x, time_dim)
        self._static, self._sizes, self._rows = static, layout.sizes, layout.dense_rows
        self._states = range(states)
        # `empty_like` is the quickest way to a tensor
        with torch.inference_mode(False):
            self._out = torch.empty(layout.shape, dtype=x.dtype, device="cpu")
            self._state = torch.empty(layout.state_shape, dtype=x.dtype, device="cpu")

    def run(self, x: Tensor, first: Sequence[Tensor], params: Sequence[Tensor]) -> Result:
        """See `PreparedSequence`."""
        static, rows = self._static, self._rows
        out, mean = torch.empty_like(self._out), torch.empty_like(static.scalar)
        last = [torch.empty_like(self._state) for _ in self._states]
        given = [(p.data_ptr(), 0, 0) for p in params]
        _C.forward(
            static.variant,
            self._sizes,
            static.flags,
            tuple([None if i is None else given[i] for i in static.slots]),
            (x.data_ptr(), *rows),
            None,
            tuple([s.data_ptr() for s in first]),
            (out.data_ptr(), *rows),
            (),
            tuple([s.data_ptr() for s in last]),
            mean.data_ptr(),
            torch.get_num_threads(),
        )
        return Result(out, mean, tuple(last), None, ())


def prepare(x: Tensor, time_dim: int, params: Sequence[Tensor], states: int, static: Static) -> CpuSequence | None:
    """A sequence for inputs like `x`; None where the general path must be taken."""
    fits = x.dtype is torch.float32 and x.is_contiguous() and 0 < prod(x.shape) * x.element_size() <= _MOST_BYTES
    if not fits or any(p.numel() != 1 or p.dtype is not x.dtype for p in params):
        return None
    return CpuSequence(x, time_dim, states, static)
