"""The quick way through a short call without gradients: streaming, where a call costs more than its kernel.

What the layer's last call had established is compared, and nothing else done. What cannot be taken in this way goes
through `sinabs_call`, to the same numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from plugin_accel import backends
from plugin_accel.backends import Backend
from plugin_accel.hosts import sinabs_options as so
from plugin_accel.hosts.inputs import is_watched
from plugin_accel.hosts.sinabs_decays import MEM, SYN, decay
from plugin_accel.neurons import SINABS_LIF
from plugin_accel.neurons.prepared import PreparedSequence

_FP32 = torch.float32
_ONE = torch.ones((), dtype=_FP32, device="cpu")


class _Plan(NamedTuple):
    """A prepared call, and what it was prepared for."""

    shape: torch.Size
    state_shape: torch.Size
    options: so.Options
    synapse: bool
    backend: Backend
    sequence: PreparedSequence


_plans: WeakKeyDictionary[nn.Module, _Plan] = WeakKeyDictionary()


def _plain(p: Tensor) -> bool:
    # one value with dimensions of its own may give the host's state more of them
    return p.dtype is _FP32 and p.dim() == 0 and p.is_cpu and type(p) in (Tensor, nn.Parameter)


def quick_call(layer: Any, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """(output, its mean) of LIF, IAF or ExpLeak, the states left in the layer's buffers; None: go the general way."""
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or type(x) is not Tensor
        or x.dtype is not _FP32
        or not x.is_cpu
        or not x.is_contiguous()
        or x.is_neg()
        or is_watched()
    ):
        return None
    own = layer.__dict__
    options, norm, parameters, buffers = so.read(layer), own.get("norm_input"), own["_parameters"], own["_buffers"]
    if norm is None or own.get("record_states", True) or own.get("min_v_mem", layer) is not None:
        return None  # a bound is a parameter, or a parametrised layer's property
    mem, syn = decay(layer, MEM, rest=norm), decay(layer, SYN, rest=False)
    if mem is None:
        return None
    params = [mem.alpha, _ONE if mem.rest is None else mem.rest]
    if syn is not None:
        params.append(syn.alpha)
    if options.spike != "none":
        threshold = parameters.get("spike_threshold")
        if threshold is None or options.reset != "subtract_threshold":
            return None
        params.append(threshold)
    if not all([_plain(p) for p in params]):  # noqa: C419 (a generator takes longer)
        return None
    backend = backends.choose(x.device, _FP32, SINABS_LIF.name)
    plan = _plans.get(layer)
    if (
        plan is None
        or plan.shape != x.shape
        or plan.options is not options
        or plan.backend is not backend
        or plan.synapse is not (syn is not None)
    ):
        plan = _prepare(layer, x, options, syn is not None, backend, params)
        if plan is None:
            return None
    states = [buffers.get("v_mem")] if syn is None else [buffers.get("v_mem"), buffers.get("i_syn")]
    if len(states) != len(buffers):
        return None
    for s in states:
        if (
            type(s) is not Tensor
            or s.shape != plan.state_shape
            or s.dtype is not _FP32
            or not s.is_cpu
            or not s.is_contiguous()
            or s.is_neg()
        ):
            return None
    out, mean, last = plan.sequence.run(x, states, params)
    buffers["v_mem"] = last[0]
    if syn is not None:
        buffers["i_syn"] = last[1]
    return out, mean


def _prepare(
    layer: nn.Module, x: Tensor, options: so.Options, synapse: bool, backend: Backend | None, params: list[Tensor]
) -> _Plan | None:
    prepare = getattr(backend, "prepare_sequence", None)
    if backend is None or prepare is None or options.reasons or x.dim() < 2 or x.shape[1] == 0:
        return None
    sequence = prepare(SINABS_LIF, so.config(options, synapse, False, 1), x, params)
    if sequence is None:
        return None
    state_shape = torch.Size((x.shape[0], *x.shape[2:]))
    plan = _plans[layer] = _Plan(x.shape, state_shape, options, synapse, backend, sequence)
    return plan
