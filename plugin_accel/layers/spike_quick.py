"""The quick way through small calls: streaming, where a call costs more than its product.

What the layer's last call had established is compared, and nothing else done.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.nn import functional as F

from plugin_accel.hosts.inputs import is_watched
from plugin_accel.layers import spike_choice
from plugin_accel.layers.spike_weights import FEW_LINES, KNOWN, Plan, is_current, known
from plugin_accel.modes import has_function_mode, may_count_saved

FEW_ROWS = 16
"""So many are looked at and multiplied in one call of the library."""
LEAST_WORK = 1 << 17
"""Multiplications of a dense product below which a choice costs more than it brings."""
SMALL_WORK = 1 << 28
"""Those below which even the look at the input counts: a dense product of two milliseconds."""
_SKIPPED = 31


def remember(x: Tensor, weight: Tensor, bias: Tensor | None, most: int) -> None:
    """Take note of a call without gradients that was found to be one for the kernels."""
    known(weight).plan = Plan(
        x.shape,
        (*x.shape[:-1], weight.shape[0]),
        x.dtype,
        None if bias is None else weakref.ref(bias),
        spike_choice.pinned(),
        torch.get_num_threads(),
        x.numel() // x.shape[-1],
        x.shape[-1],
        most,
    )


def skip(weight: Tensor, entries: int) -> None:
    """Take note of a call that was found to be dense: of small ones, the next few are dense without a look."""
    if entries * weight.shape[0] < SMALL_WORK and spike_choice.pinned() is None:
        of, training = known(weight), torch.is_grad_enabled()
        of.skip[training], of.skipped[training] = _SKIPPED, entries


def quick_call(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """What the general way gives for a call like the last one; None: go that way."""
    of = KNOWN.get(id(weight))
    if of is None:
        return None
    training = torch.is_grad_enabled()
    if (
        of.skip[training]
        and type(x) is Tensor
        and x.numel() == of.skipped[training]
        and spike_choice.pinned() is None
        and not (training and may_count_saved())  # checkpointing repeats the call, and counts
    ):
        of.skip[training] -= 1
        return F.linear(x, weight, bias)
    plan, made = of.plan, of.packed
    if plan is None or made is None or of.owner() is not weight or training:
        return None
    if (
        type(x) is not Tensor
        or x.shape != plan.shape
        or x.dtype is not plan.dtype
        or not x.is_cpu
        or not x.is_contiguous()
        or x.is_neg()
        or not is_current(made, weight)
        or (bias is not None if plan.bias is None else plan.bias() is not bias)
        or (bias is not None and (bias.dtype is not plan.dtype or bias.numel() != made.shape[0]))
        or plan.pinned is not spike_choice.pinned()
        or plan.threads != torch.get_num_threads()
        or torch.is_autocast_enabled("cpu")
        or is_watched()
        or has_function_mode()
        or not made.kernels.same(made.address, FEW_LINES, 1)
    ):
        return None
    out = x.new_empty(plan.out_shape)
    where = 0 if bias is None else bias.data_ptr()
    seen = made.kernels.step(x.data_ptr(), plan.rows, plan.inputs, plan.most, where, out.data_ptr(), plan.threads)
    if seen >= 0:
        return out
    skip(weight, plan.rows * plan.inputs)
    return F.linear(x, weight, bias)
