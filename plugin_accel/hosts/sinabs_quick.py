"""The quick way through a call of a plain layer: in short sequences a call costs more than its kernel.

What the layer's last call had established is compared, and nothing else done. What cannot be taken in this way goes
through `sinabs_call`, to the same numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from plugin_accel import backends
from plugin_accel._C import alike
from plugin_accel.backends import Backend
from plugin_accel.hosts import sinabs_options as so
from plugin_accel.hosts.constants import beside, one
from plugin_accel.hosts.inputs import is_watched
from plugin_accel.hosts.sinabs_call import derived_from
from plugin_accel.hosts.sinabs_decays import MEM, SYN, decay
from plugin_accel.neurons import SINABS_LIF, Kernels, SinabsConfig, run_unchecked
from plugin_accel.neurons.prepared import PreparedSequence, place

_FP32 = torch.float32


class _Plan(NamedTuple):
    """A prepared call, and what it was prepared for."""

    shapes: tuple[torch.Size, ...]
    """Of the input and the states."""
    device: torch.device | None
    options: so.Options
    synapse: bool
    backend: Backend
    config: SinabsConfig
    sequence: PreparedSequence | None
    """For calls without gradients."""
    kernels: Kernels
    """For those with them."""


_plans: WeakKeyDictionary[nn.Module, _Plan] = WeakKeyDictionary()


# one value with dimensions of its own may give the host's state more of them
_SCALARS = tuple([(torch.Size(()),) * n for n in range(5)])


def quick_call(layer: Any, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """(output, its mean) of LIF, IAF or ExpLeak, the states left in the layer's buffers; None: go the general way."""
    if torch.compiler.is_compiling() or type(x) is not Tensor or x.layout is not torch.strided or is_watched():
        return None
    device = place(x)
    own = layer.__dict__
    options, norm, parameters, buffers = so.read(layer), own.get("norm_input"), own["_parameters"], own["_buffers"]
    if norm is None or own.get("record_states", True) or own.get("min_v_mem", layer) is not None:
        return None  # a bound is a parameter, or a parametrised layer's property
    mem, syn = decay(layer, MEM, rest=norm), decay(layer, SYN, rest=False)
    if mem is None:
        return None
    params = [beside(mem.alpha, x.device), one(_FP32, x.device) if mem.rest is None else mem.rest]
    derived = derived_from(mem, 0, None if mem.rest is None else 1)
    if syn is not None:
        params.append(syn.alpha)
        derived += derived_from(syn, 2, None)
    if options.spike != "none":
        threshold = parameters.get("spike_threshold")
        if threshold is None or options.reset != "subtract_threshold":
            return None
        params.append(threshold)
    if alike(params, _SCALARS[len(params)], device, False) is None:
        return None
    backend = backends.choose(x.device, _FP32, SINABS_LIF.name)
    plan = _plans.get(layer)
    if (
        plan is None
        or plan.shapes[0] != x.shape
        or plan.device != device
        or plan.options is not options
        or plan.backend is not backend
        or plan.synapse is not (syn is not None)
    ):
        plan = _prepare(layer, x, options, syn is not None, backend, params)
        if plan is None:
            return None
    states = [buffers.get("v_mem")] if syn is None else [buffers.get("v_mem"), buffers.get("i_syn")]
    if len(states) != len(buffers) or alike((x, *states), plan.shapes, device, True) is None:
        return None
    if torch.is_grad_enabled() or plan.sequence is None:
        if options.spike != "none" and options.surrogate is None:
            return None
        made = run_unchecked(SINABS_LIF, plan.kernels, plan.config, x, states, params, derived=derived, plain=True)
    else:
        made = plan.sequence.run(x, states, params)
    assert made.mean is not None
    buffers["v_mem"] = made.last[0]
    if syn is not None:
        buffers["i_syn"] = made.last[1]
    return made.out, made.mean


def _prepare(
    layer: nn.Module, x: Tensor, options: so.Options, synapse: bool, backend: Backend | None, params: list[Tensor]
) -> _Plan | None:
    if backend is None or options.reasons or x.dim() < 2 or x.shape[1] == 0:
        return None
    prepare = getattr(backend, "prepare_sequence", None)
    config = so.config(options, synapse, False, 1)
    sequence = None if prepare is None else prepare(SINABS_LIF, config, x, params)
    kernels = getattr(sequence, "differentiable", backend)
    shapes = (x.shape, *[torch.Size((x.shape[0], *x.shape[2:]))] * (2 if synapse else 1))
    plan = _plans[layer] = _Plan(shapes, place(x), options, synapse, backend, config, sequence, kernels)
    return plan
