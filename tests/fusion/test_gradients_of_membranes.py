"""Losses that read membranes alone: of spikes that nobody reads, no slope may reach a gradient."""

from __future__ import annotations

import copy

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import plugin_accel


class Net(nn.Module):
    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(6, 5), neuron

    def forward(self, x: Tensor) -> Tensor:
        state, membranes = self.lif.reset_mem(), []  # type: ignore[operator]
        state = state if isinstance(state, tuple) else (state,)
        for step in x:
            _, *state = self.lif(self.fc(step), *state)
            membranes.append(state[-1])
        return torch.stack(membranes)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "Alpha", "Lapicque"])
def test_far_below_the_threshold(kind: str, fused: bool) -> None:
    """Where the slope of snnTorch's sigmoid is NaN."""
    torch.manual_seed(0)
    decays = {"Synaptic": (0.8, 0.9), "Alpha": (0.9, 0.8)}.get(kind, (0.9,))
    host = Net(getattr(snn, kind)(*decays, spike_grad=snn.surrogate.sigmoid(slope=25)))
    mine = plugin_accel.convert(copy.deepcopy(host), fuse_time=fused)
    for call in range(4):
        x = torch.randn(12, 4, 6, generator=torch.Generator().manual_seed(call)) * 60 - 20
        found = []
        for net in (host, mine):
            net.zero_grad()
            given = x.clone().requires_grad_()
            out = net(given)
            assert out.min() < -2.6
            out.square().mean().backward()
            found.append([given.grad, net.fc.weight.grad, net.fc.bias.grad])
        for a, b in zip(*found, strict=True):
            assert a is not None and b is not None
            assert torch.isfinite(a).all()
            assert (a - b).abs().max() <= 1e-5 * a.abs().max()
