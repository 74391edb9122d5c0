"""What a CUDA kernel is told: tensors as addresses and strides, packed as csrc/cuda/call.h has them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plugin_accel.errors import InputError
from plugin_accel.neurons import Config
from plugin_accel.neurons.layout import Layout, contiguous_strides

MAX_REDUCTIONS = 16

Shape = tuple[int, ...]


class Packed(NamedTuple):
    """A kernel's argument, all but its addresses."""

    call: bytes
    words: tuple[int, ...]
    """Which of its words of eight bytes are addresses, in the order in which a launch is given them."""


class Fields:
    """The fields of an argument, one after the other."""

    def __init__(self) -> None:
        self._values: list[float | int] = []
        self._words: list[int] = []

    def add(self, *values: float | int) -> Fields:
        """Numbers: floats are doubles, all else is int64."""
        self._values += values
        return self

    def address(self, *present: bool) -> Fields:
        """Addresses; that of a tensor which is absent is 0 and not given at the launch."""
        for there in present:
            if there:
                self._words.append(len(self._values))
            self._values.append(0)
        return self

    def stream(self, strides: Sequence[int] | None) -> Fields:
        """Address and strides; None: absent."""
        return self.address(strides is not None).add(*(strides or (0, 0, 0)))

    def packed(self) -> Packed:
        """As the kernel takes them."""
        kinds = "".join("d" if isinstance(v, float) else "q" for v in self._values)
        return Packed(struct.pack(f"={kinds}", *self._values), tuple(self._words))


class Parameter:
    """How the kernels walk a parameter, and in which shape its gradient comes back.

    Attributes:
        strides: (outer, inner).
        single: It has one value.
        by_outer: Its values differ between samples.
        by_inner: Its values differ within a sample.
        copies: The kernels cannot walk it as it lies.
    """

    def __init__(self, p: Tensor, layout: Layout) -> None:
        self._layout, self._target = layout, p.shape
        self._shape: Shape = tuple(p.shape)
        self._strides: Shape = contiguous_strides(self._shape)
        self.copies = False
        self.single, self.by_outer, self.by_inner, self.strides = p.numel() == 1, False, False, (0, 0)
        if self.single:
            return
        try:
            full = p.detach().expand(layout.state_shape)
        except RuntimeError:
            raise InputError(
                f"parameter: expected a shape that broadcasts to {layout.state_shape}, got {tuple(p.shape)}; "
                "give it one value, one per neuron or one per sample and neuron"
            ) from None
        k, shape, strides = layout.outer_dims, full.shape, full.stride()
        self.by_outer = any(s != 0 and n != 1 for s, n in zip(strides[:k], shape[:k], strict=True))
        self.by_inner = any(s != 0 and n != 1 for s, n in zip(strides[k:], shape[k:], strict=True))
        if self.by_inner:
            self.strides = (layout.sizes[2] if self.by_outer else 0, 1)
            self._shape = tuple(shape) if self.by_outer else (1,) * k + tuple(shape[k:])
            self._strides = layout.state_strides
        else:
            self.strides = (1, 0)
            self._shape = (*shape[:k], *(1,) * (len(shape) - k))
            self._strides = contiguous_strides(self._shape)
        walked = zip(strides, self._strides, self._shape, strict=True)
        self.copies = any(has != wants for has, wants, n in walked if n != 1)

    def readable(self, p: Tensor) -> Tensor:
        """`p`, copied if the kernels cannot walk it as it lies."""
        if not self.copies:
            return p
        copied = self.gradient(p)
        full = p.detach().expand(self._layout.state_shape)
        return copied.copy_(full[tuple([slice(0, n) for n in self._shape])])

    def gradient(self, p: Tensor) -> Tensor:
        """Uninitialised memory for the gradient."""
        return self.memory(p.dtype, p.device).make()

    def memory(self, dtype: torch.dtype, device: torch.device) -> Memory:
        """Of the gradient."""
        return Memory(self._shape, self._strides, dtype, device)

    def finished(self, gradient: Tensor) -> Tensor:
        """A gradient in the parameter's own shape."""
        return gradient if gradient.shape == self._target else gradient.sum_to_size(self._target)

    def reduction(self, outer: int, inner: int) -> tuple[str, int, int]:
        """Which second pass, over [rows, n], makes the gradient of sums that come one per column."""
        if self.single:
            return ("rows", 1, outer * inner)
        if not self.by_inner:
            return ("rows", outer, inner)
        return ("columns", 1, outer * inner) if self.by_outer else ("columns", outer, inner)


class Memory(NamedTuple):
    """What `torch.empty_strided` takes: plans hold no memory of the GPU, which may be a graph's own."""

    shape: Shape
    strides: Shape
    dtype: torch.dtype
    device: torch.device

    def make(self) -> Tensor:
        """Uninitialised memory."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device)


def whole(tensors: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Addresses of a launch in a program, each that of a tensor itself."""
    return tuple([(i, 0) for i in tensors])


def sequences(layout: Layout, dtype: torch.dtype, device: torch.device) -> Memory:
    """Memory of the input's shape."""
    return Memory(layout.shape, layout.strides, dtype, device)


def states(layout: Layout, dtype: torch.dtype, device: torch.device) -> Memory:
    """Memory of a state's shape."""
    return Memory(layout.state_shape, layout.state_strides, dtype, device)


def copied(layout: Layout, t: Tensor, dtype: torch.dtype) -> Tensor:
    """A stream in the layout's own order."""
    return torch.empty_strided(layout.shape, layout.strides, dtype=dtype, device=t.device).copy_(t)


def copied_state(layout: Layout, t: Tensor, dtype: torch.dtype) -> Tensor:
    """A state in the layout's own order."""
    return torch.empty_strided(layout.state_shape, layout.state_strides, dtype=dtype, device=t.device).copy_(t)


def flags(config: Config) -> tuple[float, int, int]:
    """Of a configuration, for the kernels."""
    most, clamp, narrow = config.packed_flags
    return float(most), int(clamp), int(narrow)


def signature(t: Tensor | None) -> object:
    """All of a tensor that a plan depends on, but for its shape and address."""
    return None if t is None else (t.dtype, t.stride(), t.is_neg())


def shapes(params: Sequence[Tensor]) -> object:
    """All of the parameters that a plan depends on."""
    return tuple([(p.shape, p.stride(), p.is_neg()) if p.dim() else None for p in params])


def rows(layout: Layout, t: Tensor, dtype: torch.dtype) -> tuple[int, int, int] | None:
    """(outer, time, inner) strides by which a kernel can walk `t`; None if it has to be copied."""
    return None if t.dtype is not dtype or t.is_neg() else layout.rows(t)


def is_state(layout: Layout, t: Tensor, dtype: torch.dtype) -> bool:
    """Whether a kernel can take a state as it is."""
    return t.dtype is dtype and layout.state(t) is t


def fits(strides: Sequence[int], width: int) -> bool:
    """Whether `width` neighbours of a stream always lie side by side and, from an aligned address on, aligned."""
    outer, time, inner = strides
    return inner == 1 and outer % width == 0 and time % width == 0
