"""Kernels of the `cuda` backend by source and device, how a call is spread over threads, the second pass of sums."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from plugin_accel.backends import cuda_call as cc
from plugin_accel.backends.cuda_device import Device, Launch, Loaded
from plugin_accel.backends.cuda_source import BLOCK, Reduce, Source, Step
from plugin_accel.neurons import Config, Neuron
from plugin_accel.neurons.layout import Layout


class Static(NamedTuple):
    """What a configuration means to the kernels."""

    step: Step
    slots: tuple[int | None, ...]
    """For each parameter of the step header, its position in the call's parameters."""
    out: torch.dtype
    bounded: bool


@lru_cache(maxsize=512)
def static(neuron: Neuron, config: Config, dtype: torch.dtype) -> Static:
    """Of a neuron that computes in `dtype`."""
    names = neuron.params(config)
    slots = tuple(names.index(n) if n in names else None for n in neuron.kernel_params)
    step = Step(neuron.index, config.packed_variant, dtype is torch.float64, len(neuron.states(config)), len(slots))
    # most hosts' spikes are fp32 whatever the input
    return Static(step, slots, torch.float32 if config.narrows else dtype, bool(config.packed_flags[1]))


class Runner:
    """Launches kernels on one kind of device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._kernels: dict[tuple[Source, int], Loaded] = {}

    def index(self, device: torch.device) -> int:
        """Number of a device among its kind."""
        given: int | None = device.index
        if given is not None:
            return given
        return torch.cuda.current_device() if device.type == "cuda" else 0

    def kernel(self, source: Source, index: int) -> Loaded:
        """A kernel, compiled and loaded at most once for each device.

        Raises:
            BackendError: it cannot be.
        """
        found = self._kernels.get((source, index))
        if found is None:
            found = self._kernels[source, index] = self.device.load(source, index)
        return found

    def block(self, columns: int, width: int, index: int) -> int:
        """Threads of a block: fewer, where there is too little for every multiprocessor otherwise."""
        block = BLOCK
        while block > 32 and columns < width * block * (self.device.threads(index) // 512):
            block //= 2
        return block

    def fills(self, layout: Layout, width: int, index: int) -> bool:
        """Whether threads that take `width` neighbouring columns each are still enough to fill the device."""
        outer, _, inner = layout.sizes
        return inner % width == 0 and outer * inner >= width * self.device.threads(index)

    def reduce(
        self, kind: str, rows: int, n: int, divisor: float, sums: int, to: torch.dtype, index: int
    ) -> Launch | None:
        """Second pass of `sums` sums over [rows, n]: over n ("rows") or over the rows ("columns").

        It is launched with the addresses of all inputs, then those of all outputs; None where there is nothing to do.
        """
        if not sums or (n if kind == "columns" else rows) == 0:
            return None
        grid = rows if kind == "rows" else -(-n // BLOCK)
        present: Sequence[bool] = [k < sums for k in range(cc.MAX_REDUCTIONS)]
        call = cc.Fields().add(rows, n, divisor).address(*present).address(*present).packed()
        return self.kernel(Reduce(None, kind, to), index).bind((grid, sums), BLOCK, call)
