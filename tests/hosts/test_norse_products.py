"""Norse's cells with products of their own against Norse: random parameters, dtypes, carried calls, gradients."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import norse.torch as nt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from norse.torch.functional.coba_lif import CobaLIFState, default_bio_parameters
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import norse as host
from plugin_accel.hosts import norse_call

LENIENT = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
IN = 4
METHODS = {"super": 100.0, "triangle": 0.25, "tanh": 1.5, "circ": 0.75, "heavi_erfc": 0.875}
PARAMETERS = {
    "LILinearCell": nt.LIParameters,
    "LIFMCRecurrentCell": nt.LIFParameters,
    "LIFMCRefracRecurrentCell": nt.LIFParameters,
    "CobaLIFCell": nt.CobaLIFParameters,
}


@dataclass
class Case:
    name: str
    fields: dict[str, Any]
    rho_reset: float
    batch: int
    neurons: int
    steps: int
    dt: float
    own: bool
    autapses: bool
    dtype: torch.dtype
    seed: int


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> Case:
    name = draw(st.sampled_from(list(PARAMETERS)))
    neurons = draw(st.sampled_from([1, 5, 17]))
    fields: dict[str, Any] = {}
    for field, default in PARAMETERS[name]._field_defaults.items():
        if field in ("method", "alpha"):
            continue
        whole = field in ("v_leak", "v_th", "v_reset", "v_thresh", "v_rest")  # Norse makes full tensors of one value
        kinds = ["tensor", "parameter"] if whole else ["tensor", "parameter", "neuron", "neuron parameter"]
        kinds += [] if name.startswith(("LIFMCRefrac", "LI")) and dtype is torch.float64 else ["default", "default"]
        kind = draw(st.sampled_from(kinds))
        if kind == "default":
            continue
        g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        size = (neurons,) if "neuron" in kind else ()
        value = (float(default) * (0.8 + 0.4 * torch.rand(size, generator=g)) + 0.01).to(dtype)
        fields[field] = nn.Parameter(value) if "parameter" in kind else value
    if name in ("LIFMCRecurrentCell", "CobaLIFCell"):
        exact = dtype is torch.float32  # Norse has a constant of "heavi_erfc" in fp32 always
        method = draw(st.sampled_from(list(METHODS) if exact else list(METHODS)[:-1]))
        scale = 1 / 128 if name == "CobaLIFCell" else 1.0  # whose membranes are tens of units from the threshold
        fields |= {"method": method, "alpha": torch.tensor(METHODS[method] * scale)}
    return Case(
        name,
        fields,
        draw(st.sampled_from([1.0, 3.0])),
        draw(st.sampled_from([1, 3])),
        neurons,
        draw(st.integers(1, 6)),
        draw(st.sampled_from([0.001, 0.002])) if name != "CobaLIFCell" else draw(st.sampled_from([0.01, 0.1])),
        draw(st.booleans()),
        draw(st.booleans()),
        dtype,
        draw(st.integers(0, 2**31)),
    )


def build(case: Case) -> tuple[Any, list[Tensor]]:
    fields = {k: copy.deepcopy(v) for k, v in case.fields.items()}
    leaf: list[Tensor] = [v for v in fields.values() if isinstance(v, nn.Parameter)]
    p = PARAMETERS[case.name](**fields)
    options: dict[str, Any] = {"dt": case.dt}
    if case.name.startswith("LIFMCRefrac"):
        leaf.append(nn.Parameter(torch.tensor(case.rho_reset, dtype=case.dtype)))
        p = nt.LIFRefracParameters(p, leaf[-1])
    torch.manual_seed(case.seed)
    if case.name.startswith("LIFMC"):
        options["autapses"] = case.autapses
    layer = getattr(nt, case.name)(IN, case.neurons, p, **options).to(case.dtype)
    return layer, [*layer.parameters(), *leaf]


def started(case: Case, draw: Any) -> Any:
    def value(low: float = 0.0, scale: float = 0.5) -> Tensor:
        drawn: Tensor = (draw(case.batch, case.neurons) * scale + low).to(case.dtype).requires_grad_()
        return drawn

    def fired() -> Tensor:
        return (value() > 0).to(case.dtype).requires_grad_()

    if case.name == "LILinearCell":
        return nt.LIState(value(), value())
    if case.name == "CobaLIFCell":
        return CobaLIFState(fired(), value(-10.0, 10.0), value(0.5, 0.3), value(0.5, 0.3))
    lif = nt.LIFState(fired(), value(0.7), value(0.5))
    return lif if case.name == "LIFMCRecurrentCell" else nt.LIFRefracState(lif, value(1.0, 1.5).round().detach())


def leaves(state: Any) -> list[Tensor]:
    return [t for v in state for t in (leaves(v) if isinstance(v, tuple) else [v])]


def play(case: Case, fast: bool) -> dict[str, Any]:
    layer, trained = build(case)
    if fast:
        plugin_accel.convert(layer, strict=True)
    generator = torch.Generator().manual_seed(case.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    state = None if case.own else started(case, draw)
    wanted = [*trained, *([] if state is None else [t for t in leaves(state) if t.requires_grad])]
    x = ((draw(case.steps, case.batch, IN) * 2).to(case.dtype)).requires_grad_()
    wanted.append(x)
    every: list[Tensor] = []
    with patch.object(norse_call, "FEW", 0):  # else small steps of LILinearCell are Norse's
        for x_t in x.unbind(0):
            out, state = layer(x_t, state)
            every += [out, *leaves(state)]
    loss = sum((t.double() * draw(*t.shape)).sum() for t in every)
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    return {"values": every, "state": state, "grads": grads, "fallback": host.last_fallback(layer)}


def assert_parity(case: Case) -> None:
    want, got = play(case, False), play(case, True)
    assert got["fallback"] is None
    assert type(got["state"]) is type(want["state"])
    for a, b in zip(got["values"], want["values"], strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert torch.equal(a, b)
    rtol = 1e-5 if case.dtype is torch.float32 else 1e-10
    for a, b in zip(got["grads"], want["grads"], strict=True):
        if a is None or b is None:  # what has no gradient in Norse is given none
            assert all(g is None or not g.any() for g in (a, b))
            continue
        assert a.dtype == b.dtype and a.shape == b.shape
        rough = 10 * rtol if b.numel() < case.batch * case.neurons else rtol  # sums show roundings of their own
        assert (a - b).abs().max() <= rough * max(b.abs().max().item(), 1.0)


@settings(LENIENT, max_examples=150)
@given(cases())
def test_cells_equal_norse(case: Case) -> None:
    assert_parity(case)


@settings(LENIENT, max_examples=40)
@given(cases(torch.float64))
def test_double(case: Case) -> None:
    assert_parity(case)


@settings(LENIENT, max_examples=25)
@given(cases())
def test_reference_backend(case: Case) -> None:
    with plugin_accel.use_backend("reference"):
        assert_parity(case)


def test_numbers_as_parameters() -> None:
    for make in (
        lambda: nt.CobaLIFCell(IN, 5, default_bio_parameters, dt=0.05),
        lambda: nt.LIFMCRecurrentCell(IN, 5, nt.LIFParameters(tau_syn_inv=150.0, v_th=torch.tensor(0.5))),
    ):
        torch.manual_seed(0)
        a: Any = make()  # type: ignore[no-untyped-call]
        b: Any = plugin_accel.convert(copy.deepcopy(a), strict=True)
        states: list[Any] = [None, None]
        for x in torch.rand(8, 3, IN) * 20:
            states = [layer(x, state)[1] for layer, state in zip((a, b), states, strict=True)]
            assert all(torch.equal(s, t) for s, t in zip(leaves(states[1]), leaves(states[0]), strict=True))
        assert host.last_fallback(b) is None


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "sparse": (lambda: nt.LILinearCell(4, 3), lambda: torch.eye(4).to_sparse(), "sparse"),
    "sixteen bits": (lambda: nt.LILinearCell(4, 3).bfloat16(), lambda: torch.ones(2, 4).bfloat16(), "bfloat16"),
    "rates": (
        lambda: nt.LIFMCRefracRecurrentCell(4, 3, nt.LIFRefracParameters(nt.LIFParameters(tau_mem_inv=90.0))),
        lambda: torch.ones(2, 4),
        "round otherwise",
    ),
    "method of the refractory period": (
        lambda: nt.LIFMCRefracRecurrentCell(4, 3, nt.LIFRefracParameters(nt.LIFParameters(method="tanh"))),
        lambda: torch.ones(2, 4),
        "refractory",
    ),
    "coupling": (lambda: nt.LIFMCRecurrentCell(4, 3).double(), lambda: torch.ones(2, 4).double().to_sparse(), "sparse"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_rest_is_norses_own_forward(case: str) -> None:
    make, draw, why = REFUSED[case]
    torch.manual_seed(0)
    a = make()
    b = plugin_accel.convert(copy.deepcopy(a))
    with patch.object(norse_call, "FEW", 0):
        want, got = a(draw()), b(draw())
    assert why in str(host.last_fallback(b))
    assert torch.equal(got[0].to_dense(), want[0].to_dense())


@pytest.mark.parametrize("name", PARAMETERS)
def test_errors_are_norses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norse_call, "FEW", 0)
    layers = [getattr(nt, name)(IN, 5), plugin_accel.convert(getattr(nt, name)(IN, 5), strict=True)]
    for bad in (torch.ones(3, IN + 1), torch.ones(3, IN, dtype=torch.float64)):
        seen = []
        for layer in layers:
            with pytest.raises(RuntimeError) as raised:
                layer(bad)
            seen.append(str(raised.value))
        assert seen[0] == seen[1]
    for layer in layers:
        with pytest.raises((AttributeError, TypeError)):
            layer(torch.ones(3, IN), (torch.ones(3, 5), torch.ones(3, 5)))


@pytest.mark.one_graph
@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_compiled_with_explicit_states(name: str) -> None:
    torch.manual_seed(0)
    case = Case(name, {}, 2.0, 3, 5, 1, 0.01, False, False, torch.float32, 7)
    layer = plugin_accel.convert(build(case)[0], strict=True)
    generator = torch.Generator().manual_seed(1)
    state = started(case, lambda *shape: torch.randn(shape, generator=generator))
    x = torch.randn(3, IN, generator=generator)
    want, after = layer(x, state)
    with patch.object(norse_call, "FEW", 0):
        got, ours = torch.compile(layer, backend="aot_eager", fullgraph=True)(x, state)
    torch.testing.assert_close(got, want)
    for a, b in zip(leaves(ours), leaves(after), strict=True):
        torch.testing.assert_close(a, b)
