"""The `reference` backend: the neuron's own step in a plain torch loop, on any device; the oracle of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.hookspecs import hookimpl
from plugin_accel.neurons import Config, Gradients, Incoming, Neuron, Result, Saved, Wanted
from plugin_accel.neurons.layout import stack, steps

SpikeFn = Callable[[Tensor, Tensor], Tensor]


class _Spike(torch.autograd.Function):
    """Spikes whose gradient is `incoming * d spike / d v`; that of the threshold, where it has one, the negative."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, threshold: Tensor, neuron: Neuron, config: Config, dspike_dv: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(v, threshold, dspike_dv)
        ctx.neuron, ctx.config = neuron, config
        return neuron.fire(config, v, threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        v, threshold, dspike_dv = ctx.saved_tensors
        sg = ctx.config.surrogate(v, threshold) if dspike_dv is None else dspike_dv
        g = grads[0] * sg
        learns = ctx.neuron.threshold_learns and ctx.needs_input_grad[1]
        return g, -g.sum_to_size(threshold.shape) if learns else None, None, None, None


def _loop(
    neuron: Neuron,
    config: Config,
    x: Tensor,
    first: Sequence[Tensor],
    params: Sequence[Tensor],
    dspike_dv: Tensor | None = None,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(out, kept, last, records) by the neuron's own step."""
    names = neuron.states(config)
    state = dict(zip(names, first, strict=True))
    named = dict(zip(neuron.params(config), params, strict=True))
    dim = config.time_dim
    inputs = steps(x, dim)
    if not inputs:
        empty = torch.empty_like(x)
        return empty, empty.clone(), tuple(s.clone() for s in first), tuple(empty.clone() for _ in names)
    slopes = steps(dspike_dv, dim) if dspike_dv is not None else [None] * len(inputs)
    out, kept, records = [], [], []
    for x_t, slope in zip(inputs, slopes, strict=True):

        def spike(v: Tensor, threshold: Tensor, slope: Tensor | None = slope) -> Tensor:
            return _Spike.apply(v, threshold, neuron, config, slope)  # type: ignore[no-any-return, no-untyped-call]

        spikes, w, state = neuron.step(config, state, x_t, named, spike)
        out.append(spikes)
        kept.append(w)
        records.append(tuple(state[n] for n in names))
    last = tuple(s.clone() for s in records[-1])
    return (
        stack(out, dim),
        stack(kept, dim),
        last,
        tuple(stack(r, dim) for r in zip(*records, strict=True)),
    )


class ReferenceBackend:
    """Plain torch: slow, simple, and the definition of what the kernels compute."""

    name = "reference"
    devices = frozenset({"cpu", "cuda", "mps", "xpu"})
    saves_input = True

    def unavailable(self) -> str | None:
        """None: torch is all it needs."""
        return None

    def details(self) -> str:
        """One line for `plugin-accel info`."""
        return f"plain torch {torch.__version__}, any device"

    def refuses(self, neuron: str, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why this backend cannot run a neuron on a device with a dtype."""
        return (
            None if dtype in (torch.float32, torch.float64) else f"steps compute in float32 or float64, not in {dtype}"
        )

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
        """See `Kernels.forward`."""
        with torch.no_grad():
            out, kept, last, records = _loop(neuron, config, x, first, params)
            spikes = out.float() if config.narrows else out
            return Result(
                spikes,
                spikes.mean() if neuron.gives_mean(config) else None,
                last,
                kept if keep else None,
                records if record else (),
            )

    def backward(
        self,
        neuron: Neuron,
        config: Config,
        saved: Saved,
        grads: Incoming,
        wanted: Wanted,
        dspike_dv: Tensor | None,
    ) -> Gradients:
        """See `Kernels.backward`: forward once more with autograd recording, then torch's own backward."""
        assert saved.x is not None
        x = saved.x.detach().requires_grad_(wanted.x)
        first = [
            s.detach().requires_grad_(want) for s, want in zip(saved.first, wanted.first, strict=True) if s is not None
        ]
        params = [p.detach().requires_grad_(want) for p, want in zip(saved.params, wanted.params, strict=True)]
        with torch.enable_grad():
            out, kept, last, records = _loop(neuron, config, x, first, params, dspike_dv)
            pairs = [
                (out, None if grads.out is None else grads.out.to(out.dtype)),
                (out.mean(), None if grads.mean is None else grads.mean.to(out.dtype)),
                *zip(last, grads.last, strict=True),
                (kept, grads.kept),
                *zip(records, grads.records, strict=False),
            ]
        used = [(t, g) for t, g in pairs if g is not None and t.requires_grad]
        leaves = [x, *first, *params]
        inputs = [t for t in leaves if t.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if used and inputs:
            found = torch.autograd.grad([t for t, _ in used], inputs, [g for _, g in used], allow_unused=True)
        given = iter(found)
        every = [next(given) if t.requires_grad else None for t in leaves]
        states = len(first)
        return Gradients(every[0], tuple(every[1 : 1 + states]), tuple(every[1 + states :]))


BACKEND = ReferenceBackend()


@hookimpl
def plugin_accel_backends() -> Iterable[ReferenceBackend]:
    """The built-in reference backend."""
    return (BACKEND,)
