"""snnTorch layers that hear their own spikes: the module `recurrent` runs in torch, once per step, the rest fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.hosts.inputs import check_input
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.snntorch_call import FP64, Form, Stepped, call, compute_dtype, first_states
from plugin_accel.hosts.snntorch_step import is_prepared, quick_step
from plugin_accel.neurons.layout import STEP


def recurrent_call(form: Form, layer: Any, x: Tensor, spk: Any, given: Sequence[Any]) -> Stepped:
    """`call` of one step of a layer that hears its own spikes.

    Raises:
        Refused: snnTorch's own forward must run.
    """
    eager = not torch.compiler.is_compiling()
    if not (eager and is_prepared(layer)):
        options = form.options(layer)
        if options.reasons:
            raise Refused("; ".join(options.reasons))
        check_input(x)
        compute_dtype(x, form.low)
    (heard,) = first_states(layer, ("spk",), (spk,), x, x.shape, None)
    recurrent = layer.recurrent(torch.zeros_like(x) if heard is None else heard)
    if recurrent.shape != x.shape or (recurrent.dtype is FP64 and x.dtype is not FP64):
        raise Refused(f"recurrent gives {recurrent.dtype} of shape {tuple(recurrent.shape)}")
    quick = quick_step(form, layer, x, given, (recurrent,)) if eager else None
    if quick is None:
        result = call(form, layer, x, given, STEP, recurrent=recurrent)
    else:
        result = Stepped(quick[0], tuple(quick[1:]), ())
    layer._buffers["spk"] = result.spikes
    return result


def recurrent_sequence(form: Form, layer: Any, x: Tensor, given: Sequence[Any], record: Sequence[bool]) -> Stepped:
    """`recurrent_call` for every step of [T, ...]; `given` starts with the spikes.

    Raises:
        Refused: snnTorch's own forward must run.
    """
    if x.shape[0] == 0:
        raise Refused("there are no time steps")
    spikes, records = [], []
    spk, *states = given
    before = dict(layer._buffers)
    for x_t in x.unbind(0):
        try:
            result = recurrent_call(form, layer, x_t, spk, states)
        except Refused:
            layer._buffers.update(before)
            raise
        spikes.append(result.spikes)
        records.append(result.last)
        spk, states = (None, [None] * len(states)) if layer.init_hidden else (result.spikes, list(result.last))
    stacked = tuple(
        torch.stack(r) if want else None for r, want in zip(zip(*records, strict=True), record, strict=True)
    )
    return Stepped(torch.stack(spikes), records[-1], stacked)
