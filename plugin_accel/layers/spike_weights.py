"""Weights as the kernels read them, kept beside the Parameters and made anew when these have changed."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.layers.spike_choice import BreakEven

FEW_LINES = 32
"""Cache lines that every call compares with what they were."""


class Plan(NamedTuple):
    """A call of a few rows without gradients, and what it was made for; see `spike_quick`."""

    shape: torch.Size
    out_shape: tuple[int, ...]
    dtype: torch.dtype
    bias: weakref.ref[Tensor] | None
    pinned: BreakEven | None
    threads: int
    rows: int
    inputs: int
    most: int
    """Entries of the input above which the product is a dense one."""


@dataclass(eq=False)
class Packed:
    """The kernels' weights, and what they were made from."""

    owner: weakref.ref[Tensor]
    address: int
    version: int
    dtype: torch.dtype
    shape: torch.Size
    kernels: _C.SpikeWeights
    finite: bool
    """Whether no weight is infinite or NaN: 0 x inf is NaN in a dense product, and is left out in a sparse one."""
    plan: Plan | None = None


_packed: dict[int, Packed] = {}


def known(weight: Tensor) -> Packed | None:
    """What was last made for this tensor, unless its version or address has changed since."""
    found = _packed.get(id(weight))
    if (
        found is None
        or found.owner() is not weight
        or found.version != weight._version
        or found.address != weight.data_ptr()
        or found.dtype is not weight.dtype
        or found.shape != weight.shape
        or not weight.is_contiguous()
    ):
        return None
    return found


def packed(weight: Tensor, rows: int) -> Packed:
    """The kernels' weights of a contiguous Parameter [outputs, inputs], for a product with so many rows.

    They are made anew when the tensor's version or address has changed. Writes that torch does not count (through
    `.data`, or NumPy) are looked for: each call compares some cache lines with what they were, two for each row and
    others at each call.
    """
    found = known(weight)
    if found is not None and found.kernels.same(found.address, max(FEW_LINES, 2 * rows)):
        return found
    key, address = id(weight), weight.data_ptr()
    outputs, inputs = weight.shape
    kernels = _C.SpikeWeights(weight.dtype is torch.float64, address, inputs, outputs, torch.get_num_threads())
    owner = weakref.ref(weight, lambda gone: _forget(key, gone))
    made = _packed[key] = Packed(owner, address, weight._version, weight.dtype, weight.shape, kernels, kernels.finite)
    return made


def _forget(key: int, gone: weakref.ref[Tensor]) -> None:
    found = _packed.get(key)
    if found is not None and found.owner is gone:
        del _packed[key]
