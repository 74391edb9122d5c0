"""Weights as the kernels read them, kept beside the Parameters and made anew when these have changed."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.layers.spike_choice import BreakEven

FEW_LINES = 16
"""Cache lines that every call compares with what they were."""
MANY_ROWS = 1024
"""Rows of a call that compares all of them: reading the weight once more is a few percent of such a product."""


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


class Packed(NamedTuple):
    """The kernels' weights, and what they were made from."""

    address: int
    version: int
    dtype: torch.dtype
    shape: torch.Size
    kernels: _C.SpikeWeights
    finite: bool
    """Whether no weight is infinite or NaN: 0 x inf is NaN in a dense product, and is left out in a sparse one."""


@dataclass(eq=False)
class Known:
    """What is known of one weight; goes with it."""

    owner: weakref.ref[Tensor]
    skip: list[int] = field(default_factory=lambda: [0, 0])
    """Small calls that are dense without a look at the input, since earlier ones were: without and with gradients."""
    skipped: list[int] = field(default_factory=lambda: [0, 0])
    """Entries of their inputs: a call of another size, such as one of all steps at once, is looked at."""
    packed: Packed | None = None
    plan: Plan | None = None


KNOWN: dict[int, Known] = {}
"""By `id` of the weight; torch's tensors do not compare as keys."""


def known(weight: Tensor) -> Known:
    """What is known of this weight."""
    key = id(weight)
    found = KNOWN.get(key)
    if found is None or found.owner() is not weight:
        found = KNOWN[key] = Known(weakref.ref(weight, lambda gone: _forget(key, gone)))
    return found


def _forget(key: int, gone: weakref.ref[Tensor]) -> None:
    found = KNOWN.get(key)
    if found is not None and found.owner is gone:
        del KNOWN[key]


def is_current(made: Packed, weight: Tensor) -> bool:
    """Whether this is the tensor that it was made from, in the version that torch counts."""
    return (
        made.version == weight._version
        and made.address == weight.data_ptr()
        and made.dtype is weight.dtype
        and made.shape == weight.shape
        and weight.is_contiguous()
    )


def _lines(weight: Tensor, rows: int) -> int:
    lines = -(-weight.nbytes // 64)
    return lines if rows >= MANY_ROWS else max(FEW_LINES, lines * rows // MANY_ROWS)


def packed(weight: Tensor, rows: int) -> Packed:
    """The kernels' weights of a contiguous Parameter [outputs, inputs], for a product with so many rows.

    They are made anew when the tensor's version or address has changed. Writes that torch does not count (through
    `.data`, or NumPy) are looked for: a call of `MANY_ROWS` compares all cache lines with what they were, one of fewer
    rows as many less, but at least 16, and others at each call.
    """
    of = known(weight)
    made = of.packed
    threads = torch.get_num_threads()
    if made is not None and is_current(made, weight) and made.kernels.same(made.address, _lines(weight, rows), threads):
        return made
    outputs, inputs = weight.shape
    address = weight.data_ptr()
    kernels = _C.SpikeWeights(weight.dtype is torch.float64, address, inputs, outputs, threads)
    of.packed = made = Packed(address, weight._version, weight.dtype, weight.shape, kernels, kernels.finite)
    of.plan = None
    return made
