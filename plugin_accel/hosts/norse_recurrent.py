"""Norse's recurrent layers: input products for all steps at once, then one product and one fused step at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from norse.torch.functional import izhikevich, lif, lif_adex, lif_adex_refrac, lif_ex, lif_refrac, lsnn
from torch import Tensor, nn
from torch.nn.functional import linear

from plugin_accel import backends
from plugin_accel.backends import Backend
from plugin_accel.hosts import norse_forms as nf
from plugin_accel.hosts import norse_surrogates as ns
from plugin_accel.hosts.constants import beside, resting
from plugin_accel.hosts.inputs import as_param, check_input, is_autocast, is_watched
from plugin_accel.hosts.norse_call import config
from plugin_accel.hosts.norse_forms import Form
from plugin_accel.hosts.sequences import Refused, SequenceResult
from plugin_accel.neurons import NorseConfig, run_unchecked
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.prepared import PreparedStep, run_step
from plugin_accel.neurons.recurrent import KernelStep, RecurrentResult, run_recurrent
from plugin_accel.neurons.recurrent_loop import Connection, Loop, Run, offers, run_loop

FP32, FP64 = torch.float32, torch.float64


@dataclass(frozen=True)
class RecurrentForm:
    """One family of recurrent neurons.

    Attributes:
        form: The feed-forward family that has its parameters.
        kind: The kernels' kind.
        activation: Norse's function for one step; None of a layer that has none.
        state: Norse's class for the state: the spikes z, then the kernels' states, unless `inner`.
        inner: Norse's class for the states of a neuron that a refractory period holds, see `Form.nested`.
    """

    form: Form
    kind: str
    activation: Callable[..., Any] | None = field(compare=False)
    state: type[Any]
    inner: type[Any] | None = None

    @property
    def within(self) -> Form:
        """What happens within the neurons of a cell, once its products are made."""
        return replace(self.form, kind=self.kind, activation=self.activation, low=False)

    def states(self, state: Any) -> list[Tensor]:
        """(z, *the kernels' states) of one of Norse's.

        Raises:
            Refused: it lacks one; Norse's own forward then says so.
        """
        try:
            if self.inner is None:
                return [getattr(state, n) for n in self.state._fields]
            held = getattr(state, self.form.nested)
            return [*[getattr(held, n) for n in self.inner._fields], state.rho]
        except AttributeError as error:
            raise Refused(f"state: {error}") from None

    def make(self, z: Any, states: Any) -> Any:
        """One of Norse's states."""
        if self.inner is None:
            return self.state(z, *states)
        return self.state(self.inner(z, *states[:-1]), states[-1])

    def reasons(self, layer: Any) -> tuple[str, ...]:
        """Why a layer's configuration is left to Norse's own forward."""
        found = (*nf.activation_reasons(layer, self.activation), *self.form.threshold_reasons(layer.p))
        if not found and ns.surrogate_of(self.form.spiking(layer.p)) in (None, ns.NO_GRADIENT):
            found = ("a recurrent layer with a steepness per neuron, or without a gradient, has no kernel",)
        return found


def _dense(what: str, t: Any, x: Tensor, shape: tuple[int, ...], own: bool = False, settled: bool = False) -> Tensor:
    if type(t) is not Tensor and type(t) is not nn.Parameter:
        raise Refused(f"{what} is a {type(t).__name__}")
    if own and (made := resting(t, shape, x.dtype, x.device)) is not None and (settled or t.dtype is x.dtype):
        return made
    if settled and t.dtype is FP32:
        t = t.to(x.dtype)
    if t.dtype is not x.dtype or (t.device != x.device and t.dim()) or t.layout is not torch.strided or t.is_neg():
        raise Refused(f"{what} is {t.dtype} on {t.device}, the input {x.dtype} on {x.device}")
    t = beside(t, x.device)
    if t.shape != shape:
        if t.dim() > len(shape) or any(n not in (1, m) for n, m in zip(t.shape[::-1], shape[::-1], strict=False)):
            raise Refused(f"{what} of shape {tuple(t.shape)} does not broadcast to {shape}")
        t = t.expand(shape)
    dense: Tensor = t.contiguous()
    return dense


@dataclass(frozen=True)
class _Ready:
    backend: Backend
    config: NorseConfig
    drive: Tensor
    states: list[Tensor]
    params: list[Tensor]
    weight: Tensor


def _prepare(form: RecurrentForm, layer: Any, x: Tensor, state: Any, time_dim: int) -> _Ready:
    if why := form.reasons(layer):
        raise Refused("; ".join(why))
    check_input(x)
    if torch.compiler.is_compiling() or is_watched():
        raise Refused("recurrent layers are not compiled")
    if is_autocast(x):
        raise Refused("under autocast the products have another dtype than the neurons")
    if x.dtype not in (FP32, FP64) or x.dim() < 2 + (time_dim == 0) or x.numel() == 0:
        raise Refused(f"recurrent layers are accelerated for batches of float32 or float64, got {x.dtype}, {x.dim()}-d")
    own = layer.recurrent_weights
    size = own.shape[0]
    weight = _dense("recurrent_weights", own, x, (size, size))
    start = x[0] if time_dim == 0 and not hasattr(layer, "record_states") else x
    first = form.states(layer.state_fallback(start) if state is None else state)
    shape = (*x.shape[:-1], size)
    after = shape[1:] if time_dim == 0 else shape
    ours = form.form
    states = [_dense("state", s, x, after, own=state is None, settled=state is None and ours.settled) for s in first]
    drive = linear(x, _dense("input_weights", layer.input_weights, x, (size, x.shape[-1]))).contiguous()
    made = ns.surrogate_of(ours.spiking(layer.p))
    settings = config(form.kind, made, STEP, True)
    names = ours.neuron.params(settings)[:-1]
    values = ours.params(layer.p, layer.dt)
    if ours.nested and made is not None:
        values = (*values, made.params[0])
    params = [as_param(n, v, x, x.dtype, after) for n, v in zip(names, values, strict=True)]
    backend = backends.choose(x.device, x.dtype, ours.neuron.name)
    if backend is None:
        raise Refused(f"no backend for {x.dtype} on {x.device}")
    return _Ready(backend, settings, drive, states, params, weight)


def _step(form: RecurrentForm, ready: _Ready, like: Tensor) -> PreparedStep | None:
    prepare = getattr(ready.backend, "prepare", None)
    return None if prepare is None else prepare(form.form.neuron, ready.config, like, [*ready.params, like])


def recurrent_step(form: RecurrentForm, layer: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """One step of a recurrent cell: (spikes, state).

    Raises:
        Refused: Norse's own forward must run.
    """
    ready = _prepare(form, layer, x, state, STEP)
    z, *states = ready.states
    params = [*ready.params, linear(z, ready.weight)]
    # A prepared step's backward does not know what was heard, which the gradients of the parameters depend on.
    learns = torch.is_grad_enabled() and any(p.requires_grad for p in ready.params)
    step = None if learns else _step(form, ready, ready.drive.detach())
    if step is not None:
        out, *last = run_step(step, ready.drive, states, params)
        return out, form.make(out, last)
    made = run_unchecked(form.form.neuron, ready.backend, ready.config, ready.drive, states, params)
    return made.out, form.make(made.out, made.last)


def recurrent_sequence(form: RecurrentForm, layer: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """All steps of a recurrent layer: (spikes, state), the state of every step with `record_states`.

    Raises:
        Refused: Norse's own forward must run.
    """
    record = bool(layer.record_states)
    made = run_steps(form, layer, x, state, record)
    if record:
        return made.out, form.make(made.out, made.records)
    return made.out, form.make(made.out[-1].clone(), made.last)


def sequence_of_cell(
    form: RecurrentForm, cell: Any, x: Tensor, states: Sequence[Tensor | None], record: Sequence[bool]
) -> SequenceResult:
    """All time steps of a cell; see `plugin_accel.hosts.norse.sequence`."""
    given = None if all(s is None for s in states) else form.make(states[0], states[1:])
    made = run_steps(form, cell, x, given, any(record[1:]))
    every = (made.out, *(made.records or made.last))
    records = tuple(every[i] if want else None for i, want in enumerate(record))
    return SequenceResult((made.out, *records), (made.out[-1].clone(), *made.last))


def run_steps(form: RecurrentForm, layer: Any, x: Tensor, state: Any, record: bool) -> Run | RecurrentResult:
    """All steps of a recurrent layer, or of a cell; `record`: also the states after every step.

    Raises:
        Refused: Norse's own forward must run.
    """
    ready = _prepare(form, layer, x, state, 0)
    z, *states = ready.states
    neuron, backend = form.form.neuron, ready.backend
    if offers(backend, ready.config, ready.drive):
        loop = Loop(neuron, backend, ready.config, 0, False, record, len(states), ())
        return run_loop(loop, ready.drive, Connection(ready.weight, None, z), states, ready.params)
    step = _step(form, ready, ready.drive.detach()[0])
    if step is None or not step.copies:
        step = KernelStep(backend, neuron, ready.config, ready.params)
    return run_recurrent(neuron, ready.config, step, ready.drive, ready.weight, z, states, ready.params, record=record)


LIF = RecurrentForm(nf.LIF, "lif_detached", lif.lif_step, lif.LIFState)
LIF_EX = RecurrentForm(nf.LIF_EX, "lif_ex", lif_ex.lif_ex_step, lif_ex.LIFExState)
LIF_ADEX = RecurrentForm(nf.LIF_ADEX, "adex", lif_adex.lif_adex_step, lif_adex.LIFAdExState)
LSNN = RecurrentForm(nf.LSNN, "lsnn_detached", lsnn.lsnn_step, lsnn.LSNNState)
IZHIKEVICH = RecurrentForm(
    nf.IZHIKEVICH, "izhikevich", izhikevich.izhikevich_recurrent_step, izhikevich.IzhikevichRecurrentState
)
LIF_REFRAC = RecurrentForm(
    nf.LIF_REFRAC, "refrac_detached", lif_refrac.lif_refrac_step, lif_refrac.LIFRefracState, lif.LIFState
)
LIF_ADEX_REFRAC = RecurrentForm(
    nf.LIF_ADEX_REFRAC,
    "adex_refrac",
    lif_adex_refrac.lif_adex_refrac_step,
    lif_adex_refrac.LIFAdExRefracState,
    lif_adex.LIFAdExState,
)
LIF_MC = RecurrentForm(nf.LIF, "lif_detached", None, lif.LIFState)
