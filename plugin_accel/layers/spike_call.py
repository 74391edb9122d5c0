"""y = x W^T + b from the non-zero entries of x, differentiably: the choice, the kernels, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C import _len_torch_function_stack
from torch.nn import functional as F

from plugin_accel import _C
from plugin_accel.backends.cpu import pooled
from plugin_accel.hosts.inputs import is_watched
from plugin_accel.layers import spike_choice
from plugin_accel.layers.spike_choice import BreakEven
from plugin_accel.layers.spike_weights import Packed, packed

MOST_INPUTS = 65536
"""Indices have 16 bits."""
_FLOATS = (torch.float32, torch.float64)
_PLAIN = (Tensor, nn.Parameter)
_LEAST_WORK = 1 << 17  # multiplications of a dense product below which a choice costs more than it brings
_FEW_ROWS = 16  # so many are looked at and multiplied in one call of the library
_SAMPLED_ROWS = 48
_POOLED_BYTES = 1 << 16
_DENSE_INDICES = 16  # above one entry in so many, a bit per entry is less than 16 per non-zero one


class Kept(NamedTuple):
    """Rows of spikes, compressed: the bits, or the indices and, unless all are one, the values."""

    rows: int
    inputs: int
    offsets: Tensor
    """Where each row's entries start, int32 [rows + 1]."""
    mask: Tensor | None
    """int64 [rows, ceil(inputs / 64)]."""
    index: Tensor | None
    """int16, unsigned bits."""
    values: Tensor | None


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uninitialised contiguous memory, recycled if large."""
    count, strides = 1, []
    for size in reversed(shape):
        strides.append(count)
        count *= size
    if count * dtype.itemsize >= _POOLED_BYTES and dtype.is_floating_point:
        return pooled(shape, tuple(reversed(strides)), dtype)
    return torch.empty(shape, dtype=dtype, device="cpu")


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def refusal(x: Any, weight: Any, bias: Any) -> str | None:
    """Why a call is left to `torch.nn.functional.linear`; None: it is taken."""
    if torch.compiler.is_compiling():
        return "torch.compile makes its own program of the dense product"
    if type(x) not in _PLAIN or type(weight) not in _PLAIN or (bias is not None and type(bias) not in _PLAIN):
        return "an operand is not a plain tensor"
    if not (x.is_cpu and weight.is_cpu) or x.layout is not torch.strided or weight.layout is not torch.strided:
        return "an operand is not a dense tensor on the CPU"
    dtype = x.dtype
    if dtype not in _FLOATS or weight.dtype is not dtype:
        return f"the operands are {dtype} and {weight.dtype}"
    if weight.dim() != 2 or x.dim() == 0 or x.shape[-1] != weight.shape[1] or weight.shape[1] > MOST_INPUTS:
        return "the shapes do not fit"
    if bias is not None and (
        bias.dtype is not dtype or not bias.is_cpu or bias.shape != weight.shape[:1] or not bias.is_contiguous()
    ):
        return "the bias does not fit"
    if not weight.is_contiguous() or weight.is_inference() or x.is_neg() or weight.is_neg():
        return "the weight cannot be read as it is"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if is_watched() or _len_torch_function_stack():
        return "something watches every operation"
    return None


def run(x: Tensor, weight: Tensor, bias: Tensor | None, chosen: BreakEven | None = None) -> Tensor:
    """`torch.nn.functional.linear(x, weight, bias)`, from the spikes of x where that is quicker.

    Args:
        x: Input, [..., inputs].
        weight: [outputs, inputs].
        bias: [outputs], or None.
        chosen: Densities below which spikes are used; by default what is pinned or measured.

    Returns:
        [..., outputs].
    """
    outputs = weight.shape[0]
    if x.numel() * outputs < _LEAST_WORK or refusal(x, weight, bias) is not None:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        return _train(x, weight, bias, chosen)
    return _infer(x, weight, bias, chosen)


def _matrix(x: Tensor) -> Tensor:
    """[rows, inputs] whose columns lie side by side."""
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _break_even(x: Tensor, weight: Tensor, bias: Tensor | None) -> BreakEven:
    def timing(rows: int, density: float | None) -> tuple[Callable[[], object], Callable[[], object]]:
        return _timing(weight.detach(), None if bias is None else bias.detach(), rows, density)

    outputs, inputs = weight.shape
    return spike_choice.break_even(x.dtype, x.numel() // inputs, inputs, outputs, timing)


def _infer(x: Tensor, weight: Tensor, bias: Tensor | None, chosen: BreakEven | None) -> Tensor:
    matrix = _matrix(x)
    limit = (chosen or _break_even(x, weight, bias)).forward
    rows, inputs = matrix.shape
    ready = _ready(weight)
    if not ready.finite or limit <= 0:
        return F.linear(x, weight, bias)
    if rows <= _FEW_ROWS:
        out = empty((*x.shape[:-1], weight.shape[0]), x.dtype)
        most = int(min(limit * rows * inputs, 2**31 - 1))
        seen = _C.sparse_step(
            x.dtype is torch.float64,
            matrix.data_ptr(),
            rows,
            inputs,
            matrix.stride(0),
            most,
            ready.panels_address,
            0 if bias is None else bias.data_ptr(),
            weight.shape[0],
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return F.linear(x, weight, bias) if seen < 0 else out
    if _sampled(matrix)[0] >= limit:
        return F.linear(x, weight, bias)
    kept = compress(matrix, limit)
    if kept is None or kept.mask is not None:
        return F.linear(x, weight, bias)
    return product(kept, ready, bias, weight.shape[0]).view(*x.shape[:-1], weight.shape[0])


def _train(x: Tensor, weight: Tensor, bias: Tensor | None, chosen: BreakEven | None) -> Tensor:
    matrix = _matrix(x.detach())
    limits = chosen or _break_even(x, weight, bias)
    density, graded = _sampled(matrix)
    if graded and density >= limits.forward:
        return F.linear(x, weight, bias)
    found: Tensor = _Product.apply(x, weight, bias, matrix, limits)  # type: ignore[no-untyped-call]
    return found


def _ready(weight: Tensor) -> Packed:
    return packed(weight, weight._version)


def _sampled(matrix: Tensor) -> tuple[float, bool]:
    """(density, whether an entry is neither 0 nor 1) of some rows."""
    rows, inputs = matrix.shape
    entries, nonzero, graded = _C.sparse_sample(
        matrix.dtype is torch.float64, matrix.data_ptr(), rows, inputs, matrix.stride(0), _SAMPLED_ROWS
    )
    return nonzero / max(entries, 1), graded


def compress(matrix: Tensor, limit: float) -> Kept | None:
    """Indices of the non-zero entries below a density of `limit`, else bits; None: bits would lose the values."""
    rows, inputs = matrix.shape
    fp64, ld, threads = matrix.dtype is torch.float64, matrix.stride(0), torch.get_num_threads()
    mask = torch.empty((rows, (inputs + 63) // 64), dtype=torch.int64, device="cpu")
    offsets = torch.empty(rows + 1, dtype=torch.int32, device="cpu")
    if rows * inputs >= 2**31:
        return None
    arguments = (fp64, matrix.data_ptr(), rows, inputs, ld, mask.data_ptr(), offsets.data_ptr())
    entries, nonzero, graded = _C.sparse_scan(*arguments, threads)
    if nonzero >= limit * max(entries, 1):
        return None if graded else Kept(rows, inputs, offsets, mask, None, None)
    index = torch.empty(nonzero, dtype=torch.int16, device="cpu")
    values = torch.empty(nonzero, dtype=matrix.dtype, device="cpu") if graded else None
    _C.sparse_fill(*arguments, index.data_ptr(), _address(values), threads)
    return Kept(rows, inputs, offsets, None, index, values)


def product(kept: Kept, ready: Packed, bias: Tensor | None, outputs: int) -> Tensor:
    """[rows, outputs] from indices."""
    dtype = ready.panels.dtype
    out = empty((kept.rows, outputs), dtype)
    _C.sparse_forward(
        dtype is torch.float64,
        kept.rows,
        kept.inputs,
        kept.offsets.data_ptr(),
        _address(kept.index),
        _address(kept.values),
        ready.panels_address,
        _address(bias),
        outputs,
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
        _address(kept.index),
        _address(kept.values),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def weight_gradients(kept: Kept, grad: Tensor, bias: bool, limit: float) -> tuple[Tensor, Tensor | None]:
    """Gradients of the weight, [outputs, inputs], and of the bias, if wanted, from that of the output."""
    rows, outputs = grad.shape
    dtype = grad.dtype
    if kept.index is not None and kept.index.numel() < limit * rows * kept.inputs:
        g_weight = empty((outputs, kept.inputs), dtype)
        g_bias = torch.empty(outputs, dtype=dtype, device="cpu") if bias else None
        finite = _C.sparse_weight_gradient(
            dtype is torch.float64,
            rows,
            kept.inputs,
            kept.offsets.data_ptr(),
            kept.index.data_ptr(),
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
    g_weight = torch.mm(grad.t(), expanded(kept, dtype), out=empty((outputs, kept.inputs), dtype))
    return g_weight, grad.sum(0) if bias else None


def _timing(
    weight: Tensor, bias: Tensor | None, rows: int, density: float | None
) -> tuple[Callable[[], object], Callable[[], object]]:
    """See `spike_choice.Timing`."""
    outputs, inputs = weight.shape
    generator = torch.Generator().manual_seed(0)  # not the user's
    with torch.no_grad():
        x = torch.rand(rows, inputs, generator=generator, dtype=weight.dtype).lt_(density or 0.03)
        grad = torch.rand(rows, outputs, generator=generator, dtype=weight.dtype)
        if density is None:
            return lambda: F.linear(x, weight, bias), lambda: torch.mm(grad.t(), x)
        ready = _ready(weight)
        kept = compress(x, 2.0)
        assert kept is not None

        def forward() -> None:
            again = compress(x, 2.0)
            assert again is not None
            product(again, ready, bias, outputs)

        return forward, lambda: weight_gradients(kept, grad, bias is not None, 2.0)


class _Product(torch.autograd.Function):
    """Keeps compressed spikes, and the weight if the input has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, matrix: Tensor, limits: BreakEven) -> Tensor:
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        outputs = weight.shape[0]
        ready = _ready(weight)
        kept = compress(matrix, limits.forward if ready.finite else 0.0)
        shape = (*x.shape[:-1], outputs)
        if kept is not None and kept.index is not None:
            y = product(kept, ready, bias, outputs).view(shape)
        else:
            y = F.linear(x, weight, bias)
        ctx.limit, ctx.shape, ctx.dtype = limits.weight_gradient, x.shape, x.dtype
        ctx.sizes = matrix.shape
        tensors = [weight if need_x else None]
        if need_weight and kept is None:
            tensors += [x]
        elif need_weight and kept is not None:
            tensors += [*kept[2:]]
        ctx.save_for_backward(*tensors)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        weight, *saved = ctx.saved_tensors
        grad = g.reshape(-1, g.shape[-1])
        g_x = (grad @ weight).view(ctx.shape) if need_x else None
        g_weight, g_bias = None, None
        watched = torch.is_grad_enabled() or is_watched() or type(g) not in _PLAIN
        if len(saved) == 1:
            g_weight = grad.t() @ saved[0].reshape(ctx.sizes)
        elif need_weight:
            kept = Kept(*ctx.sizes, *saved)
            if not watched:
                grad = grad if grad.is_contiguous() else grad.contiguous()
                g_weight, g_bias = weight_gradients(kept, grad, need_bias, ctx.limit)
            elif need_x and torch.is_grad_enabled():
                raise RuntimeError(
                    "SpikeLinear: expected a first derivative, got create_graph=True for an input that has a gradient;"
                    " restore() the layer, or pin dense products with spike_break_even(0)"
                )
            else:
                g_weight = grad.t() @ expanded(kept, ctx.dtype)
        if need_bias and g_bias is None:
            g_bias = grad.sum(0)
        return g_x, g_weight, g_bias, None, None
