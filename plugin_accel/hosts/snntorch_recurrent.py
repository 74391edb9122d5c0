"""snnTorch layers that hear their own spikes: a sequence is one loop in the backend where `recurrent` is a matrix.

Elsewhere that module runs in torch, once per step, and the rest is fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from snntorch._neurons import rleaky, rsynaptic
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from plugin_accel import backends
from plugin_accel.hosts import snntorch_options as so
from plugin_accel.hosts.connections import linear_of
from plugin_accel.hosts.inputs import check_input, is_watched
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.snntorch_call import (
    FP32,
    FP64,
    Form,
    Stepped,
    call,
    compute_dtype,
    first_states,
    parameters,
)
from plugin_accel.hosts.snntorch_step import is_prepared, quick_step
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.prepared import PreparedStep, once, thin
from plugin_accel.neurons.recurrent_loop import Connection, Loop, offers, run_loop

_ONE_TO_ONE = (rleaky.RecurrentOneToOne, rsynaptic.RecurrentOneToOne)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(nn_module, f"_global{name}") for name in _HOOKS]


def recurrent_call(form: Form, layer: Any, x: Tensor, spk: Any, given: Sequence[Any]) -> Stepped:
    """`call` of one step of a layer that hears its own spikes.

    Raises:
        Refused: snnTorch's own forward must run.
    """
    eager = not torch.compiler.is_compiling()
    if eager and (made := _one_to_one(form, layer, x, spk, given)) is not None:
        layer._buffers["spk"] = made[0]
        return Stepped(made[0], tuple(made[1:]), ())
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


def _loop(form: Form, layer: Any, x: Tensor, given: Sequence[Any], record: Sequence[bool]) -> Stepped | None:
    """The whole sequence in the backend; None where a step at a time must be gone."""
    if torch.compiler.is_compiling() or is_watched() or type(x) is not Tensor or x.dtype is not FP32 or x.dim() < 2:
        return None
    options, matrix = form.options(layer), linear_of(layer.recurrent, x.shape[-1])
    if matrix is None or options.reasons or options.inhibition or not options.spikes_learn:
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


class _OneToOne(torch.autograd.Function):
    """(step, params, learned, x, spikes, V, *states, *learned parameters) -> (out, *states).

    The recurrent input is spikes * V: three nodes of autograd, and what lies between them, in one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        step: PreparedStep,
        params: Sequence[Tensor],
        learned: tuple[int, ...],
        x: Tensor,
        spk: Tensor,
        weight: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        states = tensors[: step.states]
        kept, out, last = step.forward(x, states, [*params, spk * weight], True)
        ctx.made_by = step, learned
        reads_x, reads_states = step.reads(learned)
        read = (x if reads_x else None, *states) if reads_states else ()
        ctx.save_for_backward(kept, spk, weight, *read)
        ctx.set_materialize_grads(False)
        return (out, *last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        once()
        step, learned = ctx.made_by
        kept, spk, weight, *read = ctx.saved_tensors
        x, states = (read[0], read[1:]) if read else (None, (None,) * step.states)
        _, _, _, of_x, of_spk, of_weight, *of_states = ctx.needs_input_grad
        drive, *others = step.backward((of_x or of_spk or of_weight, *of_states), learned, kept, x, states, grads)
        return (
            *(None, None, None),
            drive if of_x else None,
            drive * weight if of_spk else None,
            _summed(drive, spk, weight) if of_weight else None,
            *others,
        )


_apply = thin(_OneToOne)


def _summed(drive: Tensor, spk: Tensor, weight: Tensor) -> Tensor:
    """The gradient of V."""
    if weight.numel() > 1:
        return (drive * spk).sum_to_size(weight.shape)
    return torch.dot(drive.view(-1), spk.view(-1)).view(weight.shape)


def _run_one_to_one(
    weight: Tensor,
    step: PreparedStep,
    x: Tensor,
    states: Sequence[Tensor | None],
    params: Sequence[Tensor],
    learned: tuple[int, ...],
    learns: bool,
) -> Sequence[Tensor]:
    """`run_known` with the spikes heard as the last of `params`."""
    *own, spk = params
    if torch.is_grad_enabled() and (learned or learns or weight.requires_grad):
        learned = tuple([i for i in learned if i < len(own)])
        flat: tuple[Tensor, ...] = _apply(step, own, learned, x, spk, weight, *states, *[own[i] for i in learned])
        return flat
    _, out, last = step.forward(x, states, [*own, spk * weight], False)
    return (out, *last)


def _one_to_one(form: Form, layer: Any, x: Any, spk: Any, given: Sequence[Any]) -> Sequence[Tensor] | None:
    """A step of a layer whose neurons hear themselves alone; None if it is another one, or not to be taken so."""
    module = layer._modules.get("recurrent")
    if type(module) not in _ONE_TO_ONE or type(x) is not Tensor or (layer.init_hidden and spk is not None):
        return None
    inside = module.__dict__
    if any([inside[name] for name in _HOOKS]) or any(_GLOBAL_HOOKS) or "forward" in inside:  # noqa: C419
        return None
    weight = inside["_parameters"].get("V")
    if weight is None:
        weight = inside.get("V")
    heard = layer._buffers.get("spk") if spk is None else spk
    if type(heard) is not Tensor or heard.shape != x.shape or type(weight) not in (Tensor, nn.Parameter):
        return None
    if weight.dtype is not torch.float32 or not weight.is_cpu or weight.shape not in ((), (1,), x.shape[1:]):
        return None
    return quick_step(form, layer, x, given, (heard,), partial(_run_one_to_one, weight))


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
