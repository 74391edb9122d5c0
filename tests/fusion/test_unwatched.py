"""A torch whose autograd functions are called without Python in between: nothing is fused, and the report says why."""

from __future__ import annotations

import copy

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.conversion.fusion import watch


class Net(nn.Module):
    """A loop over time that is fused otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.neuron = nn.Linear(4, 4), snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        mem, out = self.neuron.init_leaky(), []
        for x_t in x:
            spikes, mem = self.neuron(self.linear(x_t), mem)
            out.append(spikes)
        return torch.stack(out)


def test_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_APPLY", None)
    torch.manual_seed(0)
    host = Net()
    ours = plugin_accel.convert(copy.deepcopy(host), fuse_time=True)
    x = torch.randn(5, 3, 4) * 3
    for _ in range(3):
        assert torch.equal(ours(x), host(x))
    report = str(plugin_accel.report(ours))
    assert "unfused" in report
    assert "cannot be watched" in report
