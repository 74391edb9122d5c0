"""The density below which a convolution is computed from its spikes: measured once per shape, or pinned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_accel import _C
from plugin_accel.layers import spike_choice

_MOST_WORK = 1 << 30  # products that are timed: enough for the fixed costs to count as they do
_OVERHEAD = (40e-6, 20e-6)  # seconds of choosing and of bookkeeping, forward and backward


class Geometry(NamedTuple):
    """What `torch.nn.functional.conv2d` is told beside the tensors; its backward as well."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


class Spikes(Protocol):
    """A convolution by the library."""

    def forward(self, x: Tensor) -> object:
        """The convolution of these images; keeps what `gradient` needs."""

    def gradient(self, g: Tensor) -> object:
        """The gradient of weights and bias for this one of the output."""


KEY = ("isa", "threads", "training", "images", "shape", "weight", "geometry", "last")
"""What a density depends on; images: a power of two, fewer where these make 2^30 products."""

measured = spike_choice.store()
"""What has been measured so far, by `KEY`."""


def break_even(
    x: Tensor, weight: Tensor, geometry: Geometry, out: tuple[int, ...], training: bool, spikes: Callable[[], Spikes]
) -> float:
    """The density in force for this convolution: for its forward pass, in training with the gradient of the weights.

    Args:
        x: Images, [N, C, H, W].
        weight: [O, C, K, L].
        geometry: Stride, padding, dilation.
        out: Shape of what comes out.
        training: Whether the weights have a gradient.
        spikes: Makes what is timed against torch's.
    """
    pinned = spike_choice.pinned()
    if pinned is not None:
        return pinned[training]
    work = out[2] * out[3] * weight.numel()
    images = 1 << (max(1, min(len(x), max(torch.get_num_threads(), _MOST_WORK // work))).bit_length() - 1)
    last = not x.is_contiguous()
    key = (_C.isa(), torch.get_num_threads(), training, images, tuple(x.shape[1:]), tuple(weight.shape), geometry, last)
    if key not in measured:
        timing = _timing(x, weight, geometry, out, spikes)
        kept = slice(0, 2 if training else 1)
        one = spike_choice.Timing(lambda *a: timing.calls(*a)[kept], timing.overhead[kept])
        measured[key] = spike_choice.density_limits(images, one, lambda lines: [spike_choice.crossing(lines)])[0]
    return measured[key]


def _timing(
    x: Tensor, weight: Tensor, geometry: Geometry, out: tuple[int, ...], spikes: Callable[[], Spikes]
) -> spike_choice.Timing:
    weight = weight.detach()
    bias = torch.zeros(len(weight))
    order = torch.contiguous_format if x.is_contiguous() else torch.channels_last

    def calls(images: int, density: float | None) -> Sequence[Callable[[], object]]:
        generator = torch.Generator().manual_seed(0)  # not the user's
        data = (torch.rand((images, *x.shape[1:]), generator=generator) < (density or 0.03)).float()
        data = data.contiguous(memory_format=order)
        g = torch.randn((images, *out[1:]), generator=generator).contiguous(memory_format=order)
        if density is None:
            sizes = ([len(weight)], *geometry, False, [0, 0], 1, [False, True, True])
            return (
                lambda: F.conv2d(data, weight, bias, *geometry),
                lambda: torch.ops.aten.convolution_backward(g, data, weight, *sizes),
            )
        made = spikes()
        made.forward(data)
        return lambda: made.forward(data), lambda: made.gradient(g)

    return spike_choice.Timing(calls, _OVERHEAD)
