"""Prepares one call of a feed-forward layer of Norse, of a step or of a sequence: what the kernels take, or why not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack

from plugin_accel import backends
from plugin_accel.hosts import norse_forms as nf
from plugin_accel.hosts import norse_surrogates as ns
from plugin_accel.hosts.constants import beside, resting
from plugin_accel.hosts.inputs import as_param, check_input, number
from plugin_accel.hosts.norse_forms import Form
from plugin_accel.hosts.sequences import Refused
from plugin_accel.neurons import NorseConfig, Result, ops, run_unchecked
from plugin_accel.neurons.layout import STEP
from plugin_accel.surrogates import Surrogate

FP32, FP64 = torch.float32, torch.float64
LOW = (torch.float16, torch.bfloat16)
FEW = 1 << 14
"""Neurons up to which a step of a leaky integrator, some ten operations, is as fast in torch (measured)."""


@lru_cache(maxsize=1024)
def config(kind: str, surrogate: Surrogate | None, time_dim: int, recurrent: bool = False) -> NorseConfig:
    """The configuration of a call."""
    return NorseConfig(kind, recurrent, surrogate, time_dim)


class Facts(NamedTuple):
    """What a layer's configuration comes to for a call; see `Form`."""

    config: NorseConfig
    slope: float
    """Of the refractory period's surrogate; 0 where there is none."""
    per_neuron: bool
    """A steepness per neuron: the surrogate is Norse's own function."""
    learns: bool
    """Whether the output has a gradient."""


def facts(layer: Any, time_dim: int) -> Facts | str:
    """The facts of a layer as it is now, or why Norse's own forward must run."""
    return _constant_facts(layer, time_dim) if torch.compiler.is_compiling() else _facts(layer, time_dim)


def _facts(layer: Any, time_dim: int) -> Facts | str:
    form, p = nf.form_of(type(layer)), layer.p
    assert form is not None
    if why := form.reasons(layer):
        return "; ".join(why)
    kind = form.kind_of(p)
    assert kind is not None
    spiking = form.spiking(p)
    made = None if spiking is None else ns.surrogate_of(spiking)
    slope = made.params[0] if form.nested and made is not None else 0.0
    return Facts(config(kind, made, time_dim), slope, spiking is not None and made is None, made != ns.NO_GRADIENT)


# While torch.compile traces, the facts are constants, made outside of the trace. The mark is what
# torch.compiler.assume_constant_result sets; that decorator would import the whole compiler.


def _constant_facts(layer: Any, time_dim: int) -> Facts | str:
    made = _facts(layer, time_dim)
    assert isinstance(made, str) or made.config.encoded  # computed here, not in the compiled program
    return made


_constant_facts._dynamo_marked_constant = True  # type: ignore[attr-defined]


def compute_dtype(form: Form, x: Tensor, states: Sequence[Tensor], own: bool) -> torch.dtype:
    """The dtype to compute in, that of every result; `own`: the states are those that Norse starts from."""
    found = {s.dtype for s in states}
    if x.dtype is FP32 or x.dtype is FP64:
        if found == {x.dtype} or (own and form.settled and found == {FP32}):
            return x.dtype
        raise Refused(f"input is {x.dtype}, the states are {found}")
    # A current of fp32 widens what is added to it; Norse's own states have it, or the dtype of the input.
    if form.low and not x.is_complex() and found == {FP32} and states[1].dim():
        return FP32
    raise Refused(f"input is {x.dtype}, the states are {found}")


def first_states(form: Form, layer: Any, x: Tensor, state: Any, shape: torch.Size) -> tuple[list[Tensor], torch.dtype]:
    """The states to start from, those given or Norse's own, and the dtype to compute in.

    Raises:
        Refused: Norse's arithmetic would give something else, or an error.
    """
    found = form.states(layer.state_fallback(x) if state is None else state)
    for s in found:
        if type(s) is not Tensor and type(s) is not nn.Parameter and not torch.compiler.is_compiling():
            raise Refused(f"state holds a {type(s).__name__}")
        if s.device != x.device and s.dim():
            raise Refused(f"state is on {s.device}, the input on {x.device}")
        if s.dim() > len(shape) or any(n not in (1, m) for n, m in zip(s.shape[::-1], shape[::-1], strict=False)):
            raise Refused(f"state of shape {tuple(s.shape)} does not broadcast to {tuple(shape)}")
    dtype = compute_dtype(form, x, found, state is None)
    first = []
    for s in found:
        own = resting(s, shape, dtype, x.device) if state is None else None
        if own is not None:
            first.append(own)
            continue
        like = s if s.device == x.device else beside(s, x.device)
        like = like if like.dtype is dtype else like.to(dtype)
        first.append(like if like.shape == shape else like.expand(shape))
    return first, dtype


def call(layer: Any, x: Tensor, state: Any, time_dim: int, *, record: bool = False) -> tuple[Form, Result]:
    """Runs a layer over one step (`time_dim` STEP) or over a sequence.

    Args:
        layer: The layer.
        x: Input.
        state: One of Norse's, or None for the layer's own.
        time_dim: Position of time.
        record: Also give the states after every step.

    Raises:
        Refused: Norse's own forward must run.
    """
    found = facts(layer, time_dim)
    if isinstance(found, str):
        raise Refused(found)
    settings, slope, per_neuron, learns = found
    form = nf.form_of(type(layer))
    assert form is not None
    check_input(x)
    shape = x.shape if time_dim == STEP else x.shape[:time_dim] + x.shape[time_dim + 1 :]
    if not shape:
        raise Refused("input is one number per step")
    if time_dim != STEP and x.shape[time_dim] == 0:
        raise Refused("there are no time steps")
    start = x if time_dim == STEP or not _is_cell(layer) else x[0]
    first, dtype = first_states(form, layer, start, state, shape)
    values = form.params(layer.p, layer.dt)
    names = form.neuron.params(settings)[: len(values)]
    params = [as_param(n, v, x, dtype, shape) for n, v in zip(names, values, strict=True)]
    if form.nested:
        params.append(number(slope, dtype, x.device))
    data = x if x.dtype is dtype else x.to(dtype)
    if torch.compiler.is_compiling() or _len_torch_dispatch_stack():  # a mode that watches operations must see one
        if per_neuron:
            raise Refused("a steepness per neuron is not compiled")
        result = ops.call(form.neuron, settings, data, first, params, record=record)
    else:
        backend = backends.choose(x.device, dtype, form.neuron.name)
        if backend is None:
            raise Refused(f"no backend for {dtype} on {x.device}")
        if x.dtype in LOW and getattr(backend, "reads_low", False):
            data = x
        surrogate_fn = ns.slope_of(form.spiking(layer.p)) if per_neuron else None
        result = run_unchecked(
            form.neuron, backend, settings, data, first, params, surrogate_fn=surrogate_fn, record=record
        )
    return form, result if learns else result._replace(out=result.out.detach())


def _is_cell(layer: Any) -> bool:
    return not hasattr(layer, "record_states")
