"""Two layers, their weights on a grid, and the sizes of all tests of fusion."""

from __future__ import annotations

from typing import Any

import snntorch as snn
import torch
from torch import nn

T, B, N = 4, 3, 8
num_steps = T


def grid(net: nn.Module) -> nn.Module:
    """Puts weights on a coarse binary grid: sums are exact, so batches of steps give what steps give, bit for bit."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.dim() > 1 or name.endswith("bias"):
                parameter.copy_(torch.randint(-6, 9, parameter.shape, generator=generator) / 8)
    return net


class Layers(nn.Module):
    """The layers of the nets below; each brings its own loop."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.num_steps = T
        self.fc1 = nn.Linear(N, 6)
        self.lif1 = snn.Leaky(beta=0.5, **options)
        self.fc2 = nn.Linear(6, 4)
        self.lif2 = snn.Leaky(beta=0.75, **({**options, "output": True} if options.get("init_hidden") else options))
