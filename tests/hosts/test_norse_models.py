"""Converted Norse models as Norse's users have them: containers, hooks, copies, odd inputs, compiled, exported."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import norse.torch as nt
import pytest
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import norse as host
from plugin_accel.hosts.sequences import Refused


def network() -> nt.SequentialState:
    torch.manual_seed(0)
    return nt.SequentialState(
        nt.Lift(nn.Conv2d(1, 4, 3)),
        nt.LIF(),
        nn.Flatten(2),
        nn.Linear(4 * 6 * 6, 8),
        nt.LIFRecurrent(8, 6),
        nn.Identity(),
        nt.LI(),
    )


def stepwise() -> nt.SequentialState:
    torch.manual_seed(0)
    return nt.SequentialState(nn.Linear(6, 8), nt.LIFCell(), nn.Linear(8, 3), nt.LICell())


X = torch.rand(7, 2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 20


def trained(model: nn.Module, run: Callable[[nn.Module], Tensor]) -> tuple[Tensor, list[Tensor]]:
    out = run(model)
    out.pow(2).sum().backward()
    return out, [p.grad for p in model.parameters()]


def assert_same(make: Callable[[], nn.Module], run: Callable[[nn.Module], Tensor], exact: bool = True) -> nn.Module:
    want, grads = trained(make(), run)
    model = plugin_accel.convert(make(), strict=True)
    got, ours = trained(model, run)
    assert all(host.last_fallback(m) is None for m in model.modules())
    assert torch.equal(got, want) if exact else torch.allclose(got, want, rtol=1e-4, atol=1e-5)
    for a, b in zip(ours, grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    return model


def test_sequential_state_over_sequences() -> None:
    model = assert_same(network, lambda m: m(X)[0], exact=False)
    assert [row.status for row in plugin_accel.report(model).rows] == ["accelerated"] * 3
    assert [type(m).__name__ for m in model] == ["Lift", "LIF", "Flatten", "Linear", "LIFRecurrent", "Identity", "LI"]


def unrolled(model: nn.Module) -> Tensor:
    state, out = None, []
    for x in X[:, :, 0, 0, :6].unbind(0):
        y, state = model(x, state)
        out.append(y)
    return torch.stack(out)


def test_sequential_state_of_cells() -> None:
    assert_same(stepwise, unrolled)


def test_regularisation_counts_the_same() -> None:
    def total(fast: bool) -> Tensor:
        cell, regular, state = nt.LIFCell(), nt.RegularizationCell(), None
        if fast:
            plugin_accel.convert(cell, strict=True)
        for x in X[:, :, 0, 0].unbind(0):
            z, state = cell(x * 3, state)
            _, term = regular(z, state)
        return term

    assert total(True).item() == total(False).item() > 0


def test_lift_of_a_cell() -> None:
    assert_same(
        lambda: nt.SequentialState(nn.Linear(8, 5), nt.Lift(nt.LIFCell())),
        lambda m: m(torch.ones(4, 2, 8))[0][0] * next(m.parameters()).sum(),
    )


def test_state_hooks_see_what_they_saw() -> None:
    seen: dict[bool, list[Any]] = {}
    for fast in (False, True):
        torch.manual_seed(0)
        model = nt.SequentialState(nn.Linear(6, 5), nt.LIF())
        model.register_forward_state_hooks(lambda _, __, out, fast=fast: seen.setdefault(fast, []).append(out))
        if fast:
            plugin_accel.convert(model)
        model(X[:, :, 0, 0, :6])
    (want,), (got,) = seen[False], seen[True]
    assert torch.equal(got[0], want[0]) and torch.equal(got[1].v, want[1].v) and type(got[1]) is type(want[1])


def test_copies_and_pickles() -> None:
    model = plugin_accel.convert(network(), strict=True)
    twin = copy.deepcopy(model)
    assert torch.equal(model(X)[0], twin(X)[0])
    assert twin[1].state_fallback.__self__ is twin[1]
    layer = plugin_accel.convert(nt.LSNN(), strict=True)  # Norse's LIFParameters cannot be pickled
    again = pickle.loads(pickle.dumps(layer))
    assert type(again) is host.LSNN
    assert torch.equal(again(torch.ones(3, 2))[0], layer(torch.ones(3, 2))[0])


def test_restored_models_are_norses_own() -> None:
    model = plugin_accel.restore(plugin_accel.convert(network(), strict=True))
    assert [type(m) for m in model] == [type(m) for m in network()]
    assert str(model[1]) == str(nt.LIF())


@pytest.mark.filterwarnings("ignore:nirtorch:DeprecationWarning")
def test_nir_after_restore() -> None:
    def make() -> nt.SequentialState:
        torch.manual_seed(0)
        return nt.SequentialState(nn.Linear(4, 3), nt.LIFBoxCell())

    x = torch.rand(1, 4)
    want = nt.to_nir(make(), x)
    model = plugin_accel.restore(plugin_accel.convert(make(), strict=True))
    got = nt.to_nir(model, x)
    assert got.nodes.keys() == want.nodes.keys() and got.edges == want.edges


@pytest.mark.parametrize("x", [torch.ones(5, 3, dtype=torch.bool), (torch.ones(5, 3) * 2).bfloat16()])
def test_inputs_of_fewer_bits(x: Tensor) -> None:
    for name in ("LIF", "LIFCell"):
        a, b = getattr(nt, name)(), plugin_accel.convert(getattr(nt, name)())
        want, got = a(x), b(x)
        assert host.last_fallback(b) is None
        assert got[0].dtype == want[0].dtype is torch.float32
        assert torch.equal(got[0], want[0]) and torch.equal(got[1].v, want[1].v)


def test_double() -> None:
    x = torch.randn(9, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    for name in ("LIF", "LI", "IAF", "LSNN"):
        given = (nt.IAFParameters(v_reset=torch.zeros(())),) if name == "IAF" else ()
        a, b = getattr(nt, name)(*given), plugin_accel.convert(getattr(nt, name)(*given))
        xa, xb = x.clone().requires_grad_(), x.clone().requires_grad_()
        (want, _), (got, _) = a(xa), b(xb)
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        w = torch.randn_like(want)
        (want * w).sum().backward()
        (got * w).sum().backward()
        torch.testing.assert_close(xb.grad, xa.grad, rtol=1e-10, atol=1e-10)


def own_activation() -> Any:
    layer = nt.LIF()
    inner = layer.activation

    def mine(*args: Any) -> Any:
        return inner(*args)

    layer.activation = mine
    return layer


REFUSED: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "sparse input": (nt.LIF, lambda: torch.eye(4).expand(3, 4, 4).to_sparse(), "sparse"),
    "one number per step": (nt.LIF, lambda: torch.ones(4), "one number per step"),
    "states of another dtype": (
        nt.LIFBoxCell,
        lambda: torch.ones(2, 3).bfloat16(),
        "bfloat16",
    ),
    "own activation": (own_activation, lambda: torch.ones(3, 2, 4), "activation is mine"),
    "own reset": (
        lambda: nt.LIFBoxCell(nt.LIFBoxParameters(reset_method=lambda z, v, reset, th: v)),
        lambda: torch.ones(2, 4),
        "reset_method",
    ),
    "widening parameter": (
        lambda: nt.LIF(nt.LIFParameters(tau_mem_inv=torch.full((4,), 100.0, dtype=torch.float64))),
        lambda: torch.ones(3, 2, 4),
        "widens",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_rest_is_norses_own_forward(case: str) -> None:
    make, draw, why = REFUSED[case]
    a, b = make(), plugin_accel.convert(make())
    want, got = a(draw()), b(draw())
    assert why in str(host.last_fallback(b))
    assert got[0].dtype == want[0].dtype
    assert torch.equal(got[0].to_dense(), want[0].to_dense())


@pytest.mark.parametrize("make", [lambda: nt.LIFCorrelation(3, 4)])
def test_what_has_no_kernel_says_why(make: Callable[[], Any]) -> None:
    (row,) = plugin_accel.report(nn.Sequential(make())).rows
    assert row.status == "host" and any(type(make()).__name__[:9] in reason for reason in row.reasons)


def test_errors_are_norses() -> None:
    layer = plugin_accel.convert(nt.LIF())
    with pytest.raises(RuntimeError, match="non-empty"):
        layer(torch.ones(0, 2, 3))
    with pytest.raises(AttributeError):
        layer(torch.ones(2, 2, 3), (torch.ones(2, 3), torch.ones(2, 3)))


def test_steepness_per_neuron() -> None:
    def make() -> Any:
        return nt.LIF(nt.LIFParameters(method="tanh", alpha=torch.tensor([0.5, 1.0, 2.0])))

    x = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0)) * 8
    a, b = make(), plugin_accel.convert(make(), strict=True)
    xa, xb = x.clone().requires_grad_(), x.clone().requires_grad_()
    a(xa)[0].sum().backward()
    b(xb)[0].sum().backward()
    assert host.last_fallback(b) is None
    torch.testing.assert_close(xb.grad, xa.grad, rtol=1e-5, atol=1e-6)


def test_spikes_of_heaviside_have_no_gradient() -> None:
    layer = plugin_accel.convert(nt.LIF(nt.LIFParameters(method="heaviside")), strict=True)
    out, state = layer(torch.ones(3, 2, 4, requires_grad=True))
    assert not out.requires_grad and state.v.requires_grad
    assert host.last_fallback(layer) is None


def test_parameters_changed_in_place_count() -> None:
    def run(fast: bool) -> list[Tensor]:
        p = nt.LIFParameters(v_th=torch.tensor(0.4), tau_mem_inv=torch.tensor(100.0))
        cell = nt.LIFCell(p)
        if fast:
            plugin_accel.convert(cell, strict=True)
        x, state, seen = torch.full((2, 3), 3.0), None, []
        for k in range(6):
            z, state = cell(x, state)
            seen += [z, *state]
            if k == 3:
                p.v_th.data.fill_(0.1)
                p.tau_mem_inv.data.fill_(200.0)
        return seen

    assert all(torch.equal(a, b) for a, b in zip(run(True), run(False), strict=True))


@pytest.mark.parametrize("name", ["LICell", "LIBoxCell"])
def test_large_steps_of_leaky_integrators(name: str) -> None:
    x = torch.randn(3, 2, 9000, generator=torch.Generator().manual_seed(0))
    seen = []
    for fast in (False, True):
        cell, state, leaf, out = getattr(nt, name)(), None, x.clone().requires_grad_(), []
        if fast:
            plugin_accel.convert(cell, strict=True)
        for x_t in leaf.unbind(0):
            v, state = cell(x_t, state)
            out.append(v)
        torch.stack(out).pow(2).sum().backward()
        seen.append((torch.stack(out).detach(), *(s.detach() for s in state), leaf.grad))
        assert host.last_fallback(cell) is None
    *same, (want, got) = zip(*seen, strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_sequences_of_other_layers_are_refused() -> None:
    layer = plugin_accel.convert(nt.LIF(), strict=True)
    with pytest.raises(Refused, match="no kernel for sequences"):
        host.sequence(layer, torch.ones(2, 3), (None,), record=(False,))
