"""A neuron as declared by its file, and what every neuron shares: one autograd function over any backend's kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from plugin_accel.neurons.callables import evaluate_surrogate
from plugin_accel.neurons.checks import check_call, check_surrogate
from plugin_accel.neurons.config import Config
from plugin_accel.surrogates import SurrogateFn


class Result(NamedTuple):
    """What a neuron hands back for a sequence."""

    out: Tensor
    """Spikes (fp32, as the hosts), or the membrane of a neuron without spikes; shape of the input."""
    mean: Tensor | None
    """Mean of `out` over everything, 0-d, differentiable; None of a neuron that `averages` not."""
    last: tuple[Tensor, ...]
    """States after the last step, shape of the input without time; real tensors, never views."""
    kept: Tensor | None
    """Membrane before the reset at every step, if it was recorded or is needed for backward."""
    records: tuple[Tensor, ...]
    """Each state after every step, shape of the input; empty unless recorded."""


class Gradients(NamedTuple):
    """Gradients by position; None where none was wanted."""

    x: Tensor | None
    first: tuple[Tensor | None, ...]
    params: tuple[Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Incoming:
    """Gradients that arrive at a neuron's results; None stands for zero."""

    out: Tensor | None
    mean: Tensor | None
    last: tuple[Tensor | None, ...]
    kept: Tensor | None
    records: tuple[Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Saved:
    """What forward left for backward."""

    x: Tensor | None
    kept: Tensor
    first: tuple[Tensor | None, ...]
    params: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which gradients backward must give."""

    x: bool
    first: tuple[bool, ...]
    params: tuple[bool, ...]


class Kernels(Protocol):
    """What a backend implements. Nothing here is differentiable: the autograd function around it is shared.

    Tensors are on one device, floating inputs, states and parameters of one dtype; parameters are 0-d or broadcast
    against a state from the right. `saves_input` says that backward always needs `Saved.x` and every `Saved.first`.
    """

    name: str
    saves_input: bool

    def forward(
        self,
        neuron: Neuron,
        config: Config,
        x: Tensor,
        first: Sequence[Tensor],
        params: Sequence[Tensor],
        *,
        keep: bool,
        record: bool,
    ) -> Result:
        """Run a sequence; `keep`: hand back `kept`, `record`: hand back `records`."""
        ...

    def backward(
        self, neuron: Neuron, config: Config, saved: Saved, grads: Incoming, wanted: Wanted, dspike_dv: Tensor | None
    ) -> Gradients:
        """Gradients of a sequence; `dspike_dv` replaces the configured surrogate."""
        ...


class Neuron(ABC):
    """A neuron model: names, and one step in plain torch. Subclasses are stateless singletons.

    Their methods take a `config` of their own family's class.
    """

    name: str
    index: int
    """Number of the kernels in csrc/cpu/kernels.h."""
    averages: bool = False
    """Whether its host wants the mean of the output with every call."""
    threshold_learns: bool = False
    """Whether the surrogate gives the threshold a gradient too: that of v, negative."""
    summed_inputs: tuple[str, ...] = ()
    """Parameters that are added to the input as it is, so that their gradient is the input's; for single steps."""

    @abstractmethod
    def states(self, config: Any) -> tuple[str, ...]:
        """Names of the states, in order."""

    @abstractmethod
    def params(self, config: Any) -> tuple[str, ...]:
        """Names of the parameters, in order."""

    @property
    @abstractmethod
    def kernel_params(self) -> tuple[str, ...]:
        """All parameters in the order of the step header; those that a configuration lacks are left out there."""

    @abstractmethod
    def replays(self, config: Any) -> bool:
        """Whether backward runs forward again for states that `kept` does not determine."""

    def reads_input(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        """Whether backward reads the input, with these gradients of parameters wanted."""
        return self.replays(config) or any(params_wanted)

    def reads_first(self, config: Any, params_wanted: Sequence[bool]) -> bool:
        """Whether backward reads the states before the first step, with these gradients of parameters wanted."""
        return self.replays(config) or any(params_wanted)

    @abstractmethod
    def fire(self, config: Any, v: Tensor, threshold: Tensor) -> Tensor:
        """Spikes, dtype of `v`, without a gradient."""

    @abstractmethod
    def step(
        self, config: Any, state: dict[str, Tensor], x: Tensor, params: Mapping[str, Tensor], spike: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One step in plain torch: (out, kept, state). `spike(v, threshold)` generates spikes with their gradient."""

    def thresholds(self, config: Any, saved: Saved, records: Sequence[Tensor]) -> Sequence[Tensor] | Tensor:
        """Threshold in force: one tensor, or one per step; `records` as in `Result`."""
        return saved.params[self.params(config).index("threshold")]

    @property
    def threshold_varies(self) -> bool:
        """Whether `thresholds` needs records."""
        return False


def run(
    neuron: Neuron,
    kernels: Kernels,
    config: Config,
    x: Tensor,
    first: Sequence[Tensor],
    params: Sequence[Tensor],
    *,
    surrogate_fn: SurrogateFn | None = None,
    keep: bool = False,
    record: bool = False,
) -> Result:
    """Run a neuron over a sequence, differentiably.

    Args:
        neuron: The model.
        kernels: A backend.
        config: Static configuration.
        x: Input, time at `config.time_dim`, fp32 or fp64.
        first: States before the first step, shape of `x` without time.
        params: As named by `neuron.params(config)`; 0-d, or broadcast against a state from the right.
        surrogate_fn: Replaces `config.surrogate`: any callable (v, threshold) -> d spike / d v. It is called under
            no_grad in backward, one step at a time and from the last step to the first, as the hosts call it.
        keep: Also give back the membrane before the reset, differentiably.
        record: Also give back every state after each step, differentiably.

    Raises:
        InputError: a tensor of another number, shape, dtype or device than the kernels read.
    """
    check_call(neuron, config, x, first, params)
    if surrogate_fn is None and torch.is_grad_enabled() and _any_requires_grad(x, first, params):
        check_surrogate(config)
    return run_unchecked(neuron, kernels, config, x, first, params, surrogate_fn=surrogate_fn, keep=keep, record=record)


def run_unchecked(
    neuron: Neuron,
    kernels: Kernels,
    config: Config,
    x: Tensor,
    first: Sequence[Tensor],
    params: Sequence[Tensor],
    *,
    surrogate_fn: SurrogateFn | None = None,
    keep: bool = False,
    record: bool = False,
) -> Result:
    """`run` for callers that have established what it checks: wrong shapes here read and write foreign memory."""
    if torch.compiler.is_compiling():  # behind a graph break: ops.call is for what is to be compiled
        eager = torch.compiler.disable(run_unchecked)
        result: Result = eager(
            neuron, kernels, config, x, first, params, surrogate_fn=surrogate_fn, keep=keep, record=record
        )
        return result
    if not (torch.is_grad_enabled() and _any_requires_grad(x, first, params)):
        return kernels.forward(neuron, config, x, first, params, keep=keep, record=record)
    call = _Call(neuron, kernels, config, surrogate_fn, keep, record, len(first))
    flat = _Sequence.apply(call, x, *first, *params)  # type: ignore[no-untyped-call]
    states = len(first)
    return Result(
        flat[0],
        flat[1],
        flat[2 : 2 + states],
        flat[2 + states] if keep else None,
        flat[-states:] if record else (),
    )


def _any_requires_grad(x: Tensor, first: Sequence[Tensor], params: Sequence[Tensor]) -> bool:
    return x.requires_grad or any(p.requires_grad for p in params) or any(s.requires_grad for s in first)


class _Call(NamedTuple):
    neuron: Neuron
    kernels: Kernels
    config: Config
    surrogate_fn: SurrogateFn | None
    keep: bool
    record: bool
    states: int


class _Sequence(torch.autograd.Function):
    """(call, x, *first, *params) -> (out, mean, *last, [kept], *records)."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        first, params = tensors[: call.states], tensors[call.states :]
        neuron, config = call.neuron, call.config
        records_for_threshold = call.surrogate_fn is not None and neuron.threshold_varies
        result = call.kernels.forward(
            neuron, config, x, first, params, keep=True, record=call.record or records_for_threshold
        )
        ctx.call = call
        needs = ctx.needs_input_grad
        params_wanted = needs[2 + call.states :]
        rebuild = call.kernels.saves_input or neuron.reads_first(config, params_wanted)
        reads_input = call.kernels.saves_input or neuron.reads_input(config, params_wanted)
        ctx.save_for_backward(
            result.kept,
            x if reads_input else None,
            *(first if rebuild else (None,) * call.states),
            *params,
            *(result.records if records_for_threshold else ()),
        )
        ctx.param_count = len(params)
        ctx.set_materialize_grads(False)
        kept = (result.kept,) if call.keep else ()
        return (result.out, result.mean, *result.last, *kept, *(result.records if call.record else ()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        kept, x, *rest = ctx.saved_tensors
        states, n_params = call.states, ctx.param_count
        saved = Saved(x, kept, tuple(rest[:states]), tuple(rest[states : states + n_params]))
        after = 2 + states + int(call.keep)
        incoming = Incoming(
            grads[0],
            grads[1],
            grads[2 : 2 + states],
            grads[2 + states] if call.keep else None,
            grads[after:] if call.record else (),
        )
        needs = ctx.needs_input_grad
        wanted = Wanted(needs[1], needs[2 : 2 + states], needs[2 + states :])
        dspike_dv = None
        if call.surrogate_fn is not None:
            thresholds = call.neuron.thresholds(call.config, saved, rest[states + n_params :])
            dspike_dv = evaluate_surrogate(call.surrogate_fn, kept, thresholds, call.config.time_dim)
        g = call.kernels.backward(call.neuron, call.config, saved, incoming, wanted, dspike_dv)
        return (None, g.x, *g.first, *g.params)
