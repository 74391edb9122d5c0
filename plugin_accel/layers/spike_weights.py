"""Weights as the kernels read them, kept beside the Parameters and made anew when these have changed."""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.backends.cpu import pooled


class Packed(NamedTuple):
    """Panels of W^T, and what they were made from."""

    owner: weakref.ref[Tensor]
    address: int
    version: int
    isa: str
    panels: Tensor
    panels_address: int
    finite: bool
    """Whether no weight is infinite or NaN: 0 x inf is NaN in a dense product, and is left out in a sparse one."""


_packed: dict[int, Packed] = {}


def packed(weight: Tensor, version: int) -> Packed:
    """The panels of a contiguous weight [outputs, inputs]; `version` is the tensor's `_version`."""
    key, address = id(weight), weight.data_ptr()
    found = _packed.get(key)
    if (
        found is not None
        and found.version == version
        and found.address == address
        and found.owner() is weight
        and found.isa == _C.isa()
    ):
        return found
    fp64 = weight.dtype is torch.float64
    outputs, inputs = weight.shape
    size = (_C.sparse_packed_elements(fp64, inputs, outputs),)
    old = found.panels if found is not None and found.panels.shape == size else None
    panels = old if old is not None and old.dtype is weight.dtype else pooled(size, (1,), weight.dtype)
    target = panels.data_ptr()
    finite = _C.sparse_pack(fp64, address, inputs, outputs, target, torch.get_num_threads())
    owner = weakref.ref(weight, lambda _: _packed.pop(key, None))
    made = _packed[key] = Packed(owner, address, version, _C.isa(), panels, target, finite)
    return made
