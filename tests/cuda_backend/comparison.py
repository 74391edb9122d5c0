"""The `cuda` backend against the `cpu` backend: the same call, forward and backward, compared bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.backends import Backend
from plugin_accel.neurons import Config, Neuron, run_unchecked

OUTER, INNER, BOTH = "per sample", "per neuron", "per column"

# by name, so that clamps, thresholds and decays lie where something happens
VALUES = {
    "alpha_mem": (0.6, 0.95),
    "gain_mem": (0.3, 1.0),
    "alpha_syn": (0.5, 0.9),
    "alpha_adapt": (0.7, 0.9),
    "gain_adapt": (0.1, 0.3),
    "b0": (0.6, 1.0),
    "adapt_scale": (0.5, 1.5),
    "threshold": (0.5, 1.0),
    "reset_value": (0.1, 0.6),
    "min_v_mem": (-0.8, -0.3),
    "beta": (-0.1, 1.1),
    "alpha": (-0.1, 1.1),
    "decay": (0.6, 0.9),
    "graded": (0.5, 2.0),
    "recurrent": (-1.0, 1.0),
    "tau": (1.0, 2.0),
    "resistance": (0.5, 2.0),
    "inverse": (0.5, 2.0),
    "dt": (0.5, 1.0),
    "weight": (0.4, 0.8),
    "bias": (0.0, 0.3),
    "k_mem": (0.1, 0.4),
    "k_syn": (-0.5, -0.2),
    "k_ada": (0.1, 0.2),
    "v_leak": (0.0, 0.1),
    "v_th": (0.4, 0.7),
    "v_reset": (-0.2, 0.0),
    "delta_t": (0.4, 0.6),
    "a_current": (0.6, 0.8),
    "a_spike": (0.1, 0.3),
    "rho_reset": (1.0, 3.0),
    "slope": (1.0, 1.0),
    "sq": (0.03, 0.07),
    "mn": (0.4, 0.6),
    "k": (0.2, 0.3),
    "k_a": (0.1, 0.2),
    "b": (0.2, 0.3),
    "c": (-0.3, -0.1),
    "d": (0.1, 0.2),
    "k_e": (-0.3, -0.1),
    "k_i": (-0.3, -0.1),
    "g_l": (0.3, 0.6),
    "e_exc": (1.0, 2.0),
    "e_inh": (-1.0, -0.5),
    "v_rest": (0.0, 0.1),
}
CONSTANT = {"resistance", "inverse", "dt", "slope"}
"""Without a gradient of their own."""


def param(name: str, kind: str | None, batch: Sequence[int], inner: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A parameter of random values."""
    shape = {None: (), OUTER: (*batch, *[1] * len(inner)), INNER: tuple(inner), BOTH: (*batch, *inner)}[kind]
    low, high = VALUES[name]
    return torch.rand(shape, dtype=dtype) * (high - low) + low


def results(
    neuron: Neuron,
    backend: Backend,
    config: Config,
    x: Tensor,
    first: Sequence[Tensor],
    params: Sequence[Tensor],
    *,
    record: bool,
    learn: bool | Sequence[str],
    summed: bool,
    surrogate_fn: Any = None,
) -> dict[str, Tensor | None]:
    """Everything that a call gives, then the gradients of everything; `summed`: only the output has a gradient, 1."""
    names = neuron.params(config)
    learns = [n not in CONSTANT and (learn is True or (learn is not False and n in learn)) for n in names]
    (device,) = backend.devices
    x = x.detach().to(device).requires_grad_()
    first = [s.detach().clone().to(device).requires_grad_() for s in first]
    params = [p.detach().clone().to(device).requires_grad_(want) for p, want in zip(params, learns, strict=True)]
    result = run_unchecked(
        neuron, backend, config, x, first, params, surrogate_fn=surrogate_fn, keep=record, record=record
    )
    states = neuron.states(config)
    found: dict[str, Tensor | None] = {"out": result.out, "mean": result.mean, "kept": result.kept}
    found |= {f"last {n}": t for n, t in zip(states, result.last, strict=True)}
    found |= {f"record of {n}": t for n, t in zip(states, result.records, strict=False)}
    generator = torch.Generator().manual_seed(5)
    if summed:
        loss = result.out.sum()
    else:
        present = [t for t in found.values() if t is not None and t.requires_grad and (t.dim() or x.numel())]
        loss = sum(
            ((t * torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device)).sum() for t in present),
            torch.zeros((), device=device),
        )
    if loss.requires_grad:
        loss.backward()
    found["g x"] = x.grad
    found |= {f"g first {n}": s.grad for n, s in zip(states, first, strict=True)}
    found |= {f"g {n}": p.grad for n, p in zip(names, params, strict=True)}
    return found


def assert_same(got: dict[str, Tensor | None], wanted: dict[str, Tensor | None], sums: Sequence[str] = ()) -> None:
    """Equal to the last bit; those named in `sums` up to the order in which columns are added."""
    assert got.keys() == wanted.keys()
    for name, expected in wanted.items():
        found = got[name]
        if expected is None:
            assert found is None, name
            continue
        assert found is not None, name
        if name in sums:
            rtol = 1e-12 if expected.dtype is torch.float64 else 2e-6
            torch.testing.assert_close(
                found.cpu(), expected, rtol=rtol, atol=rtol * 10, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
            )
            continue
        assert found.dtype is expected.dtype, name
        torch.testing.assert_close(
            found.cpu(), expected, rtol=0, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )
