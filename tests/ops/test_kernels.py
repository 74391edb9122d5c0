"""The C++ kernels against the plain-torch reference: every variant, dtype, parameter shape, surrogate."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from plugin_accel.backends import cpu, reference
from plugin_accel.neurons import SINABS_ALIF, SINABS_LIF, Kernels, Neuron, Result, SinabsConfig, run
from plugin_accel.surrogates import Surrogate

SURROGATES = [
    Surrogate("single_exponential", (0.5, 1.0)),
    Surrogate("periodic_exponential", (0.5, 1.0)),
    Surrogate("heaviside", (1.0,)),
    Surrogate("gaussian", (0.0, 0.5, 1.0)),
    Surrogate("multi_gaussian", (0.0, 0.5, 0.15, 6.0, 1.0)),
]
# Values that fp32 holds exactly: with fp64 data the hosts' own parameters are fp32 too.
VALUES = {
    "alpha_mem": 0.875,
    "gain_mem": 0.75,
    "alpha_syn": 0.6875,
    "threshold": 1.0,
    "reset_value": 0.3125,
    "min_v_mem": -0.375,
    "alpha_adapt": 0.9375,
    "gain_adapt": 0.0625,
    "b0": 1.0,
    "adapt_scale": 1.8125,
}


def variants() -> Iterator[tuple[Neuron, bool, str, str, bool]]:
    for neuron in (SINABS_LIF, SINABS_ALIF):
        for synapse, spike, reset, clamp in itertools.product(
            (False, True), ("single", "multi"), ("subtract_threshold", "subtract", "value"), (False, True)
        ):
            yield neuron, synapse, spike, reset, clamp
    for clamp in (False, True):
        yield SINABS_LIF, False, "none", "subtract_threshold", clamp


def parameters(neuron: Neuron, config: SinabsConfig, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    made = []
    for name in neuron.params(config):
        jitter = torch.randint(-8, 9, shape).to(dtype) / 256
        made.append(VALUES[name] + jitter if shape else torch.tensor(VALUES[name], dtype=dtype))
    return made


def run_all(
    kernels: Kernels,
    neuron: Neuron,
    config: SinabsConfig,
    x: Tensor,
    first: list[Tensor],
    params: list[Tensor],
    **options: object,
) -> tuple[Result, list[Tensor | None]]:
    """Result and the gradients of everything, under a loss that uses everything."""
    leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, *first, *params)]
    states = len(first)
    result = run(neuron, kernels, config, leaves[0], leaves[1 : 1 + states], leaves[1 + states :], **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    used = [result.out, *result.last, *result.records, *([] if result.kept is None else [result.kept])]
    weights = [torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in used]
    loss = (
        3 * result.mean.double()
        + torch.stack([(t * w).sum().double() for t, w in zip(used, weights, strict=True)]).sum()
    )
    return result, list(torch.autograd.grad(loss, leaves, allow_unused=True))


def assert_same(a: Result, b: Result) -> None:
    for got, want in zip((a.out, *a.last, *a.records), (b.out, *b.last, *b.records), strict=True):
        assert torch.equal(got, want)
    assert torch.allclose(a.mean, b.mean, rtol=1e-6, atol=1e-7, equal_nan=True)


def assert_close(got: list[Tensor | None], want: list[Tensor | None], rtol: float) -> None:
    """Relative to the largest entry, or to one where a sum of many terms cancels.

    Sums over a whole sequence get ten times the tolerance in fp32, where torch's own rounding shows; in fp64 they
    have nothing to hide behind.
    """
    for a, b in zip(got, want, strict=True):
        if b is None:
            assert a is None or not a.any()
            continue
        assert a is not None and a.shape == b.shape and a.dtype == b.dtype
        assert torch.isfinite(b).all()
        summed = b.dtype is torch.float32 and b.numel() < got[0].numel()  # type: ignore[union-attr]
        assert (a - b).abs().max() <= (10 * rtol if summed else rtol) * max(b.abs().max().item(), 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("variant", list(variants()), ids=lambda v: f"{v[0].name}-{'-'.join(map(str, v[1:]))}")
def test_every_variant_equals_the_reference(variant: tuple[Neuron, bool, str, str, bool], dtype: torch.dtype) -> None:
    neuron, synapse, spike, reset, clamp = variant
    torch.manual_seed(0)
    outer, time, inner = 3, 17, 37
    for surrogate, shape, record in itertools.product(
        SURROGATES if reset == "subtract" else SURROGATES[:1], [(), (inner,), (outer, inner), (outer, 1)], [False, True]
    ):
        config = SinabsConfig(synapse, spike, reset, clamp, 3.0, surrogate if spike != "none" else None, time_dim=1)
        params = parameters(neuron, config, shape, dtype)
        x = torch.randn(outer, time, inner, dtype=dtype) * 1.5
        # states that fp32 holds exactly, as a host's are; b is never negative (a threshold near zero has no gradient)
        first = [(torch.randn(outer, inner) * 0.3).to(dtype) for _ in neuron.states(config)]
        first = [s.abs() if name == "b" else s for name, s in zip(neuron.states(config), first, strict=True)]
        got = run_all(cpu.BACKEND, neuron, config, x, first, params, keep=record, record=record)
        want = run_all(reference.BACKEND, neuron, config, x, first, params, keep=record, record=record)
        assert_same(got[0], want[0])
        assert_close(got[1], want[1], 1e-5 if dtype is torch.float32 else 1e-10)


def test_one_value_per_sample_of_single_neurons() -> None:
    """A state without inner dimensions: the parameter has the state's own shape."""
    config = SinabsConfig(spike="none", time_dim=1)
    x, first = torch.randn(5, 7), [torch.zeros(5)]
    params = [torch.rand(5), torch.rand(5)]
    got = run_all(cpu.BACKEND, SINABS_LIF, config, x, first, params)
    want = run_all(reference.BACKEND, SINABS_LIF, config, x, first, params)
    assert_same(got[0], want[0])
    assert_close(got[1], want[1], 1e-5)
