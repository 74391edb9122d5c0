"""Nothing that is known of a callable of the user's keeps it alive, nor what it leads to."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

import norse.torch as nt
import pytest
import sinabs.layers as sl
import snntorch as snn
import torch
from norse.torch.functional.lif import lif_feed_forward_step
from snntorch.surrogate import FastSigmoid
from torch import Tensor, nn

import plugin_accel
from plugin_accel.hosts import snntorch as host
from plugin_accel.hosts.known import Known
from plugin_accel.hosts.snntorch_options import recognised


class Net(nn.Module):
    """A network whose layer calls back into it."""

    shift = 0.0

    def __init__(self, spike_grad: Callable[[Any], Any]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.lif = snn.Leaky(0.9, spike_grad=spike_grad(self))

    def fire(self, z: Tensor) -> Tensor:
        found: Tensor = FastSigmoid.apply(z + self.shift, 25.0)
        return found

    def forward(self, x: Tensor) -> Tensor:
        mem = self.lif.init_leaky()
        for _ in range(3):
            spk, mem = self.lif(x * self.scale, mem)
        total: Tensor = spk + mem
        return total


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net: Net) -> None:
        self.net = net

    def __call__(self, z: Tensor) -> Tensor:
        return self.net.fire(z)


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable) and self.slope == other.slope

    def __call__(self, z: Tensor) -> Tensor:
        found: Tensor = FastSigmoid.apply(z, self.slope)
        return found


CALLABLES: dict[str, Callable[[Net], Any]] = {
    "method": lambda net: net.fire,
    "closure": lambda net: lambda z: net.fire(1 * z),
    "partial": lambda net: partial(net.fire),
    "slotted": Slotted,
}


def used(net: nn.Module, *, fused: bool = False) -> ref[nn.Module]:
    """A reference to a network that has been converted, trained, reported on and dropped."""
    plugin_accel.convert(net, fuse_time=fused)
    for _ in range(4):
        net(torch.ones(2, 3)).sum().backward()
    assert str(plugin_accel.report(net))
    return ref(net)


def is_gone(net: ref[nn.Module]) -> bool:
    snn.SpikingNeuron.instances.clear()  # snnTorch's own list of all layers
    gc.collect()
    return net() is None


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shift", [0.0, 0.1], ids=["", "deviant"])
@pytest.mark.parametrize("kind", ["method", "closure", "partial"])
def test_a_network_goes_with_its_spike_grad(
    kind: str, shift: float, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Net, "shift", shift)
    net = used(Net(CALLABLES[kind]), fused=fused)
    assert is_gone(net)


def test_what_cannot_be_referenced_weakly_is_kept_for_a_while() -> None:
    first = used(Net(Slotted))
    for _ in range(8):
        used(Net(Slotted))
    assert is_gone(first)


@pytest.mark.parametrize("kind", CALLABLES)
def test_a_callable_that_leads_to_the_network_gives_the_same_numbers(kind: str) -> None:
    torch.manual_seed(0)
    x, plain, fast = torch.randn(2, 3), Net(CALLABLES[kind]), plugin_accel.convert(Net(CALLABLES[kind]))
    for net in (plain, fast):
        for _ in range(2):
            net(x).sum().backward()
    assert torch.equal(plain(x), fast(x))
    assert torch.allclose(plain.scale.grad, fast.scale.grad, rtol=1e-5)  # type: ignore[arg-type]
    assert host.last_fallback(fast.lif) is None


def test_a_callable_needs_no_hash() -> None:
    layer = plugin_accel.convert(snn.Leaky(0.9, init_hidden=True, output=True, spike_grad=Unhashable(25.0)))
    plain = snn.Leaky(0.9, init_hidden=True, output=True, spike_grad=Unhashable(25.0))
    x = torch.randn(5, 4)
    for row in x:
        for got, expected in zip(layer(row), plain(row), strict=True):
            assert torch.equal(got, expected)
    assert plugin_accel.report(layer).rows[0].status == "accelerated"
    assert host.last_fallback(layer) is None


def test_a_callable_in_the_place_of_another_is_looked_at_anew() -> None:
    layer: Any = plugin_accel.convert(snn.Leaky(0.9))
    x, mem = torch.full((2, 3), 1.05), layer.init_leaky()
    for slope in range(1, 200):  # the identity of one that is gone comes back
        layer.spike_grad = Unhashable(float(slope))
        z = x.clone().requires_grad_()
        layer(z, mem)[0].sum().backward()
        assert z.grad is not None
        assert z.grad[0, 0] == pytest.approx(1 / (slope * 0.05 + 1) ** 2, rel=1e-4)


def test_a_state_function_of_another_kind_is_left_to_snntorch() -> None:
    layer: Any = plugin_accel.convert(snn.Leaky(0.9))
    own = layer.state_function
    layer.state_function = lambda x: own(x) + 0
    spk, mem = layer(torch.full((2, 3), 1.5), layer.init_leaky())
    assert torch.equal(mem, torch.full((2, 3), 1.5))
    assert torch.equal(spk, torch.ones(2, 3))
    assert "state_function" in str(host.last_fallback(layer))


class Cell(nn.Module):
    """A network whose cell calls back into it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.lif = nt.LIFCell()
        self.lif.activation = self.step

    def step(self, *args: Any, **kwargs: Any) -> Any:
        return lif_feed_forward_step(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for _ in range(3):
            _, state = self.lif(x * self.scale, state)
        found: Tensor = state.v
        return found


class Membranes(nn.Module):
    """A network whose layer of sinabs calls back into it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.lif = sl.LIF(10.0, surrogate_grad_fn=self.slope)

    def slope(self, v_mem: Tensor, threshold: Any) -> Tensor:
        return torch.exp(-(v_mem - threshold).abs())

    def forward(self, x: Tensor) -> Tensor:
        self.lif.reset_states()
        found: Tensor = self.lif(x.unsqueeze(0) * self.scale)
        return found


def test_a_network_goes_with_its_surrogate() -> None:
    made = Membranes()
    net = used(made)
    with torch.no_grad():
        made(torch.ones(2, 3))
    made.lif.reset_states()  # a graph leads to the callable, as in sinabs
    del made
    assert is_gone(net)


def test_a_network_goes_with_its_activation() -> None:
    net = used(Cell())
    assert is_gone(net)


class Thing:
    pass


def test_known_forgets_with_the_object() -> None:
    found: list[int] = []
    known = Known(lambda of: found.append(id(of)) or len(found))  # type: ignore[func-returns-value]
    first = Thing()
    assert known(first) == known(first) == 1
    for expected in range(2, 50):  # each in the place of the last one
        first = Thing()
        assert known(first) == expected
    del first
    gc.collect()
    assert not known._weak


def test_what_is_recognised_has_its_own_numbers() -> None:
    slopes = [recognised(snn.surrogate.fast_sigmoid(slope)) for slope in (3, 4, 5)]
    assert [made and made.params[0] for made in slopes] == [3.0, 4.0, 5.0]
