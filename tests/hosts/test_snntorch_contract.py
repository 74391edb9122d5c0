"""What users of snnTorch rely on beside the numbers: quirks, resets, detaching, probes, conversion, fallbacks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
from snntorch import functional, surrogate, utils
from snntorch.functional import probe
from torch import nn

import plugin_accel
from plugin_accel.hosts import snntorch as host

L = snn.Leaky


@pytest.fixture(params=[False, True], ids=["snntorch", "converted"])
def made(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Each quirk is stated once and holds for snnTorch itself and for what it becomes."""

    def make(layer: Any) -> Any:
        if not request.param:
            return layer
        return plugin_accel.convert(layer, strict=True)

    return make


def roll(layer: Any, xs: list[float], mem: float = 0.0) -> list[tuple[int, float]]:
    m = torch.tensor([mem])
    out = []
    for v in xs:
        s, m = layer(torch.tensor([v]), m)
        out.append((int(s), round(m.item(), 3)))
    return out


def test_reset_delay(made: Any) -> None:
    assert roll(made(L(0.5)), [2.6, 0, 0]) == [(1, 2.6), (0, 0.3), (0, 0.15)]
    assert roll(made(L(0.5, reset_delay=False)), [2.6, 0, 0]) == [(1, 1.6), (0, 0.8), (0, 0.4)]
    assert roll(made(L(0.5, reset_delay=False)), [0, 0], 3.4) == [(0, 1.7), (0, 0.85)], "the reset is undone"


def test_states_continue_or_are_zeroed(made: Any) -> None:
    layer, x = made(L(0.9)), torch.full((2, 3), 0.4)
    assert [round(layer(x)[1][0, 0].item(), 3) for _ in range(2)] == [0.4, 0.76]
    given = [layer(x, torch.full(s, 0.5))[1][0, 0].item() for s in [(), (3,), (1, 3), (2, 3)]]
    assert [round(g, 3) for g in given] == [0.4, 0.4, 0.4, 0.85]


def test_decay_of_each_neuron_is_clamped(made: Any) -> None:
    layer = made(L(torch.tensor([1.5, -0.5, 0.5]), learn_beta=True))
    mem = layer(torch.zeros(2, 3), torch.ones(2, 3))[1]
    mem.sum().backward()
    assert mem[0].tolist() == [1, 0, 0.5]
    assert layer.beta.grad.tolist() == [0, 0, 2]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2, 1), (3,), (1, 1, 1), (4, 1, 1)])
@pytest.mark.parametrize("name", ["beta", "threshold", "graded_spikes_factor"])
def test_parameters_of_any_shape_give_the_shapes_of_snntorch(name: str, shape: tuple[int, ...]) -> None:
    """One value with more dimensions than the input enlarges spikes and states."""

    def run(layer: Any) -> list[torch.Tensor]:
        mem, out = torch.zeros(2, 3), []
        for _ in range(3):
            spk, mem = layer(torch.full((2, 3), 0.9), mem)
            out += [spk, mem]
        return out

    def make() -> Any:
        return L(**{"beta": 0.5, name: torch.full(shape, 0.8)})

    for expected, got in zip(run(make()), run(plugin_accel.convert(make(), strict=True)), strict=True):
        assert torch.equal(expected, got)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("name", ["Leaky", "Synaptic"])
def test_parameters_without_a_part_in_the_loss_get_no_gradient(name: str, reset: str, delay: bool, steps: int) -> None:
    """Zeros would let an optimizer's weight decay change what snnTorch leaves alone."""
    options: dict[str, Any] = {"reset_mechanism": reset, "reset_delay": delay, "learn_threshold": True, "beta": 0.5}
    options |= {"alpha": 0.9, "learn_alpha": True} if name == "Synaptic" else {"learn_graded_spikes_factor": True}

    def gradients(layer: Any, position: int) -> dict[str, torch.Tensor | None]:
        states: tuple[Any, ...] = ()
        loss = torch.zeros(())
        for _ in range(steps):
            result = layer(torch.full((2, 3), 0.9, requires_grad=True), *states)
            states = result[1:]
            loss = loss + result[position].sum()
        loss.backward()
        return {key: p.grad for key, p in layer.named_parameters()}

    for position in (0, -1):
        expected = gradients(getattr(snn, name)(**options), position)
        got = gradients(plugin_accel.convert(getattr(snn, name)(**options), strict=True), position)
        assert {k for k, g in expected.items() if g is None} == {k for k, g in got.items() if g is None}
        for key, g in expected.items():
            if g is not None:
                torch.testing.assert_close(got[key], g, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("delay", "which", "expected"), [(True, 1, -1.0), (True, 0, -0.818), (False, 1, -0.182)])
def test_thresholds_learn(made: Any, delay: bool, which: int, expected: float) -> None:
    layer = made(L(0.5, learn_threshold=True, reset_delay=delay))
    mem = torch.tensor([1.5] if which and delay else [0.0])
    layer(torch.tensor([1.15]), mem)[which].sum().backward()
    assert layer.threshold.grad.item() == pytest.approx(expected, abs=2e-3)


DTYPES = [
    (torch.bfloat16, "subtract", torch.float32, torch.float32),
    (torch.bfloat16, "none", torch.float32, torch.bfloat16),
    (torch.float16, "zero", torch.float32, torch.float32),
    (torch.float64, "subtract", torch.float32, torch.float64),
]


@pytest.mark.parametrize(("dtype", "reset", "spikes", "membrane"), DTYPES)
def test_dtypes(made: Any, dtype: torch.dtype, reset: str, spikes: torch.dtype, membrane: torch.dtype) -> None:
    layer = made(L(0.9, reset_mechanism=reset))
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    plain, mem, other = L(0.9, reset_mechanism=reset), None, None
    for x_t in x.unbind(0):
        spk, mem = layer(x_t, mem)
        want, other = plain(x_t, other)
        assert (spk.dtype, mem.dtype) == (want.dtype, other.dtype) == (spikes, membrane)
        assert torch.equal(spk, want) and torch.equal(mem, other)
    (gradient,) = torch.autograd.grad(mem.sum(), x)
    assert gradient.dtype == dtype


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("V", [0.4, torch.tensor([0.3, -0.2, 0.5])])
def test_sixteen_bits_with_own_spikes(dtype: torch.dtype, reset: str, V: float | torch.Tensor) -> None:
    def make() -> Any:
        return snn.RLeaky(0.9, all_to_all=False, V=V, reset_mechanism=reset, init_hidden=True, output=True)

    plain, fast = make(), plugin_accel.convert(make())
    x = (torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0)) + 0.5).to(dtype)
    grads = []
    for layer in (plain, fast):
        x_own = x.clone().requires_grad_()
        results = [layer(x_t) for x_t in x_own.unbind(0)]
        sum(mem.float().sum() + 2 * spk.sum() for spk, mem in results).backward()
        grads.append((results, x_own.grad, layer.recurrent.V.grad))
    for (a, b), (c, d) in zip(grads[0][0], grads[1][0], strict=True):
        assert torch.equal(a, c) and torch.equal(b, d) and (a.dtype, b.dtype) == (c.dtype, d.dtype)
    for a, b in zip(grads[0][1:], grads[1][1:], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-2, atol=1e-2)
    assert (host.last_fallback(fast) is None) == (reset != "none")


@pytest.mark.parametrize("low", [False, True])
def test_products_of_sixteen_bits(low: bool) -> None:
    """Under autocast the connection gives 16 bits, and adds a bias even at the first step."""
    torch.manual_seed(0)
    plain = snn.RLeaky(0.9, linear_features=5, init_hidden=True, output=True)
    fast = plugin_accel.convert(copy.deepcopy(plain))
    x = torch.randn(4, 3, 5).to(torch.bfloat16 if low else torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        for x_t in x.unbind(0):
            (a, b), (c, d) = plain(x_t), fast(x_t)
            assert torch.equal(a, c) and torch.equal(b, d) and b.dtype is d.dtype


def test_autocast(made: Any) -> None:
    torch.manual_seed(0)
    fc, layer = nn.Linear(4, 5), made(L(0.9))
    with torch.autocast("cpu", torch.bfloat16):
        mem = None
        for _ in range(3):
            spk, mem = layer(fc(torch.ones(2, 4)), mem)
            assert spk.dtype == mem.dtype == torch.float32


def test_reset_to_zero_keeps_or_drops_the_input(made: Any) -> None:
    x, u = torch.tensor([0.7]), torch.tensor([1.5])
    zero = {"reset_mechanism": "zero"}
    assert made(L(0.5, **zero))(x, u)[1].item() == pytest.approx(0.7)
    assert made(snn.Lapicque(beta=0.5, **zero))(x, u)[1].item() == 0
    assert made(snn.Synaptic(0.5, 0.5, **zero))(x, torch.zeros(1), u)[2].item() == 0


def test_at_the_threshold_nothing_fires(made: Any) -> None:
    assert made(L(1.0))(torch.zeros(1), torch.ones(1))[0].item() == 0


def test_sigmoid_has_no_gradient_far_below(made: Any) -> None:
    x = torch.tensor([-3.0, 0.5]).requires_grad_()
    layer = made(L(0.5, spike_grad=surrogate.sigmoid()))
    layer(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, pytest.approx(9.3e-5, rel=0.1)] if type(layer) is not L else x.grad[0].isnan()


def test_a_loss_on_the_membrane_knows_no_slope(made: Any) -> None:
    layer = made(L(0.5, spike_grad=surrogate.sigmoid(), learn_beta=True))
    u = torch.tensor([-3.0, -7.0]).requires_grad_()
    for mem in (u, u.detach(), u):  # the first calls of a layer go another way than later ones
        layer(torch.zeros(2), mem)[1].sum().backward()
    assert u.grad is not None and u.grad.tolist() == [1.0, 1.0]
    assert layer.beta.grad.item() == -30


def test_the_mechanism_is_bound_at_construction(made: Any) -> None:
    layer = L(0.5)
    layer.reset_mechanism = "none"
    assert roll(made(layer), [2.6, 0]) == [(1, 2.6), (0, 0.3)]


def test_states_may_be_edited_in_place(made: Any) -> None:
    layer = made(L(0.9))
    x = torch.full((3, 2, 4), 0.7, requires_grad=True)
    mem, total = None, torch.zeros(())
    for x_t in x.unbind(0):
        spk, mem = layer(x_t, mem)
        total = total + (spk * torch.arange(4)).sum() + mem.sum()
        mem[:, 1] = 0
        with torch.no_grad():
            mem.mul_(0.5)
    total.backward()
    assert x.grad is not None and x.grad.isfinite().all()
    grads = x.grad.clone()
    plain, x.grad, mem, total = L(0.9), None, None, torch.zeros(())
    for x_t in x.unbind(0):
        spk, mem = plain(x_t, mem)
        total = total + (spk * torch.arange(4)).sum() + mem.sum()
        mem[:, 1] = 0
        with torch.no_grad():
            mem.mul_(0.5)
    total.backward()
    assert torch.allclose(grads, x.grad, rtol=1e-5)


def test_thresholds_may_drift_in_a_loop(made: Any) -> None:
    layer, x = made(L(0.9, threshold=torch.ones(4))), torch.full((2, 4), 0.7, requires_grad=True)
    mem, seen = None, []
    for _ in range(4):
        spk, mem = layer(x, mem)
        seen.append(spk)
        layer.threshold += 0.3
    torch.stack(seen).sum().backward()
    assert [s[0, 0].item() for s in seen] == [0, 1, 1, 1]
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_truncated_backpropagation(made: Any) -> None:
    net = nn.Sequential(
        nn.Linear(4, 5), L(0.9, init_hidden=True), nn.Linear(5, 2), L(0.9, init_hidden=True, output=True)
    )
    net = made(net)
    for _ in range(3):
        for _ in range(2):
            spk, mem = net(torch.rand(3, 4))
        (spk.sum() + mem.sum()).backward()
        L.detach_hidden()
    utils.reset(net)
    assert not net[1].mem.any() and net[1].mem.shape == (3, 5) and not net[1].mem.requires_grad
    net(torch.rand(3, 4))[0].sum().backward()


def test_hidden_states_are_not_to_be_passed(made: Any) -> None:
    with pytest.raises(TypeError, match="init_hidden"):
        made(L(0.9, init_hidden=True))(torch.ones(2), torch.ones(2))


def test_probes_and_copies(made: Any) -> None:
    net = made(nn.Sequential(nn.Linear(4, 5), L(0.9)))
    monitor = probe.OutputMonitor(net, instance=snn.Leaky)
    states = probe.AttributeMonitor("mem", False, net, instance=snn.Leaky)
    spk, mem = net(torch.rand(3, 4))
    assert torch.equal(monitor.records[0][0], spk) and torch.equal(states.records[0], mem)
    utils.reset(net)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(torch.ones(3, 4))[0], net(torch.ones(3, 4))[0])
    assert twin[1].mem is not net[1].mem
    assert twin[1]._buffers["mem"].shape == (3, 5)


def test_functional_call(made: Any) -> None:
    layer = made(L(0.5, learn_beta=True))
    changed = torch.func.functional_call(layer, {"beta": torch.tensor(0.25)}, (torch.zeros(2), torch.ones(2)))
    assert changed[1].tolist() == [0.25, 0.25]
    assert layer(torch.zeros(2), torch.ones(2))[1].tolist() == [0.5, 0.5]


def test_second_derivatives_raise_a_reason() -> None:
    layer, x = plugin_accel.convert(L(0.5)), torch.rand(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="restore"):
        torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)


def test_losses_of_the_host_take_what_comes_out(made: Any) -> None:
    layer, x = made(L(0.9)), torch.rand(5, 4, 3, requires_grad=True)
    record, mem = [], None
    for x_t in x.unbind(0):
        spk, mem = layer(x_t, mem)
        record.append(spk)
    functional.ce_rate_loss()(torch.stack(record), torch.tensor([0, 1, 2, 0])).backward()
    assert x.grad is not None


@pytest.mark.parametrize("name", ["Leaky", "Synaptic"])
def test_no_spike_flips_in_a_long_run(name: str) -> None:
    """10^7 neuron steps, membranes that pass near the threshold all the time; by step, and as a sequence."""

    def make() -> Any:
        return L(0.95) if name == "Leaky" else snn.Synaptic(0.5, 0.9)

    plain, fast, whole = make(), plugin_accel.convert(make()), plugin_accel.convert(make())
    run = plugin_accel.plugins.hosts()["snntorch"].sequence(whole)  # type: ignore[attr-defined]
    states = 1 if name == "Leaky" else 2
    generator = torch.Generator().manual_seed(0)
    given: dict[int, tuple[Any, ...]] = {0: (), 1: ()}
    with torch.no_grad():
        for _ in range(5):
            x = torch.rand(250, 8, 1024, generator=generator) * (0.2 if name == "Leaky" else 0.15)
            spikes = run(whole, x, (None,) * states, record=(False,) * states).outputs[0]
            for t, x_t in enumerate(x.unbind(0)):
                for i, layer in enumerate((plain, fast)):
                    out, *given[i] = layer(x_t, *given[i])  # type: ignore[assignment]
                    assert torch.equal(out, spikes[t])
            assert spikes.mean() > 0.01
    assert torch.equal(plain.mem, fast.mem) and torch.equal(plain.mem, whole.mem)
    assert host.last_fallback(fast) is None
