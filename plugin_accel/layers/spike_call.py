"""y = x W^T + b from the non-zero entries of x, differentiably: what is taken, and which way it goes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.nn import functional as F

from plugin_accel.backends.cpu_memory import empty
from plugin_accel.hosts.inputs import is_watched
from plugin_accel.layers import spike_choice
from plugin_accel.layers.spike_choice import BreakEven
from plugin_accel.layers.spike_quick import FEW_ROWS, LEAST_WORK, quick_call, remember, skip
from plugin_accel.layers.spike_rows import Kept, compress, expanded, product, sampled, slimmed, weight_gradients
from plugin_accel.layers.spike_weights import packed
from plugin_accel.modes import has_function_mode

MOST_INPUTS = 65536
"""Indices have 16 bits."""
_FLOATS = (torch.float32, torch.float64)
_PLAIN = (Tensor, nn.Parameter)
_BITS_OUTPUTS = 400  # of a dense layer with fewer, bits would cost more than 3 % of the time
_ALWAYS = BreakEven(2.0, 2.0)
# Seconds that a call costs beyond its kernels: without gradients and through autograd, forward and backward.
_QUICK, _GENERAL = (4e-6, 0.0), (40e-6, 20e-6)


def refusal(x: Any, weight: Any, bias: Any) -> str | None:
    """Why a call is left to `torch.nn.functional.linear`; None: it is taken."""
    if torch.compiler.is_compiling():
        return "torch.compile makes its own program of the dense product"
    if type(x) not in _PLAIN or type(weight) not in _PLAIN or (bias is not None and type(bias) not in _PLAIN):
        return "an operand is not a plain tensor"
    if not (x.is_cpu and weight.is_cpu) or x.layout is not torch.strided or weight.layout is not torch.strided:
        return "an operand is not a dense tensor on the CPU"
    if x.dtype not in _FLOATS or weight.dtype is not x.dtype:
        return f"the operands are {x.dtype} and {weight.dtype}"
    if weight.dim() != 2 or x.dim() == 0 or x.shape[-1] != weight.shape[1] or weight.shape[1] > MOST_INPUTS:
        return "the shapes do not fit"
    if bias is not None and (
        bias.dtype is not x.dtype
        or not bias.is_cpu
        or bias.layout is not torch.strided
        or bias.shape != weight.shape[:1]
        or not bias.is_contiguous()
        or bias.is_neg()
    ):
        return "the bias does not fit"
    if not weight.is_contiguous() or weight.is_inference() or x.is_neg() or weight.is_neg():
        return "an operand cannot be read as it is"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if is_watched() or has_function_mode():
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
    if torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    if chosen is None:
        if (quick := quick_call(x, weight, bias)) is not None:
            return quick
        if type(x) in _PLAIN and x.numel() * weight.shape[0] < LEAST_WORK:
            return F.linear(x, weight, bias)
    if refusal(x, weight, bias) is not None or x.numel() * weight.shape[0] == 0:
        return F.linear(x, weight, bias)
    training = torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )
    found = None
    if chosen is not None:
        found = (_train if training else _infer)(x, weight, bias, chosen)
    else:
        limits = break_even_of(x, weight, bias, training)
        if training and max(limits) > 0:
            found = _train(x, weight, bias, limits)
        elif not training and limits.forward > 0:
            found = _infer(x, weight, bias, limits)
            if found is not None and x.numel() <= FEW_ROWS * weight.shape[1] and x.is_contiguous():
                remember(x, weight, bias, int(limits.forward * x.numel()))
    if found is None:
        if chosen is None:
            skip(weight, x.numel())
        found = F.linear(x, weight, bias)
    return found


def _train(x: Tensor, weight: Tensor, bias: Tensor | None, limits: BreakEven) -> Tensor | None:
    """With gradients; None: `F.linear` does as well.

    Where the product is dense, bits are kept instead of an input that is part of a graph; one that is not is likely to
    be held by the user anyway.
    """
    matrix = _matrix(x.detach())
    density, graded = sampled(matrix)
    if density >= limits.forward and (graded or not x.requires_grad or weight.shape[0] < _BITS_OUTPUTS):
        return None
    found: Tensor = _Product.apply(x, weight, bias, matrix, limits)  # type: ignore[no-untyped-call]
    return found


def _infer(x: Tensor, weight: Tensor, bias: Tensor | None, limits: BreakEven) -> Tensor | None:
    """Without gradients; None: the product is dense."""
    matrix, outputs, limit = _matrix(x), weight.shape[0], limits.forward
    rows, inputs = matrix.shape
    if rows > FEW_ROWS and sampled(matrix)[0] >= limit:
        return None
    ready = packed(weight, rows)
    if not ready.finite:
        return None
    shape = (*x.shape[:-1], outputs)
    if rows <= FEW_ROWS:
        out = empty(shape, x.dtype)
        where = 0 if bias is None else bias.data_ptr()
        most, threads = int(min(limit, 1.0) * rows * inputs), torch.get_num_threads()
        seen = ready.kernels.step(matrix.data_ptr(), rows, matrix.stride(0), most, where, out.data_ptr(), threads)
        return None if seen < 0 else out
    kept = compress(matrix, limit)
    if kept is None or kept.indices is None:
        return None
    return product(kept, ready.kernels, bias, outputs, x.dtype).view(shape)


def _matrix(x: Tensor) -> Tensor:
    """[rows, inputs] whose columns lie side by side."""
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def break_even_of(x: Tensor, weight: Tensor, bias: Tensor | None, training: bool) -> BreakEven:
    """The densities in force for this product; measured at the first call of its shape."""
    outputs, inputs = weight.shape
    rows = x.numel() // inputs

    def timing() -> spike_choice.Timing:
        plain = weight.detach(), None if bias is None else bias.detach()
        quick = not training and rows <= FEW_ROWS
        return spike_choice.Timing(partial(_timed, *plain, quick), _QUICK if quick else _GENERAL)

    return spike_choice.break_even(x.dtype, rows, inputs, outputs, training, timing)


def _timed(
    weight: Tensor, bias: Tensor | None, quick: bool, rows: int, density: float | None
) -> tuple[Callable[[], object], Callable[[], object]]:
    """See `spike_choice.Timing`."""
    outputs, inputs = weight.shape
    generator = torch.Generator().manual_seed(0)  # not the user's
    x, grad = (
        torch.rand(rows, size, generator=generator, dtype=weight.dtype, device="cpu") for size in (inputs, outputs)
    )
    x = x.lt_(density or 0.03)
    if density is None:
        return lambda: F.linear(x, weight, bias), lambda: (torch.mm(grad.t(), x), grad.sum(0))
    kept = compress(x, _ALWAYS.forward)

    def forward() -> None:
        if quick:
            _infer(x, weight, bias, _ALWAYS)
        elif (again := compress(x, _ALWAYS.forward)) is not None:
            product(again, packed(weight, rows).kernels, bias, outputs, x.dtype)

    def backward() -> None:
        if kept is not None:
            weight_gradients(kept, grad, bias is not None, _ALWAYS.weight_gradient)

    return forward, backward


class _Product(torch.autograd.Function):
    """Keeps compressed spikes, and the weight if the input has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, matrix: Tensor, limits: BreakEven) -> Tensor:
        ctx.set_materialize_grads(False)
        need_x, need_weight, _ = ctx.needs_input_grad[:3]
        outputs = weight.shape[0]
        ready = packed(weight, matrix.shape[0])
        kept = compress(matrix, limits.forward if ready.finite else 0.0)
        shape = (*x.shape[:-1], outputs)
        if kept is not None and kept.indices is not None:
            y = product(kept, ready.kernels, bias, outputs, x.dtype).view(shape)
        else:
            y = _dense(x, weight, bias)
        if kept is not None:
            kept = slimmed(kept, limits.weight_gradient)
            if kept.indices is None and not need_x:
                kept = None  # the gradient is a dense product of an input that is there anyway
        ctx.limit, ctx.shape, ctx.dtype, ctx.sizes = limits.weight_gradient, x.shape, x.dtype, matrix.shape
        ctx.compressed = kept is not None
        rest = () if not need_weight else (x,) if kept is None else kept[2:]
        ctx.save_for_backward(weight if need_x else None, *rest)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:  # not zeros, on which a weight decay would act
            return (None,) * 5
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        weight, *rest = ctx.saved_tensors
        grad = g.reshape(-1, g.shape[-1])
        g_x = None
        if need_x and _is_readable(g) and not torch.is_grad_enabled():
            g_x = torch.mm(grad, weight, out=empty(ctx.sizes, ctx.dtype)).view(ctx.shape)
        elif need_x:
            g_x = (grad @ weight).view(ctx.shape)
        g_weight = g_bias = None
        if need_weight:
            kept = Kept(*ctx.sizes, *rest) if ctx.compressed else None
            if kept is None:
                g_weight = grad.t() @ rest[0].reshape(ctx.sizes)
            elif _is_readable(g) and not torch.is_grad_enabled():
                g_weight, g_bias = weight_gradients(kept, grad.contiguous(), need_bias, ctx.limit)
            elif need_x and torch.is_grad_enabled():
                raise RuntimeError(
                    "SpikeLinear: expected a first derivative of an input that has a gradient, got create_graph=True;"
                    " restore the layer first, its class is nn.Linear"
                )
            else:
                g_weight = grad.t() @ expanded(kept, ctx.dtype)
        if need_bias and g_bias is None:
            g_bias = grad.sum(0)
        return g_x, g_weight, g_bias, None, None


def _is_readable(g: Tensor) -> bool:
    """Whether a gradient is plain memory; under `is_grads_batched` it is not."""
    return type(g) is Tensor and not (is_legacy_batchedtensor(g) or is_watched() or has_function_mode())


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` with its result in recycled memory, where torch would take the same product."""
    if x.dim() != 2:
        return F.linear(x, weight, bias)
    out = empty((x.shape[0], weight.shape[0]), x.dtype)
    return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)
