"""The C++ kernels of snnTorch's neurons against the plain-torch reference: variants, surrogates, instruction sets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.backends import cpu, reference
from plugin_accel.neurons import ALL, Kernels, Neuron, Result, SnnTorchConfig, run
from plugin_accel.neurons.layout import STEP
from plugin_accel.neurons.prepared import run_step
from plugin_accel.surrogates import Surrogate

SURROGATES = [
    Surrogate("atan", (2.0,)),
    Surrogate("constant", (1.0,)),
    Surrogate("triangular", (0.75,)),
    Surrogate("fast_sigmoid", (5.0, 0.0)),
    Surrogate("above_threshold", ()),
    Surrogate("sigmoid", (3.0,)),
    Surrogate("spike_rate_escape", (1.5, 2.0)),
]
# Values that fp32 holds exactly; decays stay inside of [0, 1], where their gradient has no jump.
VALUES = {
    "beta": 0.875, "threshold": 0.75, "graded": 1.5, "alpha": 0.6875, "tau": 1.5, "decay": 0.8125, "resistance": 2.0,
    "inverse": 0.5, "dt": 0.75, "weight": 0.625, "bias": 0.125,
}  # fmt: skip
DELAYED = ("snntorch_lapicque", "snntorch_alpha", "snntorch_parallel")


def variants() -> Iterator[tuple[str, str, bool]]:
    for name in (n for n in ALL if n.startswith("snntorch")):
        if name in ("snntorch_parallel", "snntorch_delta"):
            yield name, "none", True
            continue
        for reset in ("subtract", "zero", "zero_after"):
            if reset == "zero" and name != "snntorch_leaky":
                continue
            yield name, reset, True
            if name not in DELAYED:
                yield name, reset, False
        yield name, "none", True


def parameters(neuron: Neuron, config: SnnTorchConfig, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    made = []
    for name in neuron.params(config):
        jitter = torch.randint(-8, 9, shape).to(dtype) / 256
        made.append(VALUES[name] + jitter if shape else torch.tensor(VALUES[name], dtype=dtype))
    return made


def run_all(
    kernels: Kernels, neuron: Neuron, config: SnnTorchConfig, tensors: list[Tensor], record: bool
) -> tuple[Result, list[Tensor | None]]:
    """Result and the gradients of everything that has one, under a loss that uses everything."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    states = len(neuron.states(config))
    result = run(
        neuron, kernels, config, leaves[0], leaves[1 : 1 + states], leaves[1 + states :], keep=record, record=record
    )
    generator = torch.Generator().manual_seed(1)
    used = [result.out, *result.last, *result.records, *([] if result.kept is None else [result.kept])]
    loss = torch.stack(
        [(t * torch.randn(t.shape, dtype=t.dtype, generator=generator)).sum().double() for t in used]
    ).sum()
    # R, 1 / (R C) and dt of Lapicque have none
    wanted = leaves[:1] + [t for t in leaves[1:] if neuron.name != "snntorch_lapicque" or t is leaves[1]]
    return result, list(torch.autograd.grad(loss, wanted, allow_unused=True))


def assert_same(got: Result, want: Result) -> None:
    for a, b in zip((got.out, *got.last, *got.records), (want.out, *want.last, *want.records), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def assert_close(got: list[Tensor | None], want: list[Tensor | None], rtol: float) -> None:
    for a, b in zip(got, want, strict=True):
        if a is None or b is None:
            assert not (torch.zeros(()) if a is None else a).any() and not (torch.zeros(()) if b is None else b).any()
            continue
        assert a.shape == b.shape and a.dtype == b.dtype and torch.isfinite(b).all()
        tolerance = 10 * rtol if b.dtype is torch.float32 and b.numel() < want[0].numel() else rtol  # type: ignore[union-attr]
        assert (a - b).abs().max() <= tolerance * max(b.abs().max().item(), 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("variant", list(variants()), ids=str)
def test_every_variant_equals_the_reference(variant: tuple[str, str, bool], dtype: torch.dtype) -> None:
    name, reset, delay = variant
    neuron = ALL[name]
    torch.manual_seed(0)
    # without a delay a reset to zero makes gradients of many steps explode, and their rounding with them
    time, outer, inner = 17 if delay or reset == "subtract" else 4, 3, 37
    for surrogate, shape, record in itertools.product(
        SURROGATES if reset == "subtract" and delay else SURROGATES[:1], [(), (inner,), (outer, inner)], [False, True]
    ):
        config = SnnTorchConfig(reset, delay, False, False, surrogate, time_dim=0)
        x = torch.randn(time, outer, inner, dtype=dtype)
        first = [(torch.randn(outer, inner) * 0.3).to(dtype) for _ in neuron.states(config)]
        tensors = [x, *first, *parameters(neuron, config, shape, dtype)]
        want = run_all(reference.BACKEND, neuron, config, tensors, record)
        for isa in _C.isas() if dtype is torch.float32 and shape == () and not record else _C.isas()[-1:]:
            _C.set_isa(isa)
            try:
                got = run_all(cpu.BACKEND, neuron, config, tensors, record)
            finally:
                _C.set_isa(_C.isas()[-1])
            assert_same(got[0], want[0])
            # graded spikes of an fp64 neuron stay fp32, and with them their gradient
            exact = 1e-10 if name == "snntorch_delta" else 1e-6
            assert_close(got[1], want[1], 1e-5 if dtype is torch.float32 else exact)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("variant", [v for v in variants() if v[2] and v[0] != "snntorch_lapicque"], ids=str)
def test_prepared_steps_equal_the_reference(variant: tuple[str, str, bool], learned: bool) -> None:
    name, reset, delay = variant
    neuron = ALL[name]
    torch.manual_seed(0)
    for shape, size in itertools.product([(3, 37), (5,), (2, 3, 4, 5), (1, 600)], ["scalar", "neuron"]):
        config = SnnTorchConfig(reset, delay, False, False, SURROGATES[0], time_dim=STEP)
        inner = shape[1:] if len(shape) > 1 else shape
        params = parameters(neuron, config, () if size == "scalar" else inner, torch.float32)
        x = torch.randn(shape)
        first = [torch.randn(shape) * 0.5 for _ in neuron.states(config)]
        prepared = cpu.BACKEND.prepare(neuron, config, x, params)
        assert prepared is not None
        seen = []
        for isa in (None, *_C.isas()):
            leaves = [t.clone().requires_grad_() for t in (x, *first)]
            own = [p.clone().requires_grad_(learned) for p in params]
            if isa is None:
                result = run(neuron, reference.BACKEND, config, leaves[0], leaves[1:], own)
                out = [result.out, *result.last]
            else:
                _C.set_isa(isa)
                out = list(run_step(prepared, leaves[0], leaves[1:], own))
            loss = sum(
                ((i + 1) * o * torch.linspace(-1, 1, o.numel()).reshape(o.shape)).sum() for i, o in enumerate(out)
            )
            grads = torch.autograd.grad(loss, [*leaves, *(own if learned else [])], allow_unused=True)
            seen.append((out, list(grads)))
        want = seen[0]
        for got in seen[1:]:
            assert all(torch.equal(a, b) for a, b in zip(got[0], want[0], strict=True))
            assert_close(got[1], want[1], 1e-5)
