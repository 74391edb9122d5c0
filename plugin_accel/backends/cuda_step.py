"""Prepared calls of the `cuda` backend: what a layer that is called again has established is not asked anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel._C import alike
from plugin_accel.backends.cuda_backward import BackwardPlan
from plugin_accel.backends.cuda_forward import LOW, ForwardPlan
from plugin_accel.backends.cuda_run import Runner
from plugin_accel.backends.cuda_source import ROOM
from plugin_accel.neurons import Config, Gradients, Incoming, Kernels, Neuron, Saved, Wanted
from plugin_accel.neurons.layout import STEP, contiguous_layout
from plugin_accel.neurons.prepared import once, place, thin
from plugin_accel.neurons.prepared_sequence import Derivation, Derivations
from plugin_accel.neurons.reach import reached

LARGE = 1 << 24
"""Entries of a sequence from which on it fits no GPU's caches."""


def drops_kept(config: Config, x: Tensor, reads_input: bool) -> bool:
    """See `Kernels`. A single step's states before it take as much memory as its membrane.

    Of a large sequence of few steps the membranes are had again without leaving the multiprocessor: 20 bytes move per
    neuron step, forward and backward, instead of 24.
    """
    if config.time_dim == STEP or reads_input or not x.requires_grad:
        return config.time_dim != STEP and reads_input
    return x.dtype in LOW or (x.dtype is torch.float32 and x.numel() >= LARGE and x.shape[config.time_dim] <= ROOM)


class _Back:
    """Backward calls whose incoming gradients lie as the outputs do; all others find their plans in the backend."""

    def __init__(
        self, kernels: Kernels, runner: Runner, neuron: Neuron, config: Config, x: Tensor, state: Tensor
    ) -> None:
        self._kernels, self._runner, self._neuron, self._config = kernels, runner, neuron, config
        self._device = place(x)
        self._gives_mean = neuron.gives_mean(config)
        scalar = (torch.Size(()),) if self._gives_mean else ()
        self._shapes = (x.shape, *(state.shape for _ in neuron.states(config)), *scalar)
        self._plans: dict[Any, BackwardPlan] = {}

    def run(self, saved: Saved, grads: Sequence[Tensor | None], wanted: Wanted) -> Gradients:
        """`grads`: of the output, the states, and the mean if the neuron averages."""
        mean, last = (grads[-1], grads[1:-1]) if self._gives_mean else (None, grads[1:])
        incoming = Incoming(grads[0], mean, tuple(last), None, ())
        there = tuple([g is not None for g in grads])
        given, shapes = [g for g in grads if g is not None], self._shapes
        if len(given) < len(shapes):
            shapes = tuple([s for s, present in zip(shapes, there, strict=True) if present])
        if alike(given, shapes, self._device, True) is None:
            return self._kernels.backward(self._neuron, self._config, saved, incoming, wanted, None)
        there = (*there, saved.kept is None)
        plan = self._plans.get((wanted, there))
        if plan is None:
            plan = BackwardPlan(self._runner, self._neuron, self._config, saved, incoming, wanted, None)
            self._plans[wanted, there] = plan
        return plan.run(saved, incoming, None)


class CudaStep:
    """See `PreparedStep` and `PreparedSequence`; fp32.

    Its own autograd function saves the parameters as torch does. Those who keep what `forward` gives, and know of no
    parameters in `backward`, are given copies of them behind the membranes, which costs them a kernel more.
    """

    copies = False

    def __init__(
        self,
        kernels: Kernels,
        runner: Runner,
        neuron: Neuron,
        config: Config,
        x: Tensor,
        params: Sequence[Tensor],
        derivations: Derivations | None = None,
    ) -> None:
        x, dim = x.detach(), config.time_dim
        state = x
        if dim != STEP:
            state = torch.empty(contiguous_layout(tuple(x.shape), dim).state_shape, dtype=x.dtype, device=x.device)
        self.states, self.sequence = len(neuron.states(config)), dim != STEP
        self._neuron, self.config, self._back = neuron, config, _Back(kernels, runner, neuron, config, x, state)
        first = [state] * self.states
        self._plans = [ForwardPlan(runner, neuron, config, x, first, params, keep, False) for keep in (False, True)]
        names = neuron.params(config)
        self.count, self.derivations, self._gives_mean = len(names), derivations, neuron.gives_mean(config)
        self._alike = [name in neuron.summed_inputs for name in names]
        masks = reached(neuron, config, 1 if dim == STEP else x.shape[dim])
        self._acts_on = [masks[name] for name in ("x", *neuron.states(config), *names)]
        self._shapes = [p.shape for p in params]
        self._reads: dict[tuple[int, ...], tuple[bool, bool]] = {}
        self._wanted: dict[Any, Wanted] = {}

    def made(
        self, x: Tensor, states: Sequence[Tensor | None], params: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor | None, Tensor, Sequence[Tensor]]:
        """(kept, out, states after and maybe the mean), without copies of the parameters."""
        first: Sequence[Any] = states
        for s in states:
            if s is None:
                first = [torch.zeros_like(x) if s is None else s for s in states]
                break
        plan, n = self._plans[keep], 1 + keep
        if plan.program is None:
            made = plan.run(x, first, params)
            return made.kept, made.out, made.last if made.mean is None else (*made.last, made.mean)
        flat = plan.program([*[params[i] for i in plan.order], x, *first])
        last = flat[n : n + self.states]
        return flat[1] if keep else None, flat[0], (*last, flat[-1]) if self._gives_mean else last

    def forward(
        self, x: Tensor, states: Sequence[Tensor | None], params: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor | None, Tensor, Sequence[Tensor]]:
        """See `PreparedStep`."""
        kept, out, last = self.made(x, states, params, keep)
        if kept is not None:
            own = [p.reshape(-1) for p, same in zip(params, self._alike, strict=True) if not same]
            kept = torch.cat([kept.view(-1), *own])
        return kept, out, last

    def reads(self, learned: tuple[int, ...]) -> tuple[bool, bool]:
        """See `PreparedStep`."""
        found = self._reads.get(learned)
        if found is None:
            neuron, config = self._neuron, self.config
            wanted = self._wants((False,) * (1 + self.states), learned).params
            summed = [want and not same for want, same in zip(wanted, self._alike, strict=True)]
            found = self._reads[learned] = neuron.reads_input(config, summed), neuron.reads_first(config, summed)
        return found

    def run(
        self,
        x: Tensor,
        states: Sequence[Tensor | None],
        params: Sequence[Tensor],
        learned: tuple[int, ...],
        learns: bool,
    ) -> Sequence[Tensor]:
        """See `run_known` and `PreparedSequence`."""
        if (learned or learns) and torch.is_grad_enabled():
            flat: tuple[Tensor, ...] = _apply(self, params, learned, x, *states, *[params[i] for i in learned])
            return flat
        _, out, last = self.made(x, states, params, False)
        return (out, *last)

    def backward(
        self,
        needs: Sequence[bool],
        learned: tuple[int, ...],
        kept: Tensor,
        x: Tensor | None,
        states: Sequence[Tensor | None],
        grads: Sequence[Tensor | None],
    ) -> Sequence[Tensor | None]:
        """See `PreparedStep`."""
        shape = self._plans[0].shape
        sizes = [shape.numel(), *[n.numel() for n, same in zip(self._shapes, self._alike, strict=True) if not same]]
        membranes, *own = kept.split(sizes)
        membranes, rest = membranes.view(shape), iter(own)
        params = [
            membranes if same else next(rest).view(n)  # an input's own values are not read
            for n, same in zip(self._shapes, self._alike, strict=True)
        ]
        return self.back(needs, learned, membranes, x, states, params, grads)

    def back(
        self,
        needs: Sequence[bool],
        learned: tuple[int, ...],
        kept: Tensor | None,
        x: Tensor | None,
        states: Sequence[Tensor | None],
        params: Sequence[Tensor],
        grads: Sequence[Tensor | None],
    ) -> Sequence[Tensor | None]:
        """`backward`, with the parameters; gradients of time constants lack their slope."""
        first: Sequence[Any] = states
        if kept is not None and self.reads(learned)[1]:
            first = [torch.zeros_like(kept) if s is None else s for s in states]
        wanted = self._wanted.get((tuple(needs), learned))
        if wanted is None:
            wanted = self._wanted[tuple(needs), learned] = self._wants(needs, learned)
        g = self._back.run(Saved(x, kept, tuple(first), tuple(params)), grads, wanted)
        found = sum(1 << k for k, grad in enumerate(grads[: 1 + self.states]) if grad is not None)
        found |= int(grads[-1] is not None and self._gives_mean)
        flat = [g.x if needs[0] else None, *g.first, *g.params]
        flat = [grad if acts_on & found else None for grad, acts_on in zip(flat, self._acts_on, strict=True)]
        own = flat[1 + self.states :]
        return (*flat[: 1 + self.states], *[own[i] if i < self.count else self._through(i, own) for i in learned])

    def _wants(self, needs: Sequence[bool], learned: tuple[int, ...]) -> Wanted:
        through = {i for d in self._derived(learned) for i in (d.alpha, d.rest)}
        wants = tuple([i in learned or i in through for i in range(self.count)])
        return Wanted(needs[0], tuple(needs[1 : 1 + self.states]), wants)

    def _derived(self, learned: tuple[int, ...]) -> list[Derivation]:
        return [] if self.derivations is None else [d for d in self.derivations.of if d.tau in learned]

    def _through(self, tau: int, own: Sequence[Tensor | None]) -> Tensor | None:
        """The gradient of alpha(tau) and 1 - alpha(tau) by alpha."""
        (d,) = self._derived((tau,))
        g, rest = own[d.alpha], None if d.rest is None else own[d.rest]
        return g if g is None or rest is None else g - rest

    def slopes(self, params: Sequence[Tensor], learned: tuple[int, ...]) -> tuple[Tensor, ...]:
        """d alpha / d tau of the time constants that learn."""
        if self.derivations is None or not learned or learned[-1] < self.count:
            return ()
        return tuple([self.derivations.slope(params[d.alpha], params[d.tau]) for d in self._derived(learned)])


class _Step(torch.autograd.Function):
    """(step, params, learned, x, *states, *learned parameters) -> (out, *states, maybe the mean)."""

    @staticmethod
    def forward(
        ctx: Any,
        step: CudaStep,
        params: Sequence[Tensor],
        learned: tuple[int, ...],
        x: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        states = tensors[: step.states]
        reads_x, reads_states = step.reads(learned)
        if step.sequence and (reads_x or drops_kept(step.config, x, reads_x)):
            kept, out, last = step.made(x, states, params, False)
            reads_x = reads_states = True
        else:
            kept, out, last = step.made(x, states, params, True)
        slopes = step.slopes(params, learned)
        ctx.made_by = step, learned, slopes
        ctx.save_for_backward(
            kept,
            x if reads_x else None,
            *(states if reads_states else (None,) * step.states),
            *(params if step.derivations is None else params[: step.count]),
        )
        ctx.set_materialize_grads(False)
        return (out, *last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        once()
        step, learned, slopes = ctx.made_by
        kept, x, *rest = ctx.saved_tensors
        needs, n = ctx.needs_input_grad[3:], step.states
        found = step.back(needs, learned, kept, x, rest[:n], rest[n:], grads)
        if slopes:
            at = len(found) - len(slopes)
            found = (*found[:at], *[g if g is None else g * s for g, s in zip(found[at:], slopes, strict=True)])
        return (None, None, None, *found)


_apply = thin(_Step)


def prepare(
    kernels: Kernels, runner: Runner, neuron: Neuron, config: Config, x: Tensor, params: Sequence[Tensor]
) -> CudaStep | None:
    """A step for inputs like `x` and parameters like `params`; None where the general path must be taken."""
    if config.time_dim != STEP or (config.spiking and config.surrogate is None) or not _plain(x):
        return None
    for name, p in zip(neuron.params(config), params, strict=True):
        if p.dtype is not x.dtype or p.dim() > x.dim():  # more dimensions enlarge the host's state
            return None
        if name in neuron.summed_inputs and p.shape != x.shape:
            return None
    return CudaStep(kernels, runner, neuron, config, x, params)


def _plain(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.numel() > 0 and x.is_contiguous()


def prepare_sequence(
    kernels: Kernels,
    runner: Runner,
    neuron: Neuron,
    config: Config,
    x: Tensor,
    params: Sequence[Tensor],
    derivations: Derivations | None,
) -> CudaStep | None:
    """A sequence for inputs like `x`; None where the general path must be taken."""
    if not _plain(x) or (config.spiking and config.surrogate is None):
        return None
    if any(p.dtype is not x.dtype or p.dim() >= x.dim() for p in params):
        return None
    return CudaStep(kernels, runner, neuron, config, x, params, derivations)
