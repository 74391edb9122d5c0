"""A net of snnTorch's tutorials, and what its layers are after a conversion."""

from __future__ import annotations

import snntorch
import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.layers import SpikeConv2d, SpikeLinear


def takers(model: nn.Module) -> set[str]:
    return {name for name, part in model.named_modules() if isinstance(part, (SpikeLinear, SpikeConv2d))}


def rows(model: nn.Module) -> dict[str, plugin_accel.Row]:
    return {name: row for row in plugin_accel.report(model) for name in row.names}


class Net(nn.Module):
    """As in snnTorch's tutorials."""

    def __init__(self, inputs: int = 20, hidden: int = 30, outputs: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.lif1 = snntorch.Leaky(beta=0.9, threshold=0.2)
        self.fc2 = nn.Linear(hidden, outputs)
        self.lif2 = snntorch.Leaky(beta=0.9, threshold=0.2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, membranes = [], []
        for t in range(x.size(0)):
            emitted, first = self.lif1(self.fc1(x[t]), first)
            emitted, second = self.lif2(self.fc2(emitted), second)
            spikes.append(emitted)
            membranes.append(second)
        return torch.stack(spikes), torch.stack(membranes)
