"""The quick way through a call of a plain layer: in short sequences a call costs more than its kernel.

What the layer's last call had established is compared, and nothing else done. What cannot be taken in this way goes
through `sinabs_call`, to the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from plugin_accel import backends
from plugin_accel._C import alike, guard, same
from plugin_accel.backends import Backend
from plugin_accel.hosts import sinabs_options as so
from plugin_accel.hosts.constants import constant, one
from plugin_accel.hosts.inputs import is_watched
from plugin_accel.hosts.known import watched
from plugin_accel.hosts.sinabs_decays import MEM, SYN, never_decays, slope
from plugin_accel.hosts.sinabs_decays import values as values_of
from plugin_accel.modes import capturing
from plugin_accel.neurons import SINABS_LIF
from plugin_accel.neurons.prepared import place
from plugin_accel.neurons.prepared_sequence import Derivation, Derivations, prepared_sequence

_FP32 = torch.float32
_PLAIN = (Tensor, nn.Parameter)
# one value with dimensions of its own may give the host's state more of them
_SCALAR = torch.Size(())
_MOST_SHAPES = 8

_FUNCTIONS = ("spike_fn", "reset_fn", "surrogate_grad_fn")
_OPTIONS = (*_FUNCTIONS, "norm_input", "record_states", "train_alphas")
"""Entries of a layer's dictionary."""


class _Plan:
    """A prepared call, and what it was prepared for."""

    __slots__ = (
        *(
            "backend",
            "buffers",
            "cls",
            "constant",
            "device",
            "functions",
            "guard",
            "inference",
            "low",
            "names",
            "no_states",
        ),
        *("norm", "options", "parameters", "taus", "values"),
    )

    def __init__(self, layer: Any, x: Tensor, options: so.Options, backend: Backend) -> None:
        own, parameters = layer.__dict__, layer._parameters
        self.cls, self.backend, self.options = type(layer), backends.requested(), options
        self.buffers, self.parameters = len(own["_buffers"]), len(parameters)
        # they may be given other values in place
        functions = [f for f in map(own.get, _FUNCTIONS) if type(f).__module__.startswith("sinabs.")]
        self.functions = [(vars(f), dict(vars(f))) for f in functions]
        self.inference = options.spike != "none" and options.surrogate is None
        self.norm, self.low = bool(own["norm_input"]), parameters.get("min_v_mem") is not None
        synapse = parameters.get(SYN.tau) is not None
        self.taus = (*(() if never_decays(layer) else (MEM.tau,)), *((SYN.tau,) if synapse else ()))
        unit = one(_FP32, x.device)
        # alpha and gain, as far as they do not follow from a time constant
        self.constant: tuple[Tensor, ...] = (unit,)
        if never_decays(layer):
            self.constant = (unit, constant(0.0, _FP32, x.device) if self.norm else unit)
        params = self._computed(parameters)
        assert params is not None
        direct = ("spike_threshold",) if options.spike != "none" else ()
        params += [parameters[name] for name in (*direct, *(("min_v_mem",) if self.low else ()))]
        count = len(params)
        derived = [
            Derivation(count + k, 2 if name == SYN.tau else 0, 1 if name == MEM.tau and self.norm else None)
            for k, name in enumerate(self.taus)
        ]
        config = so.config(options, synapse, self.low, 1)
        derivations = Derivations(tuple(derived), slope) if derived else None
        sequence = prepared_sequence(SINABS_LIF, backend, config, x.detach(), params, derivations)
        names = ("v_mem", "i_syn") if synapse else ("v_mem",)
        self.no_states = (None,) * len(names)
        self.device, (self.names, self.values) = place(x), watched(own, _OPTIONS)
        self.guard = guard(
            self.names, self.values, direct, (_SCALAR,) * (count + len(self.taus)), x.shape,
            torch.Size((x.shape[0], *x.shape[2:])), self.device, (), None, sequence.run, names, None, None,
        )  # fmt: skip

    def _computed(self, parameters: dict[str, Any]) -> list[Tensor] | None:
        """alpha_mem, gain_mem and alpha_syn; None where a time constant is none that is known."""
        if not self.taus:
            return list(self.constant)
        found: list[Tensor] = []
        for name in self.taus:
            tau: Any = parameters.get(name)
            if type(tau) not in _PLAIN or tau.dim():
                return None
            alpha, rest = values_of(tau, name == MEM.tau and self.norm)
            if name == MEM.tau:
                found = [alpha, self.constant[0] if rest is None else rest]
            else:
                found = [*(found or self.constant), alpha]
        return found

    def is_for(self, layer: Any) -> bool:
        """Whether it is worthwhile to ask the guard."""
        own = layer.__dict__
        if (
            type(layer) is not self.cls
            or self.backend != backends.requested()
            or len(own["_buffers"]) != self.buffers
            or len(own["_parameters"]) != self.parameters
        ):
            return False
        for now, before in self.functions:  # noqa: SIM110 (a generator takes as long again)
            if now != before:
                return False
        return True

    def is_for_options(self, layer: Any, x: Tensor, options: so.Options) -> bool:
        """Whether another plan would be the same."""
        return self.options is options and self.device == place(x) and same(layer.__dict__, self.names, self.values)

    def __call__(self, layer: Any, x: Tensor) -> Sequence[Tensor] | None:
        """What the guard gives; None where something is not as it was."""
        if self.inference and torch.is_grad_enabled():
            return None
        own = layer.__dict__
        parameters = own["_parameters"]
        if not self.taus and not self.low:
            return self.guard(own, x, self.no_states, self.constant, ())
        computed = self._computed(parameters)
        if computed is None:
            return None
        extra = [parameters[name] for name in self.taus]
        if self.low:
            extra.insert(0, parameters["min_v_mem"])
        return self.guard(own, x, self.no_states, computed, extra)


_plans: WeakKeyDictionary[nn.Module, dict[torch.Size, _Plan]] = WeakKeyDictionary()
backends.when_choices_change(_plans.clear)


def quick_call(layer: Any, x: Tensor) -> Sequence[Tensor] | None:
    """(output, *states, mean) of LIF, IAF or ExpLeak, the states left in its buffers; None: go the general way."""
    if torch.compiler.is_compiling() or is_watched() or type(x) is not Tensor:
        return None
    plans = _plans.get(layer)
    if plans is None:
        plans = _plans[layer] = {}
    plan = plans.get(x.shape)
    if plan is not None and plan.is_for(layer):
        made = plan(layer, x)
        if made is not None:
            return made
    options = so.read(layer)
    if plan is not None and plan.is_for(layer) and plan.is_for_options(layer, x, options):
        return None
    if not _fits(layer, x, options):
        return None
    backend = backends.choose(x.device, _FP32, SINABS_LIF.name)
    if backend is None or watched(layer.__dict__, _OPTIONS)[0] != _OPTIONS:
        return None
    if len(plans) == _MOST_SHAPES:
        plans.clear()
    plan = plans[x.shape] = _Plan(layer, x, options, backend)
    return plan(layer, x)


def _fits(layer: Any, x: Tensor, options: so.Options) -> bool:
    """Whether a plan for such calls can be made."""
    own = layer.__dict__
    parameters, buffers = own["_parameters"], own["_buffers"]
    if x.dtype is not _FP32 or x.layout is not torch.strided or not x.is_contiguous() or capturing(x.device):
        return False
    if x.dim() < 2 or x.shape[1] == 0 or options.reasons or options.reset != "subtract_threshold":
        return False
    if own.get("_is_replica") or own.get("norm_input") is None:  # a replica of DataParallel is there for one call
        return False
    if own.get("record_states", True) or own.get("train_alphas", True):
        return False
    decaying = [kind for kind in (MEM, SYN) if parameters.get(kind.tau) is not None]
    if (MEM in decaying) is never_decays(layer) or (SYN not in decaying and own.get(SYN.tau, layer) is not None):
        return False
    if any(getattr(type(layer), kind.alpha) not in kind.properties for kind in decaying):
        return False
    low = parameters.get("min_v_mem")
    if low is None and own.get("min_v_mem", layer) is not None:
        return False
    threshold = parameters.get("spike_threshold")
    if options.spike != "none" and threshold is None:
        return False
    device = place(x)
    scalars = [p for p in (low, threshold, *[parameters[kind.tau] for kind in decaying]) if p is not None]
    if alike(scalars, [_SCALAR] * len(scalars), device, False) is None or any(type(p) not in _PLAIN for p in scalars):
        return False
    states = ["v_mem", "i_syn"] if SYN in decaying else ["v_mem"]
    shape = torch.Size((x.shape[0], *x.shape[2:]))
    found = [buffers.get(name) for name in states]
    return len(states) == len(buffers) and alike(found, [shape] * len(found), device, True) is not None
