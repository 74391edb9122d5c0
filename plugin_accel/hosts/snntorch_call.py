"""Prepares one call of a snnTorch layer, of a step or of a sequence: what the kernels take, or why they cannot.

snnTorch lets torch promote dtypes as it goes: a 0-d parameter never widens a result, a tensor of neurons does; spikes,
and with them the reset signal, are fp32 whatever the input. The rules here lead to the same roundings, or refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack

from plugin_accel import backends
from plugin_accel.hosts import snntorch_options as so
from plugin_accel.hosts.constants import beside, one
from plugin_accel.hosts.inputs import check_input
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.snntorch_callables import spikes_by
from plugin_accel.neurons import Neuron, ops, run_unchecked
from plugin_accel.neurons.layout import STEP

FP32, FP64 = torch.float32, torch.float64
LOW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Form:
    """What distinguishes one class of stepwise neurons from the next.

    Attributes:
        neuron: The kernels' neuron.
        states: Buffers that a call returns after the spikes, in this order.
        order: For each state of the kernels, its position in `states`.
        params: Gives the parameters before and after (threshold, graded), of a layer.
        zero: What the reset to zero is, as in `SnnTorchConfig`.
        delayable: Whether there is an option `reset_delay` that has an effect.
        recurrent: The layer's own spikes come back through its module `recurrent`.
        low: An input of 16 bits gives the same roundings when it is computed in fp32.
        direct: Names of the parameters in the kernels' order that are the layer's own tensors as they are.
        computed_from: Names of the tensors of which `params` makes the parameters before and after those, if it does.
        graded: Threshold and graded factor are parameters between those, and the layer's own tensors.
    """

    neuron: Neuron
    states: tuple[str, ...]
    order: tuple[int, ...]
    params: Callable[[Any], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    zero: str = "zero_after"
    delayable: bool = False
    recurrent: bool = False
    low: bool = False
    direct: tuple[str, ...] = ()
    computed_from: tuple[str, ...] = ()
    graded: bool = True

    @property
    def arguments(self) -> tuple[str, ...]:
        """The buffers that a call takes as explicit states, in this order."""
        return ("spk", *self.states) if self.recurrent else self.states

    def options(self, layer: Any) -> so.Options:
        """The layer's options as they are now."""
        return so.read(layer, self.zero, self.delayable)

    def reasons(self, layer: Any) -> tuple[str, ...]:
        """Why a layer's configuration is left to snnTorch's own forward."""
        options = self.options(layer)
        differs = None if options.delay or options.reasons else so.mechanism_differs(layer)
        return options.reasons if differs is None else (*options.reasons, differs)


class Stepped(NamedTuple):
    """What a call gave.

    Attributes:
        spikes: Of the step, or of every step.
        last: States after the last step, in the order of `Form.states`.
        records: States of every step in that order; None where they were not wanted, and for single steps.
    """

    spikes: Tensor
    last: tuple[Tensor, ...]
    records: tuple[Tensor | None, ...]


def compute_dtype(x: Tensor, low: bool) -> torch.dtype:
    """The dtype to compute in."""
    if x.dtype is FP32 or x.dtype is FP64:
        return x.dtype
    if x.dtype not in LOW:
        raise Refused(f"input is {x.dtype}")
    if not low:
        raise Refused(f"input is {x.dtype}, in which snnTorch rounds what this layer adds up")
    return FP32


def as_param(name: str, p: Any, x: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """A tensor of the layer as a parameter of `dtype` beside the input `x`, for states of `shape`."""
    if not isinstance(p, Tensor):
        raise Refused(f"{name} is a {type(p).__name__}")
    if p.dtype.is_complex or p.dtype is torch.bool:
        raise Refused(f"{name} is {p.dtype}")
    if p.device != x.device and (p := beside(p, x.device)).device != x.device:
        raise Refused(f"{name} is on {p.device}, the input on {x.device}")
    if p.dim():
        if p.dtype is FP64 and (dtype is FP32 or name == "graded_spikes_factor"):
            raise Refused(f"{name} is a float64 tensor, to which snnTorch widens what it meets")
        if p.dim() > len(shape) or any(n not in (1, m) for n, m in zip(p.shape[::-1], shape[::-1], strict=False)):
            raise Refused(f"{name} of shape {tuple(p.shape)} does not broadcast to the state's {tuple(shape)}")
    return p if p.dtype is dtype else p.to(dtype)


def first_states(
    layer: Any, names: Sequence[str], given: Sequence[Any], x: Tensor, shape: torch.Size, dtype: torch.dtype | None
) -> list[Tensor | None]:
    """The states to start from: those given, else the layer's own; None for zeros, as for any of another shape."""
    if layer.init_hidden and any(state is not None for state in given):
        raise Refused("states are given to a layer with init_hidden=True")
    found: list[Tensor | None] = []
    for name, argument in zip(names, given, strict=True):
        if name not in layer._buffers:
            raise Refused(f"state {name} is not a buffer of the layer")
        state = layer._buffers[name] if argument is None else argument
        if state is None:
            raise Refused(f"state {name} is None")
        if type(state) is not Tensor and not torch.compiler.is_compiling():
            raise Refused(f"state {name} is a {type(state).__name__}")
        if state.device != x.device:
            raise Refused(f"state {name} is on {state.device}, the input on {x.device}")
        if state.shape != shape:
            found.append(None)
        elif dtype is not None and state.dtype is not dtype:
            raise Refused(f"state {name} is {state.dtype}, the input needs {dtype}")
        else:
            found.append(state)
    return found


def call(
    form: Form,
    layer: Any,
    x: Tensor,
    given: Sequence[Any],
    time_dim: int,
    record: Sequence[bool] = (),
    recurrent: Tensor | None = None,
) -> Stepped:
    """Runs a layer over one step (`time_dim` STEP) or over a sequence, and leaves its states behind in its buffers.

    Args:
        form: Of the layer's class.
        layer: The layer.
        x: Input.
        given: Explicit states for `form.states`, None where the layer's own count.
        time_dim: Position of time.
        record: Which of `form.states` are wanted of every step.
        recurrent: Input from the layer's own last spikes.

    Raises:
        Refused: snnTorch's own forward must run.
    """
    options = form.options(layer)
    if options.reasons:
        raise Refused("; ".join(options.reasons))
    if not options.delay and (why := so.mechanism_differs(layer)):
        raise Refused(why)
    check_input(x)
    shape = x.shape if time_dim == STEP else x.shape[:time_dim] + x.shape[time_dim + 1 :]
    if not shape:
        raise Refused("input is a single number")
    if time_dim != STEP and x.shape[time_dim] == 0:
        raise Refused("there are no time steps")
    if options.inhibition and len(shape) != 2:
        raise Refused(f"inhibition is for inputs of two dimensions, got {len(shape)}")
    dtype = compute_dtype(x, form.low and options.reset != "none")
    if options.called and options.reset != "none" and x.dtype is not FP32 and not so.is_narrow(layer):
        raise Refused(f"spike_grad does not give fp32 for {x.dtype}")
    states = first_states(layer, form.states, given, x, shape, dtype)
    threshold = layer.threshold
    graded = one(dtype, x.device) if options.inhibition else layer.graded_spikes_factor
    params = parameters(form, layer, x, dtype, shape, graded)
    if recurrent is not None:
        params.append(recurrent.to(dtype))
    narrow = threshold.dim() == 0 and threshold.dtype is FP64
    config = so.config(options, recurrent is not None, narrow, time_dim)
    filled = [_zeros(x, shape, dtype) if state is None else state for state in states]
    first = [filled[i] for i in form.order]
    data = x if x.dtype is dtype else x.to(dtype)
    # The kernels keep the membrane before the reset, which with a delay is the membrane.
    mem = form.states.index("mem")
    others = any(wanted and (i != mem or not options.delay) for i, wanted in enumerate(record))
    many = options.called and time_dim != STEP
    keep = many or options.inhibition or (options.delay and bool(record) and record[mem])
    if torch.compiler.is_compiling() or _len_torch_dispatch_stack():  # a mode that watches operations must see one
        result = ops.call(form.neuron, config, data, first, params, keep=keep, record=others)
    else:
        backend = backends.choose(x.device, dtype, form.neuron.name)
        if backend is None:
            raise Refused(f"no backend for {dtype} on {x.device}")
        if x.dtype in LOW and getattr(backend, "reads_low", False):
            data = x
        result = run_unchecked(form.neuron, backend, config, data, first, params, keep=keep, record=others)
    spikes = result.out
    if options.called:
        membranes = result.kept if many else result.last[form.order.index(mem)]
        assert membranes is not None
        spikes = spikes_by(
            layer.spike_grad, membranes, threshold, graded, None if options.reset == "none" else spikes, time_dim
        )
    if not options.spikes_learn and not (form.graded and graded.requires_grad):
        spikes = spikes.detach()
    if options.inhibition:
        assert result.kept is not None
        spikes = spikes * _highest(result.kept.detach() - threshold.detach())
    back = [form.order.index(i) for i in range(len(form.states))]
    last = tuple(result.last[i] for i in back)
    records: list[Tensor | None] = [result.records[i] if others else None for i in back]
    if options.delay:
        records[mem] = result.kept
    layer._buffers.update(zip(form.states, last, strict=True))
    return Stepped(spikes, last, tuple(r if want else None for r, want in zip(records, record, strict=False)))


def parameters(
    form: Form, layer: Any, x: Tensor, dtype: torch.dtype, shape: Sequence[int], graded: Tensor
) -> list[Tensor]:
    """The layer's parameters in the kernels' order, without a recurrent input."""
    before, after = form.params(layer)
    names = [n for n in form.neuron.kernel_params if n != "recurrent"]
    own = (layer.threshold, graded) if form.graded else ()
    return [
        as_param({"graded": "graded_spikes_factor"}.get(n, n), p, x, dtype, shape)
        for n, p in zip(names, (*before, *own, *after), strict=True)
    ]


def _zeros(x: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=x.device)


def _highest(z: Tensor) -> Tensor:
    """1 for the neuron with the highest value, 0 for the others; fp32, as the host's mask."""
    return torch.zeros_like(z, dtype=FP32).scatter_(-1, z.argmax(-1, keepdim=True), 1)
