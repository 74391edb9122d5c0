"""Rows of spikes, compressed, and the products that are computed from them; nothing here is differentiable."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.backends.cpu_memory import empty

_SAMPLED_ROWS, _SAMPLED_PART, _SAMPLED_ENTRIES = 48, 128, 12288
_MOST_ENTRIES = 2**31


class Kept(NamedTuple):
    """Rows of spikes: the bits of what is not zero, unless values are needed, and the indices of few spikes."""

    rows: int
    inputs: int
    offsets: Tensor
    """Where each row's entries start, int32 [rows + 1]."""
    mask: Tensor | None
    """int64 [rows, ceil(inputs / 64)]."""
    indices: Tensor | None
    """int16, to be read as unsigned."""
    values: Tensor | None
    """Those of the indices; None: all are one."""


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def sampled(matrix: Tensor) -> tuple[float, bool]:
    """(density, whether an entry is neither 0 nor 1) of some rows.

    Of one in 128, but at most 48 or as many as have 12288 entries, and at least 8.
    """
    rows, inputs = matrix.shape
    wanted = max(8, min(_SAMPLED_ROWS, rows // _SAMPLED_PART, _SAMPLED_ENTRIES // max(inputs, 1)))
    entries, nonzero, graded = _C.sparse_sample(
        matrix.dtype is torch.float64, matrix.data_ptr(), rows, inputs, matrix.stride(0), wanted
    )
    return nonzero / max(entries, 1), graded


def compress(matrix: Tensor, limit: float) -> Kept | None:
    """Indices of the non-zero entries below a density of `limit`, else bits; None: bits would lose the values.

    Args:
        matrix: [rows, inputs], float32 or float64, columns side by side.
        limit: Density; 0 asks for bits.
    """
    rows, inputs = matrix.shape
    if rows * inputs >= _MOST_ENTRIES:
        return None
    threads = torch.get_num_threads()
    mask = empty((rows, (inputs + 63) // 64), torch.int64)
    offsets = torch.empty(rows + 1, dtype=torch.int32, device="cpu")
    fp64 = matrix.dtype is torch.float64
    room = int(min(limit, 1.0) * rows * inputs) + rows // 2 + 128 if limit > 0 else 0
    lists = empty((room,), torch.int16)
    at = (
        matrix.data_ptr(),
        rows,
        inputs,
        matrix.stride(0),
        mask.data_ptr(),
        offsets.data_ptr(),
        lists.data_ptr(),
        room,
    )
    entries, nonzero, graded = _C.sparse_scan(fp64, *at, threads)
    if nonzero >= limit * max(entries, 1):
        return None if graded else Kept(rows, inputs, offsets, mask, None, None)
    index = empty((nonzero,), torch.int16)
    values = empty((nonzero,), matrix.dtype) if graded else None
    _C.sparse_fill(fp64, *at, index.data_ptr(), _address(values), threads)
    return Kept(rows, inputs, offsets, None if graded else mask, index, values)


def slimmed(kept: Kept, limit: float) -> Kept:
    """What the weights' gradient reads: indices below a density of `limit`, else bits, if they say all."""
    if kept.mask is None or kept.indices is None:
        return kept
    sparse = kept.indices.numel() < limit * kept.rows * kept.inputs
    return kept._replace(mask=None) if sparse else kept._replace(indices=None)


def product(kept: Kept, weights: _C.SpikeWeights, bias: Tensor | None, outputs: int, dtype: torch.dtype) -> Tensor:
    """x W^T + bias, [rows, outputs], from indices."""
    out = empty((kept.rows, outputs), dtype)
    weights.forward(
        kept.rows,
        kept.inputs,
        kept.offsets.data_ptr(),
        _address(kept.indices),
        _address(kept.values),
        _address(bias),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def expanded(kept: Kept, dtype: torch.dtype) -> Tensor:
    """The floats again, [rows, inputs]."""
    out = empty((kept.rows, kept.inputs), dtype)
    _C.sparse_expand(
        dtype is torch.float64,
        kept.rows,
        kept.inputs,
        _address(kept.mask),
        kept.offsets.data_ptr(),
        _address(kept.indices),
        _address(kept.values),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def weight_gradients(kept: Kept, grad: Tensor, bias: bool, limit: float) -> tuple[Tensor, Tensor | None]:
    """Gradients of the weight, [outputs, inputs], and of the bias, if wanted, from the contiguous one of the output.

    A gradient with an infinity or a NaN takes the dense product, which spreads it to where x is zero.
    """
    rows, outputs = grad.shape
    dtype = grad.dtype
    g_weight = empty((outputs, kept.inputs), dtype)
    if kept.indices is not None and kept.indices.numel() < limit * rows * kept.inputs:
        g_bias = torch.empty(outputs, dtype=dtype, device="cpu") if bias else None
        finite = _C.sparse_weight_gradient(
            dtype is torch.float64,
            rows,
            kept.inputs,
            kept.offsets.data_ptr(),
            kept.indices.data_ptr(),
            _address(kept.values),
            grad.data_ptr(),
            grad.stride(0),
            outputs,
            g_weight.data_ptr(),
            _address(g_bias),
            torch.get_num_threads(),
        )
        if finite:
            return g_weight, g_bias
    torch.mm(grad.t(), expanded(kept, dtype), out=g_weight)
    return g_weight, grad.sum(0) if bias else None
