"""Norse's cells with products of their own: the recurrent ones, LILinearCell, LIFMC, LIFMCRefrac and CobaLIF.

The products are torch's, by Norse's expressions; a kernel runs what happens within each neuron.
"""

from __future__ import annotations

from typing import Any

import norse.torch as nt
import torch
from norse.torch.functional import coba_lif, leaky_integrator, lif, lif_refrac
from torch import Tensor
from torch.nn.functional import linear, relu

from plugin_accel.hosts import norse_call
from plugin_accel.hosts import norse_forms as nf
from plugin_accel.hosts import norse_recurrent as nr
from plugin_accel.hosts.constants import resting
from plugin_accel.hosts.fallbacks import refused
from plugin_accel.hosts.inputs import check_input, is_autocast
from plugin_accel.hosts.norse_call import call
from plugin_accel.hosts.norse_step import quick_step
from plugin_accel.hosts.sequences import Refused
from plugin_accel.neurons import Result
from plugin_accel.neurons.layout import STEP


def _check(x: Any) -> None:
    check_input(x)
    if is_autocast(x):
        raise Refused("under autocast the products have another dtype than the neurons")
    if x.dim() < 2:
        raise Refused("input is one sample without a batch")


def _neurons(layer: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """One step of the neurons alone; `x` is what arrives there."""
    if not torch.compiler.is_compiling() and (quick := quick_step(layer, x, state)) is not None:
        return quick
    form, made = call(layer, x, state, STEP)
    return made.out, form.make(made.last)


def _rest(layer: Any, x: Tensor) -> Any:
    i = torch.zeros((x.shape[0], layer.hidden_size), device=x.device, dtype=x.dtype)
    v = layer.p.v_leak.detach()
    v = v.to(i) if v.dim() == 0 else v  # rest is exact in every dtype
    v.requires_grad = True
    return leaky_integrator.LIState(v, i)


def _silence(layer: Any, x: Tensor) -> Any:
    shape = x.shape[0], layer.hidden_size
    z, v, g_e, g_i = [torch.zeros(shape, device=x.device, dtype=x.dtype) for _ in range(4)]
    v.requires_grad = True
    return coba_lif.CobaLIFState(z, v, g_e, g_i)


def recurrent_step(form: nr.RecurrentForm, layer: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """One step of a recurrent cell: (spikes, state).

    Raises:
        Refused: Norse's own forward must run.
    """
    within = nf.form_of(type(layer))
    if within is None:  # whose products meet neither before the step nor after it
        return nr.recurrent_step(form, layer, x, state)
    _check(x)
    z, *states = form.states(layer.state_fallback(x) if state is None else state)
    given, heard = linear(x, layer.input_weights), linear(z, layer.recurrent_weights)
    if state is None:
        dtype = x.dtype if within.settled else None  # Norse's own are of fp32, and exact in every dtype
        own = [resting(s, given.shape, dtype or s.dtype, x.device) for s in states]
        states = [s.to(dtype or s.dtype) if o is None else o for s, o in zip(states, own, strict=True)]
    v, i, *rest = states
    if form is nr.LSNN:  # where the input acts one step later
        out, after = _neurons(layer, given, within.make(states))
        v, i, *rest = within.states(after)
        return out, form.make(out, [v, i + heard, *rest])
    out, after = _neurons(layer, heard, within.make([v, i + given, *rest]))
    return out, form.make(out, within.states(after))


class LILinearCell(nt.LILinearCell):
    __doc__ = nt.LILinearCell.__doc__

    def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
        if input_tensor.shape[0] * self.hidden_size < norse_call.FEW:
            return super().forward(input_tensor, state)
        try:
            _check(input_tensor)
            given = _rest(self, input_tensor) if state is None else state
            return _neurons(self, linear(input_tensor, self.input_weights), given)
        except Refused as why:
            refused(self, why)
            return super().forward(input_tensor, state)


def linear_sequence(layer: Any, x: Tensor, state: Any, record: bool) -> Result:
    """All time steps of LILinearCell at once, its product made for all of them.

    Raises:
        Refused: Norse's own forward must run.
    """
    _check(x)
    given = _rest(layer, x[0]) if state is None else state
    return call(layer, linear(x, layer.input_weights), given, 0, record=record)[1]


class LIFMCRecurrentCell(nt.LIFMCRecurrentCell):
    __doc__ = nt.LIFMCRecurrentCell.__doc__

    def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
        try:
            z, s = recurrent_step(nr.LIF_MC, self, input_tensor, state)
        except Refused as why:
            refused(self, why)
            return super().forward(input_tensor, state)
        return z, lif.LIFState(z, s.v + self.dt * linear(s.v, self.g_coupling), s.i)


class LIFMCRefracRecurrentCell(nt.LIFMCRefracRecurrentCell):
    __doc__ = nt.LIFMCRefracRecurrentCell.__doc__

    def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
        try:
            _check(input_tensor)
            _check_rates(self, input_tensor.dtype)
            before = self.initial_state(input_tensor) if state is None else state
            z, v = before.lif.z, before.lif.v
            held = lif_refrac.LIFRefracFeedForwardState(lif.LIFFeedForwardState(v, before.lif.i), before.rho)
            fired, after = _neurons(self, linear(v, self.g_coupling), held)
        except Refused as why:
            refused(self, why)
            return super().forward(input_tensor, state)
        i = after.lif.i + linear(input_tensor, self.input_weights) + linear(z, self.recurrent_weights)
        return fired, lif_refrac.LIFRefracState(lif.LIFState(fired, after.lif.v, i), after.rho)


def _check_rates(layer: Any, dtype: torch.dtype) -> None:
    # Norse multiplies (1 - m), dt and tau_mem_inv one by one, in the dtype of the data; the kernel has one factor.
    tau, dt = layer.p.lif.tau_mem_inv, layer.dt
    if not isinstance(tau, Tensor) or tau.dtype is not dtype or (isinstance(dt, Tensor) and dt.dtype is not dtype):
        raise Refused(f"tau_mem_inv and dt: expected tensors of {dtype}, or a number for dt; others round otherwise")


def _check_unused(layer: Any, x: Tensor, state: Any) -> None:
    # Norse multiplies the input with its weights and drops the product: what would fail there must fail.
    w = layer.input_weights
    alike = w.dtype is x.dtype and w.device == x.device and w.dim() == 2 and w.shape[1] == x.shape[-1]
    if not alike or (*x.shape[:-1], w.shape[0]) != state.g_e.shape:
        raise Refused(f"input of shape {tuple(x.shape)} does not fit weights and states")


class CobaLIFCell(nt.CobaLIFCell):
    __doc__ = nt.CobaLIFCell.__doc__

    def forward(self, input_tensor: Tensor, state: Any = None) -> Any:
        try:
            _check(input_tensor)
            before = state if state is not None else _silence(self, input_tensor)
            _check_unused(self, input_tensor, before)
            z, w = before.z, self.recurrent_weights
            inhibited = before.g_i + linear(z, relu(-w))
            given = coba_lif.CobaLIFFeedForwardState(before.v, before.g_e, inhibited)
            fired, after = _neurons(self, linear(z, relu(w)), given)
        except Refused as why:
            refused(self, why)
            return super().forward(input_tensor, state)
        return fired, coba_lif.CobaLIFState(fired, *after)
