"""sinabs layers that hear their own spikes: the loop in the backend where `rec_connect` is a matrix, else in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plugin_accel.hosts import sinabs_options
from plugin_accel.hosts.connections import Linear, linear_of
from plugin_accel.hosts.inputs import is_watched
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.sinabs_call import Call, StateShape, own_states, shape_states_or_zero
from plugin_accel.neurons import run_unchecked
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.recurrent_loop import Connection, Loop, offers, run_loop


class Recurred(NamedTuple):
    """What a call of a recurrent layer gave.

    Attributes:
        out: Spikes.
        last: States after the last step, by name.
        recorded: Of each step, "kept" (the membrane before the reset) and the states; empty unless recorded.
    """

    out: Tensor
    last: dict[str, Tensor]
    recorded: dict[str, Sequence[Tensor]]


def state_shape_of(x: Tensor) -> StateShape:
    """The shape of a state for the input `x`, [batch, time, ...].

    Raises:
        Refused: there is none.
    """
    shape = tuple(x.shape)
    if len(shape) < 2 or shape[1] == 0:
        raise Refused(f"input has shape {shape}; the kernels take batch, time >= 1, ...")
    return shape[:1] + shape[2:]


def recurrent(layer: Any, x: Tensor, make: Callable[..., Call]) -> Recurred:
    """A call of a recurrent layer.

    The recurrent input is zero at the first step of every call, and `rec_connect` also sees the last step's spikes.

    Raises:
        Refused: before anything ran or changed.
    """
    state_shape = state_shape_of(x)
    if not isinstance(x, Tensor):
        raise Refused(f"input is a {type(x).__name__}")
    why = sinabs_options.reasons(layer)
    if why:
        raise Refused("; ".join(why))
    total = x.select(1, 0) + torch.zeros(state_shape, device=x.device)
    call = make(layer, total, state_shape, STEP)
    matrix = None
    if not torch.compiler.is_compiling() and not is_watched() and x.dtype is torch.float32 and len(state_shape) > 1:
        matrix = linear_of(layer.rec_connect, prod(state_shape[1:]), flat=True)
        if matrix is not None and len(state_shape) > 2 and type(layer.rec_connect) is torch.nn.Linear:
            matrix = None  # it acts on the last dimension alone
    states = own_states(layer, call, shape_states_or_zero(layer, state_shape))
    looped = None if matrix is None else _loop(layer, x, call, matrix, states)
    return looped or _steps(layer, x.unbind(1), total, make, call, states)


def _loop(layer: Any, x: Tensor, call: Call, matrix: Linear, states: Sequence[Tensor]) -> Recurred | None:
    """The whole sequence in the backend; None if it has no such loop."""
    function: Any = call.function
    if getattr(function, "func", None) is not run_unchecked or function.keywords["surrogate_fn"] is not None:
        return None
    neuron, backend = function.args
    if not offers(backend, call.config, x):
        return None
    shape, record = states[0].shape, bool(layer.record_states)
    flat = len(shape) == 2
    params = function.keywords["params"]
    if not flat:  # units are one dimension there
        if any(p.dim() for p in params):
            return None
        x, states = x.flatten(2), [s.flatten(1) for s in states]
    loop = Loop(neuron, backend, call.config, 1, record, record, len(states), function.keywords["derived"])
    made = run_loop(loop, x, Connection(matrix.weight, matrix.bias, None), states, params)
    out, last = made.out, made.last
    recorded: dict[str, Sequence[Tensor]] = {}
    if made.kept is not None:
        recorded["kept"] = [k.view(shape) for k in made.kept.unbind(1)]
        recorded |= {n: [s.view(shape) for s in r.unbind(0)] for n, r in zip(call.names, made.records, strict=True)}
    if not flat:  # states are never views
        out, last = out.view(shape[0], -1, *shape[1:]), tuple([s.view(shape).clone() for s in last])
    return Recurred(out, dict(zip(call.names, last, strict=True)), recorded)


def _steps(
    layer: Any,
    inputs: Sequence[Tensor],
    total: Tensor,
    make: Callable[..., Call],
    call: Call,
    states: Sequence[Tensor],
) -> Recurred:
    """The host's loop over time with one fused step each; `total` is the first step's input."""
    state_shape = total.shape
    feedback = torch.zeros_like(total)
    recorded: dict[str, list[Tensor]] = {name: [] for name in ("kept", *call.names)} if layer.record_states else {}
    record = bool(recorded)
    out = []
    for t, x_t in enumerate(inputs):
        if t > 0:
            given = total.dtype
            total = x_t + feedback
            if total.dtype is not given:  # autocast: rec_connect's output may be narrower than the zeros before it
                call = make(layer, total, state_shape, STEP)
        step = call.run(total, states, keep=record, record=record)
        states = step.last
        out.append(step.out)
        for name, value in zip(recorded, (step.kept, *step.records), strict=False):
            recorded[name].append(value)  # type: ignore[arg-type]
        feedback = layer.rec_connect(step.out).reshape(state_shape)
    return Recurred(torch.stack(out, 1), dict(zip(call.names, states, strict=True)), dict(recorded))


def late_recordings(recorded: Mapping[str, Sequence[Tensor]], last: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Recordings of a recurrent layer: those of step t are what step t + 1 overwrites them with."""
    if not recorded:
        return {}
    made = {"v_mem": torch.stack([*recorded["kept"][1:], last["v_mem"]], 1)}
    if "i_syn" in recorded:
        made["i_syn"] = torch.stack([*recorded["i_syn"][1:], last["i_syn"]], 1)
    return made
