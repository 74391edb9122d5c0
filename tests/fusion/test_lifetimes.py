"""Fused functions keep none of the networks alive that they are handed."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel import fused
from plugin_accel.conversion.fusion import engine


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.lif = snn.Leaky(0.9)

    def forward(self, x: Tensor, mem: Tensor) -> Any:
        return self.lif(self.a(x), mem)


def made() -> Callable[..., Any]:
    @fused
    def over_time(net: Net, x: Tensor) -> Tensor:
        mem, found = net.lif.init_leaky(), []
        for x_t in x:
            spk, mem = net(x_t, mem)
            found.append(spk)
        return torch.stack(found)

    return over_time


@pytest.fixture
def over_time() -> Any:
    yield made()
    snn.SpikingNeuron.instances.clear()


def train(function: Any, net: nn.Module, calls: int = 4) -> None:
    for _ in range(calls):
        function(net, torch.randn(5, 2, 4)).sum().backward()


def test_more_networks_than_signatures_are_remembered(over_time: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_MOST_SIGNATURES", 3)
    gone: list[ref[nn.Module]] = []
    for _ in range(6):
        net = plugin_accel.convert(Net())
        train(over_time, net)
        assert over_time.fusion.reason is None
        gone.append(ref(net))
        del net
        snn.SpikingNeuron.instances.clear()  # snnTorch's own list of all layers
    gc.collect()
    assert not any(net() for net in gone)


def test_a_network_outlives_the_function() -> None:
    function, net = made(), plugin_accel.convert(Net())
    train(function, net)
    assert function.fusion.reason is None
    gone = ref(function.fusion)
    del function
    gc.collect()
    assert gone() is None
    again = made()
    train(again, net, 1)
    assert again.fusion.reason is not None  # recorded once
    train(again, net)
    assert again.fusion.reason is None


def test_copies_start_anew(over_time: Any) -> None:
    net = plugin_accel.convert(Net())
    train(over_time, net)
    net.lif.reset_mem()  # what has a graph cannot be copied
    x = torch.randn(5, 2, 4)
    for other in (copy.deepcopy(net), plugin_accel.convert(net, copy=True)):
        with torch.no_grad():
            other.a.weight.mul_(2)
        train(over_time, other, 5)
        assert over_time.fusion.reason is None
        assert torch.equal(over_time(other, x), over_time.__wrapped__(other, x))
        assert torch.equal(over_time(net, x), over_time.__wrapped__(net, x))


def test_a_network_of_ones_own_is_pickled_without_us(over_time: Any) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())

    @fused
    def twice(net: nn.Module, x: Tensor) -> Tensor:
        return torch.stack([net(x_t) for x_t in x])

    train(twice, net)
    written = pickle.dumps(net)
    assert b"plugin_accel.conversion" not in written
    other = pickle.loads(written)
    train(twice, other)
    assert twice.fusion.reason is None
    plugin_accel.restore(net)
    assert set(vars(net)) == set(vars(nn.Sequential()))
