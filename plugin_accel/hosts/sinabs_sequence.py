"""A sinabs layer that a user's loop calls with one time step each: all calls as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sinabs.layers as sl
from torch import Tensor, nn

from plugin_accel.hosts.sequences import Refused, SequenceResult
from plugin_accel.hosts.sinabs_call import alif_call, lif_call, own_states, shape_states, shape_states_or_zero


def sequence(
    module: nn.Module, x: Tensor, states: Sequence[Tensor | None], *, record: Sequence[bool]
) -> SequenceResult:
    """Calls of LIF, IAF, ExpLeak or ALIF with one step each, `x` [T, batch, 1, ...]; see `hosts.sequences`."""
    layer: Any = module
    if x.dim() < 3 or x.shape[2] != 1 or len(x) == 0:
        raise Refused(f"calls of one time step each can be one, got inputs of shape {tuple(x.shape[1:])}")
    if layer.record_states:
        raise Refused("states are recorded, which each call does anew")
    data = x.squeeze(2)
    state_shape = tuple(data.shape[1:])
    adapts = isinstance(layer, sl.ALIF)
    call = (alif_call if adapts else lif_call)(layer, data, state_shape, 0)
    if adapts and "i_syn" in call.names:
        raise Refused("ALIF with a synapse starts each call from the same current")
    fresh = (shape_states_or_zero if adapts else shape_states)(layer, state_shape)
    b_dtype = layer.b.dtype if adapts else None
    result = call.run(data, own_states(layer, call, fresh))
    last = dict(zip(call.names, result.last, strict=True))
    if adapts:
        last["b"] = last["b"].to(b_dtype)
        last["spike_threshold"] = layer.b0 + layer.adapt_scale * last["b"]
    elif "i_syn" not in last:  # without a synapse sinabs leaves a plain None behind
        layer.__dict__["i_syn"] = None
    layer._buffers.update(last)
    layer.__dict__.update(recordings={}, firing_rate=result.out[-1].mean())
    return SequenceResult((result.out.unsqueeze(2),), ())
