"""One EGRU layer over one sequence: what goes into a backend's kernels, what comes out, and what is checked before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from plugin_accel.errors import InputError
from plugin_accel.modes import capturing

TRACE_DECAY = 0.9
"""Decay of the output trace, fixed by EvNN."""


class Inputs(NamedTuple):
    """What a layer is differentiable in; floating tensors of one dtype on one device."""

    x: Tensor
    """Input, [T, B, I]."""
    kernel: Tensor
    """Input weights, [I, 3H], columns z | r | g."""
    recurrent_kernel: Tensor
    """Recurrent weights, [H, 3H], columns z | r | g."""
    bias: Tensor
    """[3H]."""
    recurrent_bias: Tensor
    """[3H]."""
    thr: Tensor
    """Thresholds, [H], within [0, 1]."""
    y: Tensor
    """Output before the first step, [B, H]."""
    h: Tensor
    """State before the first step, [B, H]."""
    trace: Tensor
    """Output trace before the first step, [B, H]."""


class Options(NamedTuple):
    """The rest of a call; nothing here has a gradient."""

    dampening: Tensor
    """Height of the triangular surrogate, [1]."""
    support: Tensor
    """Its steepness: half its width is 1 / support, [1]."""
    mask: Tensor | None = None
    """Zoneout in training: bool [T, B, H], False where a unit keeps its state."""
    lengths: Tensor | None = None
    """Steps of each sample: int64 [B] on the CPU, within 1 and T."""
    keep: float = 1.0
    """Without a mask: c = h + keep * (c - h); 1 - zoneout in evaluation."""


class Result(NamedTuple):
    """Sequences, final values (each sample after its own last step), and what backward needs."""

    y: Tensor
    h: Tensor
    """State after the reset; this and the next two are empty unless recorded."""
    o: Tensor
    trace: Tensor
    y_n: Tensor
    h_n: Tensor
    trace_n: Tensor
    counts: Tensor
    """float64 [2]: events, and steps of units that are silent with a surrogate of zero."""
    saved: Tensor
    """[T, B, 5, H]: z, r, g, q_g, c; empty unless asked for, or where the backend needs none."""


SEQUENCES = 4
"""How many of a result's tensors are sequences."""
DIFFERENTIABLE = 7
"""How many of a result's tensors, the first ones, have a gradient."""


class EgruKernels(Protocol):
    """What a backend offers for EGRU, as its attribute `egru`. Nothing here is differentiable."""

    def forward(self, inputs: Inputs, options: Options, *, record: bool, save: bool) -> Result:
        """Run a sequence; `record`: also h, o and trace, `save`: also what backward reads."""
        ...

    def backward(
        self,
        inputs: Inputs,
        options: Options,
        saved: Tensor,
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """Gradients of `inputs`, None where not wanted; `grads` of the first seven results, None for zero."""
        ...


def result_shapes(inputs: Inputs, record: bool) -> list[tuple[int, ...]]:
    """Shapes of a result's tensors up to `trace_n`."""
    steps, batch = inputs.x.shape[:2]
    hidden = inputs.thr.shape[0]
    full, last = (steps, batch, hidden), (batch, hidden)
    recorded = full if record else (0,)
    return [full, recorded, recorded, recorded, last, last, last]


def check_shapes(inputs: Inputs, options: Options) -> None:
    """Checks dtypes, devices and shapes: wrong ones would make a kernel read foreign memory.

    Raises:
        InputError: one of them is not as `Inputs` and `Options` say.
    """
    x = inputs.x
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"EGRU input: expected float32 or float64, got {x.dtype}; convert it with .float()")
    if x.dim() != 3:
        raise InputError(f"EGRU input: expected 3 dimensions (time, batch, features), got shape {tuple(x.shape)}")
    steps, batch, features = x.shape
    hidden = inputs.thr.numel()
    shapes = (
        (steps, batch, features),
        (features, 3 * hidden),
        (hidden, 3 * hidden),
        (3 * hidden,),
        (3 * hidden,),
        (hidden,),
        *((batch, hidden),) * 3,
    )
    for name, t, shape in zip(Inputs._fields, inputs, shapes, strict=True):
        _like(name, t, x)
        if tuple(t.shape) != tuple(shape):
            raise InputError(f"EGRU {name}: expected shape {tuple(shape)}, got {tuple(t.shape)}")
    for name, t in (("dampening", options.dampening), ("support", options.support)):
        _like(name, t, x)
        if t.numel() != 1:
            raise InputError(f"EGRU {name}: expected one value, got shape {tuple(t.shape)}")
    mask, lengths = options.mask, options.lengths
    if mask is not None and (mask.dtype is not torch.bool or tuple(mask.shape) != (steps, batch, hidden)):
        raise InputError(
            f"EGRU mask: expected bool of shape {(steps, batch, hidden)}, got {mask.dtype} of {tuple(mask.shape)}"
        )
    if lengths is not None and (lengths.dtype is not torch.int64 or tuple(lengths.shape) != (batch,)):
        raise InputError(
            f"EGRU lengths: expected int64 of shape {(batch,)}, got {lengths.dtype} of "
            f"{tuple(lengths.shape)}; give one number of steps per sample"
        )


def check_lengths(inputs: Inputs, options: Options) -> None:
    """Checks the values of the lengths.

    Raises:
        InputError: one is below 1 or above the number of steps.
    """
    lengths, steps = options.lengths, inputs.x.shape[0]
    if lengths is not None and capturing(inputs.x.device):
        raise InputError(
            "EGRU lengths: expected None while a CUDA graph is captured, got a tensor of the CPU, which a replay would "
            "read again; capture without lengths"
        )
    if lengths is not None and lengths.numel() and not bool(((lengths >= 1) & (lengths <= steps)).all()):
        raise InputError(
            f"EGRU lengths: expected values within 1 and the {steps} steps of the input, got {lengths.tolist()}; "
            "leave out samples without steps"
        )


def _like(name: str, t: Tensor, x: Tensor) -> None:
    if t.dtype is not x.dtype:
        raise InputError(f"EGRU {name}: expected {x.dtype} as the input, got {t.dtype}; convert one with .to(...)")
    if t.device != x.device:
        raise InputError(f"EGRU {name}: expected a tensor on {x.device} as the input, got {t.device}; move it")
