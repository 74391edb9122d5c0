"""A framework of one layer: a leaky integrator without spikes."""

import torch
from torch import nn


class Leaky(nn.Module):
    """``v[t] = decay * v[t - 1] + x[t]`` on (batch, time, neurons)."""

    def __init__(self, decay: float = 0.5) -> None:
        super().__init__()
        self.decay = decay

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = torch.zeros_like(x[:, 0])
        out = []
        for step in x.unbind(1):
            v = self.decay * v + step
            out.append(v)
        return torch.stack(out, 1)
