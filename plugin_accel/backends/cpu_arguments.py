"""What the `cpu` kernels are called with, apart from the data: configurations and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from plugin_accel.errors import InputError
from plugin_accel.neurons import Config, Neuron
from plugin_accel.neurons.layout import Layout

_CPU = torch.device("cpu")  # named at every allocation: the default device of the context may be another


class Static(NamedTuple):
    """What a configuration means to the kernels."""

    variant: tuple[int, ...]
    flags: tuple[float, int, int]
    slots: tuple[int | None, ...]
    """For each parameter of the step header, its position in the call's parameters."""
    spikes: torch.dtype
    scalar: Tensor
    """0-d, like the mean: `empty_like` is the quickest way to another."""


@lru_cache(maxsize=512)
def static_of(neuron: Neuron, config: Config, dtype: torch.dtype) -> Static:
    """What `config` means to the kernels of a neuron."""
    names = neuron.params(config)
    slots = tuple(names.index(n) if n in names else None for n in neuron.kernel_params)
    # the hosts' spikes are fp32 whatever the input
    spikes = torch.float32 if config.narrows else dtype
    variant = (neuron.index, int(dtype is torch.float64), *config.packed_variant)
    return Static(variant, config.packed_flags, slots, spikes, torch.empty((), dtype=spikes, device=_CPU))


def alike_of(neuron: Neuron, config: Config, wanted: Sequence[bool]) -> list[bool]:
    """Which wanted gradients of parameters are the input's own."""
    return [want and n in neuron.summed_inputs for n, want in zip(neuron.params(config), wanted, strict=True)]


class Parameter:
    """A parameter of several values as the kernels read it, and the shape in which its gradient comes back."""

    __slots__ = ("argument", "by_inner", "by_outer", "keep", "shape", "strides", "target")

    def __init__(self, p: Tensor, layout: Layout) -> None:
        self.target = p.shape
        self.by_outer = self.by_inner = False
        try:
            full = p.detach().expand(layout.state_shape)
        except RuntimeError:
            raise InputError(
                f"parameter: expected a shape that broadcasts to {layout.state_shape}, got {tuple(p.shape)}; "
                "give it one value, one per neuron or one per sample and neuron"
            ) from None
        k = layout.outer_dims
        self.by_outer = any(s != 0 and n != 1 for s, n in zip(full.stride()[:k], full.shape[:k], strict=True))
        self.by_inner = any(s != 0 and n != 1 for s, n in zip(full.stride()[k:], full.shape[k:], strict=True))
        self.shape: tuple[int, ...] = full.shape if self.by_outer else (1,) * k + full.shape[k:]
        self.strides = layout.state_strides if self.by_inner else ()
        if not self.by_inner:
            self.shape = (*full.shape[:k], *(1,) * (full.dim() - k))
            self.keep = full[(slice(None),) * k + (slice(0, 1),) * (full.dim() - k)].reshape(-1).contiguous()
            self.argument = (self.keep.data_ptr(), 1, 0)
            return
        self.keep = torch.empty_strided(self.shape, self.strides, dtype=p.dtype, device=_CPU)
        self.keep.copy_(full if self.by_outer else full[(slice(0, 1),) * k])
        inner = layout.sizes[2]
        self.argument = (self.keep.data_ptr(), inner if self.by_outer else 0, 1)

    def hold(self, held: list[Tensor]) -> tuple[int, int, int]:
        """The kernel's argument, with the memory it points to added to `held`."""
        held.append(self.keep)
        return self.argument

    def gradient(self) -> Tensor:
        """Uninitialised memory for the gradient."""
        if not self.by_inner:
            return torch.empty(self.shape, dtype=self.keep.dtype, device=_CPU)
        return torch.empty_strided(self.shape, self.strides, dtype=self.keep.dtype, device=_CPU)
