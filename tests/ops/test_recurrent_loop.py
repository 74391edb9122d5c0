"""The recurrent loop of the `cpu` backend: against steps in Python, and against itself with other products."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from plugin_accel import _C
from plugin_accel.backends.cpu import BACKEND
from plugin_accel.neurons import (
    NORSE_LIF,
    NORSE_LSNN,
    SINABS_LIF,
    SNNTORCH_LEAKY,
    Config,
    Neuron,
    NorseConfig,
    SinabsConfig,
    SnnTorchConfig,
)
from plugin_accel.neurons.recurrent import KernelStep, run_recurrent
from plugin_accel.neurons.recurrent_loop import Connection, Loop, Run, run_loop
from plugin_accel.surrogates import Surrogate

LENIENT = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
SOFT = Surrogate("fast_sigmoid", (10.0, 1.0))
SNN = {"recurrent": True, "surrogate": SOFT, "time_dim": -1}
NEURONS: dict[str, tuple[Neuron, Config, tuple[float, ...]]] = {
    "norse_lif": (NORSE_LIF, NorseConfig("lif_detached", True, SOFT, -1), (0.3, -0.2, 0.0, 0.5, 0.1)),
    "norse_lif_ex": (NORSE_LIF, NorseConfig("lif_ex", True, SOFT, -1), (0.3, -0.2, 0.0, 0.5, 0.1, 0.5)),
    "norse_lsnn": (NORSE_LSNN, NorseConfig("lsnn_detached", True, SOFT, -1), (0.3, -0.2, 0.1, 0.0, 0.5, 0.1, 0.6)),
    "snntorch_leaky": (SNNTORCH_LEAKY, SnnTorchConfig("subtract", **SNN), (0.8, 0.5, 1.0)),
    "snntorch_zero": (SNNTORCH_LEAKY, SnnTorchConfig("zero_after", False, **SNN), (0.8, 0.5, 1.0)),
    "sinabs_lif": (
        SINABS_LIF,
        SinabsConfig(True, "multi", "subtract_threshold", True, math.inf, SOFT, -1),
        (0.8, 1.0, 0.6, 0.5, -0.3),
    ),
}


@contextmanager
def dense_above(share: float) -> Iterator[None]:
    """Products are dense where a larger share of units is active."""
    before = _C.recurrent_dense_above()
    _C.set_recurrent_dense_above(share, share)
    try:
        yield
    finally:
        _C.set_recurrent_dense_above(*before)


class Case:
    """Tensors of one call."""

    def __init__(self, name: str, steps: int, samples: int, units: int, mean: float, learned: str, seed: int) -> None:
        self.neuron, self.config, values = NEURONS[name]
        g = torch.Generator().manual_seed(seed)
        own = [torch.tensor(v) for v in values]
        if learned == "units":
            own = [p * (1 + 0.1 * torch.rand(units, generator=g)) for p in own]
        self.params = [p.requires_grad_(learned != "none") for p in own]
        if name == "snntorch_leaky" and learned == "none":
            self.params[0] = self.params[0].expand(samples, units).clone()  # one per neuron of each sample
        self.x = (torch.randn(steps, samples, units, generator=g) + mean).requires_grad_()
        self.weight = (torch.randn(units, units, generator=g) / units**0.5).requires_grad_()
        self.bias = torch.randn(units, generator=g).mul(0.1).requires_grad_() if "torch" in name else None
        spikes = (torch.rand(samples, units, generator=g) < 0.3).float().requires_grad_()
        self.spikes = None if name.startswith("sinabs") else spikes
        count = len(self.neuron.states(self.config))
        self.first = [torch.randn(samples, units, generator=g).mul(0.3).requires_grad_() for _ in range(count)]
        self.seed = seed

    def connection(self) -> Connection:
        return Connection(self.weight, self.bias, self.spikes)

    def loop(self, record: bool = True, by_sample: bool = False) -> Run:
        """Runs it, time first or second in memory."""
        call = Loop(self.neuron, BACKEND, self.config, int(by_sample), record, record, len(self.first), ())
        x = self.x.transpose(0, 1).contiguous() if by_sample else self.x
        made = run_loop(call, x, self.connection(), self.first, self.params)
        if not by_sample:
            return made
        kept = None if made.kept is None else made.kept.transpose(0, 1)
        return made._replace(out=made.out.transpose(0, 1), kept=kept)

    def gradients(self, made: Sequence[Tensor]) -> list[Tensor]:
        g = torch.Generator().manual_seed(self.seed)
        loss = sum((t * torch.randn(t.shape, generator=g)).sum() for t in made)
        leaves = [self.x, *self.first, *[t for t in (*self.connection(), *self.params) if t is not None]]
        leaves = [t for t in leaves if t.requires_grad]
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        return [torch.zeros_like(t) if f is None else f for t, f in zip(leaves, found, strict=True)]


def everything(case: Case, **how: Any) -> list[Tensor]:
    made = case.loop(**how)
    seen = [made.out, *made.last, *made.records, *([] if made.kept is None else [made.kept])]
    return [*seen, *case.gradients(seen)]


@st.composite
def cases(draw: st.DrawFn, names: Sequence[str] = tuple(NEURONS)) -> Case:
    return Case(
        draw(st.sampled_from(list(names))),
        draw(st.integers(1, 20)),
        draw(st.sampled_from([1, 2, 3, 5, 8, 13])),
        draw(st.sampled_from([1, 3, 16, 31, 64, 100, 129])),
        draw(st.sampled_from([-9.0, -0.5, 0.3, 1.0, 9.0])),  # from silence to every neuron at every step
        draw(st.sampled_from(["none", "one", "units"])),
        draw(st.integers(0, 99)),
    )


@settings(LENIENT, max_examples=40)
@given(cases(), st.booleans())
def test_a_gathered_product_is_the_dense_one(case: Case, by_sample: bool) -> None:
    with dense_above(-1.0):
        dense = everything(case, by_sample=by_sample)
    with dense_above(2.0):
        gathered = everything(case, by_sample=by_sample)
    assert all(torch.equal(a, b) for a, b in zip(dense, gathered, strict=True))


@settings(LENIENT, max_examples=40)
@example(Case("snntorch_zero", 30, 13, 129, 0.3, "units", 1))
@given(cases())
def test_layout_and_threads_change_no_bit(case: Case) -> None:
    threads = torch.get_num_threads()
    wanted = everything(case)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for by_sample in (False, True):
                got = everything(case, by_sample=by_sample)
                assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))
    finally:
        torch.set_num_threads(threads)


@settings(LENIENT, max_examples=60)
@given(cases(tuple(n for n in NEURONS if n.startswith("norse"))))
def test_the_loop_equals_steps_in_python(case: Case) -> None:
    made = case.loop()
    seen = [made.out, *made.last, *made.records]
    assert case.spikes is not None
    step = KernelStep(BACKEND, case.neuron, case.config, case.params)
    inputs = case.x, case.weight, case.spikes, case.first, case.params
    plain = run_recurrent(case.neuron, case.config, step, *inputs, record=True)
    wanted = [plain.out, *plain.last, *plain.records]
    assert torch.equal(made.out, plain.out)
    pairs = [*zip(seen, wanted, strict=True), *zip(case.gradients(seen), case.gradients(wanted), strict=True)]
    for a, b in pairs:
        assert a.shape == b.shape
        # gradients of parameters are sums over samples and steps, taken in double here
        tolerance = 1e-5 if a.numel() >= made.out[0].numel() else 1e-4
        assert (a - b).abs().max() <= tolerance * max(b.abs().max().item(), 1e-2)


@pytest.mark.parametrize("isa", _C.isas())
def test_every_instruction_set(isa: str) -> None:
    before, wanted = _C.isa(), []
    case = Case("norse_lif", 12, 11, 75, 0.3, "one", 4)
    try:
        for name in (before, isa):
            _C.set_isa(name)
            wanted.append(everything(case))
    finally:
        _C.set_isa(before)
    assert torch.equal(wanted[0][0], wanted[1][0])
    for a, b in zip(*wanted, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(b.abs().max().item(), 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_reach_whom_they_do_in_a_product(value: float) -> None:
    case = Case("norse_lif", 3, 2, 20, 0.3, "none", 0)
    with torch.no_grad():
        case.weight[7, 3] = value
        assert case.spikes is not None
        case.spikes.zero_()
        made = case.loop()
    assert made.kept is not None
    heard = torch.mm(case.spikes, case.weight.t())
    assert torch.equal(made.kept[0].isnan(), heard.detach().isnan())
    assert made.kept[0].isnan().any()


def test_gradients_that_are_not_finite_spread_as_in_a_product() -> None:
    case = Case("norse_lif", 3, 2, 20, 0.3, "none", 0)
    out = case.loop(record=False).out
    g = torch.zeros_like(out)
    g[2, 1, 5] = math.nan
    (g_weight,) = torch.autograd.grad(out, case.weight, g)
    assert g_weight[5].isnan().all()


def test_only_what_backward_reads_is_saved() -> None:
    case = Case("norse_lif", 50, 4, 64, 0.3, "none", 0)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        case.loop(record=False)
    assert sum(t.numel() for t in saved) == 2 * case.x.numel() + case.weight.numel() + 4 * 64  # and the spikes before


def test_what_comes_out_may_be_changed_in_place() -> None:
    case = Case("snntorch_leaky", 5, 2, 8, 0.3, "one", 0)
    wanted = case.gradients([case.loop(record=False).out * 2])
    out = case.loop(record=False).out
    out *= 2
    with torch.no_grad():
        assert case.bias is not None
        case.bias += 1
        case.params[0] += 1
    assert all(torch.equal(a, b) for a, b in zip(case.gradients([out]), wanted, strict=True))


def test_a_second_derivative_is_refused() -> None:
    case = Case("norse_lif", 3, 2, 8, 0.3, "none", 0)
    out = case.loop(record=False).out
    (g,) = torch.autograd.grad(out.square().sum(), case.x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()
