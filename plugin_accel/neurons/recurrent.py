"""A neuron that hears its own spikes through a weight matrix, over a whole sequence: one autograd function.

The input comes in as it reaches the neurons, its product made for all steps at once. Each step then is one product and
one fused step each way; the gradient of the weights is one product at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plugin_accel.neurons.config import Config
from plugin_accel.neurons.neuron import Incoming, Kernels, Neuron, Saved, Wanted
from plugin_accel.neurons.prepared import PreparedStep
from plugin_accel.neurons.reach import ANY, present, reached, without_unreached


class KernelStep:
    """A step of any backend's kernels as a `PreparedStep`, with the recurrent input as the last parameter.

    Args:
        kernels: A backend.
        neuron: The model.
        config: Of a single step.
        params: Without the recurrent input; copied, since backward reads them.
    """

    copies = True

    def __init__(self, kernels: Kernels, neuron: Neuron, config: Config, params: Sequence[Tensor]) -> None:
        self.states = len(neuron.states(config))
        self._kernels, self._neuron, self._config = kernels, neuron, config
        self._params = [p.detach().clone() for p in params]

    def forward(
        self, x: Tensor, states: Sequence[Tensor | None], params: Sequence[Tensor], keep: bool
    ) -> tuple[Tensor | None, Tensor, Sequence[Tensor]]:
        """See `PreparedStep`."""
        first = [torch.zeros_like(x) if s is None else s for s in states]
        made = self._kernels.forward(self._neuron, self._config, x, first, params, keep=keep, record=False)
        return made.kept, made.out, made.last

    def reads(self, learned: tuple[int, ...]) -> tuple[bool, bool]:
        """See `PreparedStep`."""
        if self._kernels.saves_input:
            return True, True
        wanted = [i in learned for i in range(len(self._params))]
        return self._neuron.reads_input(self._config, wanted), self._neuron.reads_first(self._config, wanted)

    def backward(
        self,
        needs: Sequence[bool],
        learned: tuple[int, ...],
        kept: Tensor,
        x: Tensor | None,
        states: Sequence[Tensor | None],
        grads: Sequence[Tensor | None],
    ) -> Sequence[Tensor | None]:
        """See `PreparedStep`; `x` holds the recurrent input too."""
        saved = Saved(x, kept, tuple(states), (*self._params, torch.zeros_like(kept)))
        incoming = Incoming(grads[0], None, tuple(grads[1:]), None, ())
        wanted = Wanted(needs[0], tuple(needs[1:]), (*[i in learned for i in range(len(self._params))], False))
        g = self._kernels.backward(self._neuron, self._config, saved, incoming, wanted, None)
        names = ["x", *self._neuron.states(self._config), *[self._neuron.params(self._config)[i] for i in learned]]
        found = [g.x, *g.first, *[g.params[i] for i in learned]]
        return without_unreached(reached(self._neuron, self._config), names, present(incoming), found)


class RecurrentResult(NamedTuple):
    """What a recurrent neuron hands back for a sequence."""

    out: Tensor
    """Spikes, [T, *shape of a state]."""
    last: tuple[Tensor, ...]
    """States after the last step."""
    records: tuple[Tensor, ...]
    """Each state after every step, [T, *shape of a state]; empty unless recorded."""


class _Call(NamedTuple):
    neuron: Neuron
    config: Config
    step: PreparedStep
    params: Sequence[Tensor]
    learned: tuple[int, ...]
    record: bool
    differentiated: bool


class _Recurrent(torch.autograd.Function):
    """(call, drive, weight, spikes, *states, *learned parameters) -> (out, *last, *records)."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, drive: Tensor, weight: Tensor, spikes: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        step, params, differentiated = call.step, call.params, call.differentiated
        n = step.states
        reads_x, reads_states = step.reads(call.learned) if differentiated else (False, False)
        states: Sequence[Tensor] = tensors[:n]
        across = weight.t()
        size = weight.shape[0]
        out = torch.empty_like(drive)
        kept: list[Tensor | None] = []
        before: list[Sequence[Tensor]] = []
        after: list[Sequence[Tensor]] = []
        z = spikes
        for x_t, into in zip(drive.unbind(0), out.unbind(0), strict=True):
            heard = torch.mm(z.reshape(-1, size), across).view(x_t.shape)
            if reads_states:
                before.append(states)
            membrane, z, states = step.forward(x_t, states, [*params, heard], differentiated)
            kept.append(membrane)
            into.copy_(z)
            if call.record:
                after.append(states)
            if reads_x:
                before[-1] = (*before[-1], heard)
        records = [torch.stack(s) for s in zip(*after, strict=True)]
        if differentiated:
            saved = [t for group in before for t in group]
            ctx.save_for_backward(drive if reads_x else None, weight, spikes, out, *kept, *saved)
            ctx.call, ctx.per_step = call, len(saved) // len(kept)
            ctx.set_materialize_grads(False)
        return (out, *states, *records)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        step, learned = ctx.call.step, ctx.call.learned
        n, needs = step.states, ctx.needs_input_grad
        drive, weight, spikes, out, *rest = ctx.saved_tensors
        steps, size = out.shape[0], weight.shape[0]
        kept, saved = rest[:steps], rest[steps:]
        g_out, g_records = grads[0], grads[1 + n :]
        g_states = list(grads[1 : 1 + n])
        g_drive = torch.empty_like(out)
        g_learned: list[Tensor | None] = []
        g_z: Tensor | None = None
        for t in range(steps - 1, -1, -1):
            for k, g in enumerate(g_records):
                if g is not None:
                    own = g_states[k]
                    g_states[k] = g[t] if own is None else own + g[t]
            if g_out is not None:
                g_z = g_out[t] if g_z is None else g_z + g_out[t]
            held = saved[t * ctx.per_step : (t + 1) * ctx.per_step]
            states = held[:n] if held else (None,) * n
            x = None
            if drive is not None:
                x = drive[t] + held[n]
            found = step.backward((True,) * (1 + n), learned, kept[t], x, states, (g_z, *g_states))
            g_x = found[0]
            g_states = list(found[1 : 1 + n])
            mine = found[1 + n :]
            g_learned = [_sum(a, b) for a, b in zip(g_learned, mine, strict=True)] if g_learned else list(mine)
            if g_x is None:  # what a backend gives where nothing depends on the input
                g_x = torch.zeros_like(out[t])
            g_drive[t] = g_x
            if t or needs[3]:
                g_z = torch.mm(g_x.view(-1, size), weight).view(g_x.shape)
        g_weight = None
        if needs[2]:
            heard = torch.cat((spikes.unsqueeze(0), out[:-1])).view(-1, size)
            g_weight = torch.mm(g_drive.view(-1, size).t(), heard)
        neuron, config = ctx.call.neuron, ctx.call.config
        params = neuron.params(config)
        # What is heard adds to the input.
        names = ["x", "weight", "x", *neuron.states(config), *[params[i] for i in learned]]
        arrived = present(Incoming(grads[0], None, grads[1 : 1 + n], None, g_records))
        all_grads = [g_drive, g_weight, g_z, *g_states, *g_learned]
        masks = reached(neuron, config, steps, fed=True)
        masks = {**masks, "weight": masks["x"] if weight._backward_hooks is None else ANY}
        reaching = without_unreached(masks, names, arrived, all_grads)
        return (None, *[g if need else None for g, need in zip(reaching, needs[1:], strict=True)])


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def run_recurrent(
    neuron: Neuron,
    config: Config,
    step: PreparedStep,
    drive: Tensor,
    weight: Tensor,
    spikes: Tensor,
    states: Sequence[Tensor],
    params: Sequence[Tensor],
    *,
    record: bool = False,
) -> RecurrentResult:
    """Runs a prepared step over a sequence, its spikes coming back through a weight matrix.

    Args:
        neuron: The model.
        config: Of a single step.
        step: Prepared for one step of `drive`, with the recurrent input as the last parameter.
        drive: What reaches the neurons from outside, [T, ..., N], dense, T > 0.
        weight: Recurrent weights, [N, N]: to, from.
        spikes: Of the step before the first, [..., N], dense.
        states: Before the first step, [..., N] each, dense.
        params: The step's parameters without the recurrent input.
        record: Also give the states after every step.
    """
    differentiated = torch.is_grad_enabled()
    learned = tuple([i for i, p in enumerate(params) if p.requires_grad]) if differentiated else ()
    flat = _Recurrent.apply(  # type: ignore[no-untyped-call]
        _Call(neuron, config, step, params, learned, record, differentiated),
        drive,
        weight,
        spikes,
        *states,
        *[params[i] for i in learned],
    )
    n = step.states
    return RecurrentResult(flat[0], tuple(flat[1 : 1 + n]), tuple(flat[1 + n :]))
