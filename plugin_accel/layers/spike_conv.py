"""2-d convolutions whose input is mostly zeros, computed from the spikes."""

from __future__ import annotations

from math import isnan
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import _get_tracing_state, _len_torch_dispatch_stack
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.utils.weak import WeakTensorKeyDictionary

from plugin_accel import _C
from plugin_accel.backends.cpu_memory import pooled
from plugin_accel.layers.spike_conv_choice import Geometry, break_even
from plugin_accel.layers.spike_record import recorded
from plugin_accel.modes import has_function_mode

__all__ = ["Geometry", "SpikeConv2d", "break_even_of", "last_call", "sparse_conv2d"]

LEAST_WORK = 1 << 24
"""Products of a dense convolution below which its kernels are done before ours have packed the weights."""
_MOST = 2**31 - 1  # positions among weights and in a row of the input have 32 bits
_notes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _last(t: Tensor) -> bool:
    """Whether torch takes a tensor to be channels-last, also where sizes of 1 leave it open."""
    least = 0
    for size, stride in ((t.shape[d], t.stride(d)) for d in (1, 3, 2, 0)):
        if size == 0 or stride < least:
            return False
        ambiguous, least = least == t.stride(1), stride * max(size, 1)
    return t.stride(1) != 0 and not ambiguous


class _Call:
    """One convolution as the library takes it."""

    def __init__(self, x: Tensor, weight: Tensor, geometry: Geometry) -> None:
        self.geometry = geometry
        (n, c, h, w), (out, _, *kernel) = x.shape, weight.shape
        reach = [d * (k - 1) + 1 for d, k in zip(geometry.dilation, kernel, strict=True)]
        self.size = [
            (length + 2 * p - r) // s + 1
            for length, p, r, s in zip((h, w), geometry.padding, reach, geometry.stride, strict=True)
        ]
        self.in_shape, self.out_shape = (n, c, h, w), (n, out, *self.size)
        self.last_in = _last(x)
        self.last_out = self.last_in or _last(weight)  # torch gives what either of the two asks for
        pairs = (kernel, geometry.stride, geometry.padding, geometry.dilation)
        sizes = (*self.in_shape, out, *self.size, *(number for pair in pairs for number in pair))
        self.sizes = (*sizes, int(self.last_in), int(self.last_out))
        self.words = (c * h * w + 63) // 64 + 1

    def dense(self, t: Tensor, last: bool) -> Tensor:
        """`t` in the order of memory that was found for it."""
        return t.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    def result(self) -> Tensor:
        """Recycled memory for what comes out."""
        _, c, h, w = self.out_shape
        strides = (h * w * c, 1, w * c, c) if self.last_out else (c * h * w, h * w, w, 1)
        return pooled(self.out_shape, strides, torch.float32)


class _SpikeConv(torch.autograd.Function):
    """(call, x, weight, bias) -> y."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y, mask, binary = _forward(call, x, weight, bias)
        ctx.set_materialize_grads(False)
        ctx.call = call
        wanted = ctx.needs_input_grad[2]
        ctx.save_for_backward(weight, mask if wanted else None, x if wanted and not binary else None)
        return y

    @staticmethod
    def backward(ctx: Any, g_y: Tensor | None) -> tuple[Tensor | None, ...]:
        if g_y is None:  # not zeros, on which a weight decay would act
            return (None,) * 4
        if torch.is_grad_enabled():  # create_graph: what comes out must say that it cannot be differentiated again
            return _once(ctx, g_y)
        call: _Call = ctx.call
        weight, mask, x = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad[1:]
        g_x = g_weight = g_bias = None
        if for_x:
            g_x = conv2d_input(call.in_shape, weight, g_y, *call.geometry)
        if for_weight:
            g_weight, g_bias = _for_parameters(call, weight, mask, x, g_y)
        elif for_bias:
            g_bias = g_y.sum((0, 2, 3))
        return None, g_x, g_weight, g_bias if for_bias else None


def _forward(call: _Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, bool]:
    """The convolution, the bits of the input, and whether they say all of it."""
    y = call.result()
    data, kernel, b = call.dense(x, call.last_in), weight.contiguous(), None if bias is None else bias.contiguous()
    mask = torch.empty((call.in_shape[0], call.words), dtype=torch.int64, device="cpu")
    at = [0 if t is None else t.data_ptr() for t in (data, mask, kernel, b, y)]
    return y, mask, _C.conv_forward(call.sizes, *at, torch.get_num_threads())


def _for_parameters(call: _Call, weight: Tensor, mask: Tensor, x: Tensor | None, g_y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of weights and bias."""
    data, given = None if x is None else call.dense(x, call.last_in), call.dense(g_y, call.last_out)
    g_weight = torch.empty(weight.shape, dtype=weight.dtype, device="cpu")
    g_bias = torch.empty(weight.shape[0], dtype=weight.dtype, device="cpu")
    at = [0 if t is None else t.data_ptr() for t in (data, mask, given, g_weight, g_bias)]
    _C.conv_backward(call.sizes, *at, torch.get_num_threads())
    if not bool(torch.isfinite(g_bias).all()):  # 0 times infinity is not 0: every product counts
        whole = _unpacked(mask, call) if data is None else data
        g_weight = conv2d_weight(whole, tuple(weight.shape), g_y, *call.geometry)
    return g_weight, g_bias


_once = torch.autograd.function.once_differentiable(_SpikeConv.backward)


def _unpacked(mask: Tensor, call: _Call) -> Tensor:
    """The input of a call, of zeros and ones."""
    n, c, h, w = call.in_shape
    bits = mask.view(torch.uint8).unsqueeze(-1).bitwise_right_shift(torch.arange(8, dtype=torch.uint8)).bitwise_and(1)
    flat = bits.reshape(n, -1)[:, : c * h * w].to(torch.float32)
    return flat.view(n, h, w, c).permute(0, 3, 1, 2) if call.last_in else flat.view(n, c, h, w)


class _Timed:
    """What is timed to find the break-even."""

    def __init__(self, weight: Tensor, geometry: Geometry) -> None:
        self.weight, self.bias, self.geometry = weight.detach(), torch.zeros(len(weight)), geometry

    def forward(self, x: Tensor) -> None:
        self.call = _Call(x, self.weight, self.geometry)
        self.mask = _forward(self.call, x, self.weight, self.bias)[1]

    def gradient(self, g: Tensor) -> None:
        _for_parameters(self.call, self.weight, self.mask, None, g)


def break_even_of(x: Tensor, weight: Tensor, geometry: Geometry, training: bool) -> float:
    """The density up to which spikes are used for this convolution; measured at the first call of its shape."""
    call = _Call(x, weight, geometry)
    return break_even(x, weight, geometry, call.out_shape, training, lambda: _Timed(weight, geometry))


def _refusal(x: Any, weight: Tensor, bias: Tensor | None) -> str | None:
    """Why these tensors are none for the library."""
    if _get_tracing_state() is not None:
        return "torch.jit is tracing"
    if peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return "a transform of torch.func or forward-mode differentiation is active"
    if _len_torch_dispatch_stack() or has_function_mode():
        return "a mode of torch is active"
    tensors = [t for t in (x, weight, bias) if t is not None]
    if any(type(t) not in (Tensor, nn.Parameter) or t.layout is not torch.strided for t in tensors):
        return "a tensor of a special type or layout"
    if any(t.device.type != "cpu" or t.dtype is not torch.float32 for t in tensors):
        return "not float32 on the CPU"
    if torch.is_autocast_enabled("cpu"):
        return "autocast"
    fits = x.dim() == weight.dim() == 4 and x.shape[1] == weight.shape[1]
    return None if fits and (bias is None or bias.shape == weight.shape[:1]) else "the input is no batch of images"


def _choose(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> tuple[_Call | None, str]:
    """How to run: by the library, if there is a call for it; and why."""
    why = _refusal(x, weight, bias)
    if why is None and (min(geometry.stride + geometry.dilation) < 1 or min(geometry.padding) < 0):
        why = "numbers that torch refuses"
    if why is not None:
        return None, f"dense: {why}"
    call = _Call(x, weight, geometry)
    places = call.size[0] * call.size[1]
    if min(call.size) <= 0 or not x.numel() or len(x) * places * weight.numel() < LEAST_WORK:
        return None, "dense: too little work"
    if max(weight.numel() // len(weight) * (len(weight) + 256), x.numel() // len(x)) > _MOST:
        return None, "dense: too large for positions of 32 bits"
    learns = torch.is_grad_enabled() and weight.requires_grad
    kernel, data = weight.detach().contiguous(), call.dense(x.detach(), call.last_in)
    density = _C.conv_density(data.data_ptr(), data.numel(), kernel.data_ptr(), kernel.numel())
    if isnan(density):
        return None, "dense: the weights are not all finite"
    limit = break_even_of(x, weight, geometry, learns)
    if density >= limit:
        return None, f"dense: {density:.1%} of the input is not 0, and spikes pay up to {limit:.0%}"
    return call, f"from spikes: {density:.1%} of the input is not 0"


def sparse_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """`torch.nn.functional.conv2d`, from the spikes alone where they are few.

    y[n, o, i, j] = bias[o] + sum over c, k, l of weight[o, c, k, l] x[n, c, i s + k d - p, j s + l d - p]

    The products of torch's, without those with 0, summed in another order. The density is estimated from a sample of
    the input; above the break-even (measured once per shape, or pinned by `spike_break_even`), and wherever the library
    cannot be used, torch's own runs.

    Args:
        x: [N, C, H, W]; any values, best mostly 0. Contiguous or channels-last, and so is what comes out.
        weight: [O, C, K, L].
        bias: [O].
        stride: Down and across, as the following.
        padding: Zeros on both sides.
        dilation: Distance of the kernel's places.

    Returns:
        y, [N, O, I, J]. For the gradient of the weights a bit per value of `x` is kept where all are 0 or 1, else `x`.
    """
    if torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, stride, padding, dilation)
    seen = recorded(sparse_conv2d, x, weight, bias, stride, padding, dilation)
    if seen is not None:
        return seen
    geometry = Geometry(stride, padding, dilation)
    call, note = _choose(x, weight, bias, geometry)
    _notes[weight] = note
    if call is None:
        return F.conv2d(x, weight, bias, *geometry)
    y: Tensor = _SpikeConv.apply(call, x, weight, bias)  # type: ignore[no-untyped-call]
    return y


sparse_conv2d.per_sample = 4  # type: ignore[attr-defined]  # for time fusion: dimensions with the batch


def last_call(module: nn.Module) -> str | None:
    """How the last call with the weights of this module ran, and why."""
    weight = module._parameters.get("weight")
    return None if weight is None else _notes.get(weight)


class SpikeConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` whose input is mostly zeros: see `sparse_conv2d`.

    Adds nothing to its base class; instances are made of `nn.Conv2d` by `plugin_accel.convert(net, sparse=...)`, or
    as one makes an `nn.Conv2d`. Groups and other padding than zeros run as in `nn.Conv2d`.
    """

    per_sample: ClassVar[int] = 4

    def _get_name(self) -> str:
        return nn.Conv2d.__name__

    def forward(self, input: Tensor) -> Tensor:
        """See `sparse_conv2d`."""
        if why_dense(self) is not None:
            return super().forward(input)
        stride, padding, dilation = (_pair(n) for n in (self.stride, self.padding, self.dilation))
        if isinstance(self.padding, str):
            padding = _sides(self)[0][::-1]
        return sparse_conv2d(input, self.weight, self.bias, stride, padding, dilation)


def _pair(number: Any) -> tuple[Any, ...]:
    return (number, number) if type(number) is int else tuple(number)


def _sides(module: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """What a padding in words means: before, after; across and down."""
    sides = module._reversed_padding_repeated_twice
    return (sides[0], sides[2]), (sides[1], sides[3])


def why_dense(module: nn.Conv2d) -> str | None:
    """Why a convolution with these options runs as in `nn.Conv2d`, `None` if it does not."""
    if module.groups != 1:
        return f"it has {module.groups} groups, and spikes are summed over all channels"
    if module.padding_mode != "zeros":
        return f"it pads with {module.padding_mode!r}, not with zeros"
    if isinstance(module.padding, str) and _sides(module)[0] != _sides(module)[1]:
        return "it pads one side more than the other"
    return None
