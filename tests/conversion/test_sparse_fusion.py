"""Layers that take spikes in loops over time: called once for all steps, with little kept for backward."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import snntorch
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.layers import spike_break_even, spike_call, spike_conv
from tests.conversion.sparse_nets import Net, rows, takers


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nets of tests are small, and their spikes many."""
    monkeypatch.setattr(spike_conv, "LEAST_WORK", 0)
    monkeypatch.setattr(spike_call, "LEAST_WORK", 0)
    with spike_break_even(2.0):
        yield


def test_time_fusion_calls_the_layer_once() -> None:
    torch.manual_seed(0)
    net, plain = Net(), Net()
    plain.load_state_dict(net.state_dict())
    plugin_accel.convert(net, sparse="fc*", fuse_time=True)
    plugin_accel.convert(plain, fuse_time=True)
    x = (torch.rand(6, 5, 20, generator=torch.Generator().manual_seed(1)) < 0.2).float()
    for _ in range(4):
        net.zero_grad()
        plain.zero_grad()
        ours, theirs = net(x), plain(x)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        for result in (ours, theirs):
            result[1].square().sum().backward()
        for p, q in zip(net.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-4)
    table = vars(net)["_plugin_accel_fusion"].table
    lines = [line.split() for line in table.splitlines() if "sparse_linear" in line]
    assert [line[2:4] for line in lines] == [["6", "1"]] * 2
    assert rows(net)[""].status == "fused"


def test_time_fusion_of_convolutions() -> None:
    class Convolutional(Net):
        def __init__(self) -> None:
            super().__init__(64, 8, 4)
            self.fc1 = nn.Conv2d(1, 4, 3)  # type: ignore[assignment]
            self.fc2 = nn.Conv2d(4, 4, 3)  # type: ignore[assignment]

    torch.manual_seed(0)
    net, plain = Convolutional(), Convolutional()
    plain.load_state_dict(net.state_dict())
    plugin_accel.convert(net, sparse=True, fuse_time=True)
    x = torch.rand(6, 2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 3
    for _ in range(4):
        torch.testing.assert_close(net(x), plain(x), rtol=1e-5, atol=1e-5)
    assert takers(net) == {"fc2"} and rows(net)[""].status == "fused"
    assert "sparse_conv2d" in vars(net)["_plugin_accel_fusion"].table


def test_run_takes_all_steps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [nn.Linear(6, 8), snntorch.Leaky(beta=0.9, init_hidden=True), nn.Linear(8, 3)]
    net = nn.Sequential(*layers)
    plain = copy.deepcopy(net)
    plugin_accel.convert(net, sparse=True)
    shapes: list[Any] = []
    inner = spike_call.run
    monkeypatch.setattr(spike_call, "run", lambda x, *rest: (shapes.append(tuple(x.shape)), inner(x, *rest))[1])
    x = torch.rand(7, 2, 6) * 3
    torch.testing.assert_close(plugin_accel.run(net, x).outputs, plugin_accel.run(plain, x).outputs)
    assert shapes == [(14, 8)]


def test_saved_for_backward() -> None:
    """A fused MLP at 5 %: what its linear layers keep is a fifth of their dense inputs, or less."""
    torch.manual_seed(0)
    x = (torch.rand(10, 16, 400) < 0.05).float()
    found = []
    for sparse in ("fc*", False):
        net = plugin_accel.convert(Net(400, 500, 10), sparse=sparse, fuse_time=True)
        for _ in range(3):
            net(x)
        kept: dict[int, int] = {}

        def pack(t: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        own = {p.untyped_storage().data_ptr() for p in net.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            net(x)
        found.append(sum(size for at, size in kept.items() if at not in own))
    states = 160 * (500 + 10) * 4  # what the neurons keep
    assert found[0] - states < (found[1] - states) / 5
