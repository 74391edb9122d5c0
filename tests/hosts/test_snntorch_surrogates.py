"""Every surrogate that snnTorch ships, and callables of the user's own: with a kernel, called, or left to snnTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import snntorch as host
from plugin_accel.hosts.snntorch_callables import behaviour
from plugin_accel.hosts.snntorch_options import recognised


class Clipped(torch.autograd.Function):
    """Neither linear in what arrives nor elementwise."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return (z > 0).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        g: Tensor = grad.clamp(-0.3, 0.3) / (1 + 5 * z.abs()) ** 2
        return g / (1 + g.norm())


class AtOrAbove(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return (z >= 0).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Learned(nn.Module):
    """A surrogate with a slope to learn; exactly 1 or 0 in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0))

    def forward(self, z: Tensor) -> Tensor:
        soft = torch.sigmoid(self.slope * z)
        return (z > 0).float() + (soft - soft.detach())


def moody(z: Tensor) -> Tensor:
    """Fires as expected until it sees three columns."""
    return (z > (0.25 if z.shape[-1] == 3 else 0.0)).float()


def noisy(z: Tensor) -> Tensor:
    return (z + 0.1 * torch.rand_like(z) > 0).float()


def clip(z: Tensor, grad: Tensor, spikes: Tensor) -> Tensor:
    return grad.clamp(-0.2, 0.2) * torch.exp(-z.abs()) * (1 + spikes)


# How each factory of snntorch.surrogate is served. One that is not here makes a test fail, and runs nevertheless.
SHIPPED: dict[str, tuple[str, Callable[[], Any]]] = {
    "straight_through_estimator": ("kernel", surrogate.straight_through_estimator),
    "triangular": ("kernel", surrogate.triangular),
    "fast_sigmoid": ("kernel", surrogate.fast_sigmoid),
    "atan": ("kernel", surrogate.atan),
    "heaviside": ("kernel", surrogate.heaviside),
    "sigmoid": ("kernel", lambda: surrogate.sigmoid(slope=5)),
    "spike_rate_escape": ("kernel", surrogate.spike_rate_escape),
    "SFS": ("kernel", lambda: surrogate.SFS(B=-0.5)),
    "SSO": ("called", surrogate.SSO),
    "custom_surrogate": ("called", lambda: surrogate.custom_surrogate(clip)),
    "LSO": ("host", surrogate.LSO),
}
OWN: dict[str, tuple[str, Callable[[], Any]]] = {
    "function": ("called", lambda: Clipped.apply),
    "lambda": ("called", lambda: lambda z: (z > 0).float()),
    "module": ("called", Learned),
    "ships with an argument less": ("called", lambda: surrogate.Heaviside.apply),
    "at or above": ("host", lambda: AtOrAbove.apply),
    "soft": ("host", lambda: torch.sigmoid),
    "noisy": ("host", lambda: noisy),
    "moody": ("host", lambda: moody),
}
LAYERS: dict[str, Callable[..., Any]] = {
    "Leaky": lambda **k: snn.Leaky(0.9, learn_beta=True, learn_threshold=True, **k),
    "Synaptic": lambda **k: snn.Synaptic(0.8, 0.9, threshold=torch.tensor([0.5, 0.8, 1.0]), **k),
    "Alpha": lambda **k: snn.Alpha(0.9, 0.8, learn_threshold=True, **k),
    "RLeaky": lambda **k: snn.RLeaky(0.9, all_to_all=False, V=0.4, **k),
    "Lapicque": lambda **k: snn.Lapicque(R=1.0, C=2.0, **k),
}


def by_step(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    outputs = [layer(x_t) for x_t in x.unbind(0)]
    return torch.stack([o[0] for o in outputs]), torch.stack([o[-1] for o in outputs])


def at_once(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    outputs = plugin_accel.run(nn.Sequential(layer), x).outputs
    return outputs[0], outputs[-1]


def numbers(layer: Any, use: Callable[..., tuple[Tensor, Tensor]]) -> list[Tensor | None]:
    """Spikes, membranes and gradients: those of the input, then of the parameters."""
    torch.manual_seed(3)
    x = (torch.randn(7, 4, 3) * 1.5).requires_grad_()
    weights = torch.randn(2, 7, 4, 3)
    spikes, mem = use(layer, x)
    ((spikes * weights[0]).sum() + (mem * weights[1]).sum()).backward()
    return [spikes, mem, x.grad, *[p.grad for p in layer.parameters()]]


def assert_same(expected: list[Tensor | None], got: list[Tensor | None]) -> None:
    assert torch.equal(expected[0], got[0])  # type: ignore[arg-type]
    assert torch.equal(expected[1], got[1])  # type: ignore[arg-type]
    for a, b in zip(expected[2:], got[2:], strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert (b - a).abs().max() <= 1e-5 * a.abs().max() + 1e-7


def test_every_factory_of_snntorch_is_known() -> None:
    found = {
        name
        for name, value in vars(surrogate).items()
        if callable(value) and not isinstance(value, type) and getattr(value, "__module__", "") == surrogate.__name__
    }
    assert found == set(SHIPPED), "say here how the new ones are served"


@pytest.mark.parametrize("name", SHIPPED)
def test_how_each_is_served(name: str) -> None:
    how, make = SHIPPED[name]
    made = make()
    served = "kernel" if recognised(made) is not None else "called" if behaviour(made).refusal is None else "host"
    assert served == how


@pytest.mark.parametrize("use", [by_step, at_once])
@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("name", [n for n in (*SHIPPED, *OWN) if n != "LSO"])
def test_numbers(name: str, reset: str, use: Callable[..., Any]) -> None:
    how, make = {**SHIPPED, **OWN}[name]
    for layer in ["Leaky", "RLeaky"] if how != "called" else LAYERS:
        options = {"reset_mechanism": reset, "init_hidden": True, "output": True, "spike_grad": make()}
        expected = numbers(LAYERS[layer](**options), by_step)
        fast = plugin_accel.convert(LAYERS[layer](**options))
        assert_same(expected, numbers(fast, use))
        why = host.last_fallback(fast)
        if how == "host" and (reset != "none" or name == "noisy"):  # without a reset a callable may fire as it likes
            assert why is not None and "spike_grad" in why
        else:
            assert why is None


def test_lso_raises_as_in_snntorch() -> None:
    for layer in (snn.Leaky(0.9, spike_grad=surrogate.LSO()), snn.Leaky(0.9, spike_grad=surrogate.LSO())):
        with pytest.raises(TypeError, match=r"mean|variance|positional"):
            plugin_accel.convert(layer)(torch.ones(2, 3))


def test_what_fired_otherwise_once_is_left_to_snntorch_from_then_on() -> None:
    calls: list[int] = []

    def capricious(z: Tensor) -> Tensor:
        calls.append(1)
        return (z > (0.5 if len(z) == 5 else 0.0)).float()

    plain, fast = (snn.Leaky(0.9, spike_grad=capricious) for _ in range(2))
    plugin_accel.convert(fast)
    x, states = torch.full((4, 3), 1.2), [torch.zeros(4, 3)] * 2
    for x in (torch.full((4, 3), 1.2), torch.full((5, 3), 1.2)):
        for _ in range(3):
            (want, *_), (got, *_) = plain(x, states[0]), fast(x, states[1])
            assert torch.equal(want, got)
        states = [torch.zeros(5, 3)] * 2
    assert host.last_fallback(fast) is not None
    calls.clear()
    fast(x)
    assert len(calls) == 2, "as often as snnTorch calls it, for the reset and for the spikes"


@pytest.mark.parametrize("inhibition", [False, True])
def test_graded_inhibited_and_double(inhibition: bool) -> None:
    for dtype in (torch.float32, torch.float64):

        def make(dtype: torch.dtype = dtype) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                layer = snn.Leaky(
                    0.9, spike_grad=Clipped.apply, graded_spikes_factor=1.7, learn_graded_spikes_factor=True,
                    inhibition=inhibition, init_hidden=True, output=True,
                )  # fmt: skip
            return layer.to(dtype)

        def use(layer: Any, x: Tensor, dtype: torch.dtype = dtype) -> tuple[Tensor, Tensor]:
            return by_step(layer, x.to(dtype))

        fast = plugin_accel.convert(make())
        assert_same(numbers(make(), use), numbers(fast, use))
        assert host.last_fallback(fast) is None


def test_without_a_delay_it_is_left_to_snntorch() -> None:
    make = lambda: snn.Leaky(0.9, spike_grad=Clipped.apply, reset_delay=False, init_hidden=True, output=True)  # noqa: E731
    fast = plugin_accel.convert(make())
    assert_same(numbers(make(), by_step), numbers(fast, by_step))
    assert "reset_delay=False" in (host.last_fallback(fast) or "")


@pytest.mark.parametrize("kind", ["StateLeaky", "LeakyParallel"])
def test_layers_without_a_reset_take_any_callable(kind: str) -> None:
    def make() -> Any:
        torch.manual_seed(0)
        if kind == "StateLeaky":
            return snn.StateLeaky(0.8, channels=3, spike_grad=torch.sigmoid, learn_threshold=True)
        return snn.LeakyParallel(3, 3, beta=0.8, spike_grad=Clipped.apply, learn_threshold=True)

    fast, grads = plugin_accel.convert(make()), []
    for layer in (make(), fast):
        torch.manual_seed(1)
        x = torch.randn(6, 4, 3, requires_grad=True)
        out = layer(x)
        spikes = out[0] if isinstance(out, tuple) else out
        (spikes * torch.randn(6, 4, 3)).sum().backward()
        grads.append([spikes, x.grad, layer.threshold.grad])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    assert host.last_fallback(fast) is None


def net() -> Any:
    torch.manual_seed(0)
    neuron = lambda: snn.Leaky(0.9, spike_grad=surrogate.SSO(), init_hidden=True)  # noqa: E731
    return nn.Sequential(nn.Linear(3, 6), neuron(), nn.Linear(6, 5), neuron())


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net[1::2]:
            layer.reset_mem()
        return torch.stack([self.net(x_t) for x_t in x])


def test_numbers_drawn_in_backward_keep_the_order_of_the_loop() -> None:
    """`SSO` draws there; layer by layer would deal the same numbers out to other neurons."""
    fused, ran = plugin_accel.convert(Loop(), fuse_time=True), plugin_accel.convert(net())
    x = torch.randn(5, 4, 3) * 2
    for seed in range(4):
        plain, found = Loop(), []
        for module, use in ((plain, plain), (fused, fused), (ran, lambda x: plugin_accel.run(ran, x).outputs)):
            module.zero_grad()
            for layer in ran[1::2]:
                layer.reset_mem()
            torch.manual_seed(seed)
            use(x).sum().backward()
            found.append([p.grad for p in module.parameters()])
        for want, *got in zip(*found, strict=True):
            for grad in got:
                torch.testing.assert_close(grad, want, rtol=1e-4, atol=1e-5)
    assert "draw random numbers" in str(plugin_accel.report(fused))


@pytest.mark.parametrize("make", [lambda: Clipped.apply, lambda: surrogate.custom_surrogate(clip)])
def test_fused_with_a_callable(make: Callable[[], Any]) -> None:
    def build() -> Any:
        torch.manual_seed(0)
        loop = Loop()
        for layer in loop.net[1::2]:
            layer.spike_grad = make()
        return loop

    plain, fused = build(), plugin_accel.convert(build(), fuse_time=True)
    x = torch.randn(5, 4, 3) * 2
    for _ in range(4):
        for loop in (plain, fused):
            loop.zero_grad()
            loop(x).sum().backward()
        assert torch.equal(plain(x), fused(x))
        for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-5)
    assert "fused" in str(plugin_accel.report(fused)) and host.last_fallback(fused.net[1]) is None


@pytest.mark.one_graph
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's, of what it traces
def test_compiled_with_a_callable() -> None:
    plain, fast = (snn.Leaky(0.9, spike_grad=Clipped.apply) for _ in range(2))
    compiled = torch.compile(plugin_accel.convert(fast), backend="eager", fullgraph=True)
    x = torch.randn(4, 3) * 2
    mems = [torch.zeros(4, 3)] * 2
    for _ in range(3):
        (want, mems[0]), (got, mems[1]) = plain(x, mems[0]), compiled(x, mems[1])
        assert torch.equal(want, got) and torch.equal(*mems)
