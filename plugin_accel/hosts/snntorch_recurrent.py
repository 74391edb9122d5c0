"""snnTorch layers that hear their own spikes: a sequence is one loop in the backend where `recurrent` is a matrix.

Elsewhere that module runs in torch, once per step, and the rest is fused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from snntorch._neurons import rleaky, rsynaptic
from torch import Tensor, nn

from plugin_accel import backends
from plugin_accel.hosts import snntorch_options as so
from plugin_accel.hosts.connections import linear_of
from plugin_accel.hosts.inputs import check_input, is_watched
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.snntorch_call import (
    FP32,
    FP64,
    LOW,
    Form,
    Stepped,
    call,
    compute_dtype,
    first_states,
    parameters,
)
from plugin_accel.hosts.snntorch_step import is_prepared, quick_step
from plugin_accel.modes import has_global_hook
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.prepared import PreparedStep, run_known
from plugin_accel.neurons.recurrent_loop import Connection, Loop, offers, run_loop

_ONE_TO_ONE = (rleaky.RecurrentOneToOne, rsynaptic.RecurrentOneToOne)


def recurrent_call(form: Form, layer: Any, x: Tensor, spk: Any, given: Sequence[Any]) -> Stepped:
    """`call` of one step of a layer that hears its own spikes.

    Raises:
        Refused: snnTorch's own forward must run.
    """
    eager = not torch.compiler.is_compiling()
    if eager and (made := one_to_one(form, layer, x, spk, given)) is not None:
        return Stepped(made[0], made[1:], ())
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
    silent = heard is None and type(layer.recurrent) in _ONE_TO_ONE  # exact zeros
    if x.dtype in LOW and recurrent.dtype in LOW and not silent:
        raise Refused(f"input and recurrent are {x.dtype}, in which snnTorch rounds what this layer adds up")
    quick = quick_step(form, layer, x, given, (recurrent,)) if eager else None
    if quick is None:
        result = call(form, layer, x, given, STEP, recurrent=recurrent)
    else:
        result = Stepped(quick[0], quick[1:], ())
    layer._buffers["spk"] = result.spikes
    return result


def _loop(form: Form, layer: Any, x: Tensor, given: Sequence[Any], record: Sequence[bool]) -> Stepped | None:
    """The whole sequence in the backend; None where a step at a time must be gone."""
    if torch.compiler.is_compiling() or is_watched() or type(x) is not Tensor or x.dtype is not FP32 or x.dim() < 2:
        return None
    options, matrix = form.options(layer), linear_of(layer.recurrent, x.shape[-1])
    if matrix is None or options.reasons or options.inhibition or options.called or not options.spikes_learn:
        return None
    if not options.delay and so.mechanism_differs(layer):
        return None
    check_input(x)
    backend, config = backends.choose(x.device, FP32, form.neuron.name), so.config(options, True, False, STEP)
    if backend is None or not offers(backend, config, x):
        return None
    shape = x.shape[1:]
    spk, *states = [
        torch.zeros(shape, dtype=FP32, device=x.device) if s is None else s.contiguous()
        for s in first_states(layer, form.arguments, given, x, shape, FP32)
    ]
    params = parameters(form, layer, x, FP32, shape, layer.graded_spikes_factor)
    mem = form.states.index("mem")
    # The kernels keep the membrane before the reset, which with a delay is the membrane.
    others = any(wanted and (i != mem or not options.delay) for i, wanted in enumerate(record))
    loop = Loop(form.neuron, backend, config, 0, options.delay and bool(record[mem]), others, len(states), ())
    connection = Connection(matrix.weight, matrix.bias, spk)
    made = run_loop(loop, x, connection, [states[i] for i in form.order], params)
    back = [form.order.index(i) for i in range(len(states))]
    last = tuple(made.last[i] for i in back)
    records: list[Tensor | None] = [made.records[i] if others else None for i in back]
    if options.delay:
        records[mem] = made.kept
    layer._buffers.update(zip(form.arguments, (made.out[-1].clone(), *last), strict=True))
    return Stepped(made.out, last, tuple(r if want else None for r, want in zip(records, record, strict=True)))


def _hearing(step: PreparedStep) -> Callable[..., Sequence[Tensor]]:
    """How a step hears its spikes times V: by itself if it can, else what torch multiplies."""
    own: Callable[[], Callable[..., Sequence[Tensor]]] | None = getattr(step, "hearing", None)
    return partial(_run_one_to_one, step) if own is None else own()


def _run_one_to_one(
    step: PreparedStep,
    x: Tensor,
    states: Sequence[Tensor | None],
    params: Sequence[Tensor],
    learned: tuple[int, ...],
    learns: bool,
) -> Sequence[Tensor]:
    """`run_known` where the last of `params` is the product of the last two here: spikes and V."""
    *own, spk, weight = params
    heard = spk * weight
    among = tuple([i for i in learned if i < len(own)])
    if heard.requires_grad:
        among = (*among, len(own))
    return run_known(step, x, states, [*own, heard], among, learns)


def one_to_one(form: Form, layer: Any, x: Any, spk: Any, given: Sequence[Any]) -> tuple[Tensor, ...] | None:
    """A step of a layer whose neurons hear themselves alone; None if it is another one, or not to be taken so."""
    module = layer._modules.get("recurrent")
    if type(module) not in _ONE_TO_ONE or type(x) is not Tensor or (layer.init_hidden and spk is not None):
        return None
    inside = module.__dict__
    if "forward" in inside or inside["_forward_hooks"] or inside["_forward_pre_hooks"]:
        return None
    if inside["_backward_hooks"] or inside["_backward_pre_hooks"] or has_global_hook():
        return None
    weight = inside["_parameters"].get("V")
    if weight is None:
        weight = inside.get("V")
    heard = layer._buffers.get("spk") if spk is None else spk
    if type(heard) is not Tensor or type(weight) not in (Tensor, nn.Parameter):
        return None
    return quick_step(form, layer, x, given, (heard, weight), _hearing)


def recurrent_sequence(form: Form, layer: Any, x: Tensor, given: Sequence[Any], record: Sequence[bool]) -> Stepped:
    """`recurrent_call` for every step of [T, ...]; `given` starts with the spikes.

    Raises:
        Refused: snnTorch's own forward must run.
    """
    if x.shape[0] == 0:
        raise Refused("there are no time steps")
    record = record[-len(form.states) :]  # `run` asks for the spikes, which come anyway, as for a state
    looped = _loop(form, layer, x, given, record)
    if looped is not None:
        return looped
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
