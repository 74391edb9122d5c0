"""Forms of the time loop that users write, each as a module with an input to draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from snntorch import utils
from torch import nn

from tests.fusion.base import B, Layers, N, T, num_steps
from tests.fusion.larger_forms import Conv, Deep, Kept, OneSequential, Own, Quantised, Summed


class Static(Layers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for _step in range(self.num_steps):
            cur1 = self.fc1(x)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


class ToDevice(Layers):
    def forward(self, x):
        device = x.device
        mem1, mem2 = self.lif1.reset_mem().to(device), self.lif2.reset_mem().to(device)
        acc = 0
        for _step in range(num_steps):
            cur1 = self.fc1(x.flatten(1)).to(device)
            spk1, mem1 = self.lif1(cur1, mem1)
            _spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            acc = acc + mem2
        return acc / num_steps


class OverTime(Layers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes = []
        for t in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[t].view(x[t].size(0), -1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
        return torch.stack(spikes).sum(0)


class BatchFirst(Layers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes = []
        for t in range(x.shape[1]):
            spk1, mem1 = self.lif1(self.fc1(x[:, t, ...]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
        return torch.stack(spikes).transpose(0, 1)


class Iterated(Layers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        for x_t in x.permute(1, 0, 2):
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            _spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
        return mem2


class Encoding(Layers):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        out = []
        for _step in range(self.num_steps):
            spikes = torch.bernoulli(x.clamp(0, 1))
            spikes = spikes + (torch.rand_like(spikes) < 0.25).float()
            spk1, mem1 = self.lif1(self.fc1(spikes), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return out


class Flagged(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.dynamic_input = True

    def forward(self, x):
        if x.dim() == 2:
            x = x.unsqueeze(1).expand(-1, T, -1)
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for t in range(self.num_steps):
            x_t = x[:, t] if self.dynamic_input else x[:, 0]
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec).mean(dim=0)


class Hidden(Layers):
    def __init__(self) -> None:
        super().__init__(init_hidden=True)

    def forward(self, x):
        utils.reset(self)
        rec, mems = [], []
        for _step in range(self.num_steps):
            spk2, mem2 = self.lif2(self.fc2(self.lif1(self.fc1(x))))
            rec.append(spk2)
            mems.append(mem2)
        return torch.stack(rec), torch.stack(mems)


class Carried(Layers):
    """States come in and go out, and are detached every two steps."""

    def forward(self, x, mem1, mem2):
        loss = torch.zeros(())
        for t in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            loss = loss + F.mse_loss(mem2, torch.ones_like(mem2)) + spk2.sum()
            if (t + 1) % 2 == 0:
                mem1, mem2 = mem1.detach(), mem2.detach()
        return loss, mem1, mem2


class Learned(Layers):
    """A learned first state and a random one."""

    def __init__(self) -> None:
        super().__init__(learn_beta=True, learn_threshold=True)
        self.start = nn.Parameter(torch.full((6,), 0.5))

    def forward(self, x):
        mem1 = self.start.expand(x.size(0), -1).clone()
        mem2 = torch.randint(0, 2, (x.size(0), 4)) / 2
        rec = []
        for _step in range(self.num_steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec += [spk2]
        return torch.stack(rec)


def static_input() -> torch.Tensor:
    return torch.randint(-2, 6, (B, N)) / 4


def input_over_time() -> torch.Tensor:
    return torch.randint(-2, 6, (T, B, N)) / 4


def batch_first_input() -> torch.Tensor:
    return input_over_time().transpose(0, 1).contiguous()


FORMS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "static input": (Static, static_input),
    "to(device), flatten, running sum": (ToDevice, static_input),
    "x[t], view, sum": (OverTime, input_over_time),
    "x[:, t], transposed result": (BatchFirst, batch_first_input),
    "iterating the tensor, last step": (Iterated, batch_first_input),
    "drawn in each step, list": (Encoding, static_input),
    "flag, dimension added": (Flagged, static_input),
    "hidden states, utils.reset": (Hidden, static_input),
    "states in and out, detached, loss inside": (
        Carried,
        lambda: (input_over_time(), torch.ones(B, 6) / 2, torch.zeros(B, 4)),
    ),
    "learned and random first states": (Learned, static_input),
    "lists of layers and states, residual, dropout, norms": (Deep, static_input),
    "convolutions, pooling, readout": (Conv, lambda: torch.randint(0, 4, (B, 1, 6, 6)) / 4),
    "own layer, recurrent layer, per-neuron beta": (Own, input_over_time),
    "one Sequential": (OneSequential, input_over_time),
    "kept on the module": (Kept, static_input),
    "running sums, embedding of time, pooling after, predictions": (Summed, input_over_time),
    "quantised states": (Quantised, input_over_time),
}
