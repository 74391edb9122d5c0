"""The loops of the gallery ``snntorch_loops.py``, as people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snntorch as snn
import torch
import torch.nn as nn
import torch.nn.functional as F
from snntorch import utils
from snntorch.functional import quant

num_steps, BATCH, INPUTS, HIDDEN, CLASSES = 25, 32, 64, 100, 10


class Net(nn.Module):
    """Two layers; each entry brings its own loop."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(INPUTS, HIDDEN), snn.Leaky(0.9, **options)
        self.fc2, self.lif2 = nn.Linear(HIDDEN, CLASSES), snn.Leaky(0.9, **options)
        self.max_steps = num_steps


class Static(Net):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk_rec, mem_rec = [], []
        for _step in range(self.max_steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk_rec.append(spk2)
            mem_rec.append(mem2)
        return torch.stack(spk_rec), torch.stack(mem_rec)


class TimeFirst(Net):
    def forward(self, x):
        device = x.device
        mem1, mem2 = self.lif1.reset_mem().to(device), self.lif2.reset_mem().to(device)
        out = []
        for t in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[t].view(x[t].size(0), -1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return torch.stack(out).sum(0)


class BatchFirst(Net):
    def forward(self, x):
        x = x.transpose(0, 1)
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        out = []
        for t in range(x.shape[1]):
            spk1, mem1 = self.lif1(self.fc1(x[:, t, ...]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return torch.stack(out).transpose(0, 1)


class Iterated(Net):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        for x_t in x.permute(2, 0, 1):
            spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
        return spk2, mem2


class Encoded(Net):
    def forward(self, x):
        if x.dim() == 2:
            x = x.unsqueeze(1)
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        out = []
        for _step in range(num_steps):
            spikes = torch.bernoulli(x.flatten(1).clamp(0, 1))
            spk1, mem1 = self.lif1(self.fc1(spikes), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return out


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(INPUTS, HIDDEN),
            snn.Leaky(0.9, init_hidden=True),
            nn.Dropout(0.2),
            nn.Linear(HIDDEN, CLASSES),
            snn.Leaky(0.9, init_hidden=True, output=True),
        )

    def forward(self, x):
        utils.reset(self.net)
        out = [self.net(x[step])[0] for step in range(x.size(0))]
        return torch.stack(out)


class Truncated(Net):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        loss = torch.zeros(())
        for t in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            loss = loss + F.mse_loss(mem2, torch.ones_like(mem2))
            if (t + 1) % 5 == 0:
                mem1, mem2 = mem1.detach(), mem2.detach()
        return loss, spk2


class Learned(Net):
    def __init__(self) -> None:
        super().__init__(learn_beta=True, learn_threshold=True)
        self.start = nn.Parameter(torch.rand(HIDDEN))

    def forward(self, x):
        mem1, mem2 = self.start.expand(x.size(1), -1).clone(), torch.rand(x.size(1), CLASSES)
        out = []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out += [spk2]
        return torch.stack(out).mean(0)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(INPUTS, INPUTS) for _ in range(3))
        self.norms = nn.ModuleList([nn.BatchNorm1d(INPUTS), nn.LayerNorm(INPUTS), nn.GroupNorm(4, INPUTS)])
        self.lifs, self.drop = nn.ModuleList(snn.Leaky(0.9) for _ in range(3)), nn.Dropout(0.2)

    def forward(self, x):
        mems = [lif.reset_mem() for lif in self.lifs]
        activity, rate = [], 0
        for t in range(len(x)):
            out = x[t]
            for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
                spk, mems[i] = self.lifs[i](norm(layer(out)) + out, mems[i])
                out = self.drop(spk)
                activity.append(spk)
            rate = rate + spk
        return {"rate": rate / len(x), "activity": torch.stack(activity).mean()}


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.lif1 = nn.Conv2d(1, 4, 3), snn.Leaky(0.9)
        self.conv2, self.lif2 = nn.Conv2d(4, 4, 3, padding=1), snn.Leaky(0.9)
        self.fc, self.readout = nn.Linear(4, CLASSES), snn.Leaky(0.9, reset_mechanism="none")
        self.embedding = nn.Parameter(torch.rand(num_steps, 1, 1, 1))

    def forward(self, x):
        x = x.view(-1, 1, 8, 8)
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.readout.init_leaky()
        mem_rec = []
        for t in range(num_steps):
            spk1, mem1 = self.lif1(F.max_pool2d(self.conv1(x) + self.embedding[t], 2), mem1)
            spk2, mem2 = self.lif2(self.conv2(spk1), mem2)
            _spk, mem3 = self.readout(self.fc(F.avg_pool2d(spk2, 2).flatten(1)), mem3)
            mem_rec.append(mem3)
        return torch.stack(mem_rec)


class Habituation(nn.Module):
    """A layer of the user's own, with a state."""

    def forward(self, x, trace):
        trace = 0.8 * trace + 0.2 * x
        return x - trace, trace


class Own(Net):
    def __init__(self) -> None:
        super().__init__()
        self.habituation, self.syn = Habituation(), snn.Synaptic(0.8, 0.9)
        self.back = snn.RLeaky(torch.linspace(0.5, 0.95, CLASSES), linear_features=CLASSES)

    def forward(self, x):
        syn, mem1 = self.syn.init_synaptic()
        (spk2, mem2), trace = self.back.init_rleaky(), torch.zeros(x.size(1), HIDDEN)
        mem_sum, predictions = torch.zeros(x.size(1), CLASSES), []
        for t in range(len(x)):
            spk1, syn, mem1 = self.syn(self.fc1(x[t]), syn, mem1)
            spk1, trace = self.habituation(spk1, trace)
            spk2, mem2 = self.back(self.fc2(spk1), spk2, mem2)
            mem_sum += mem2
            predictions.append(mem_sum.argmax(1))
        return mem_sum, torch.stack(predictions)


class Quantised(Static):
    def __init__(self) -> None:
        super().__init__(state_quant=quant.state_quant(num_bits=8, uniform=True, threshold=1.0))


class EarlyExit(Net):
    def forward(self, x):
        mem1, mem2, total = self.lif1.init_leaky(), self.lif2.init_leaky(), 0
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            total = total + spk2
            if total.max() > 1000:
                break
        return total


class Feedback(Net):
    def __init__(self) -> None:
        super().__init__()
        self.back = nn.Linear(CLASSES, HIDDEN)

    def forward(self, x):
        mem1, mem2, spk2 = self.lif1.init_leaky(), self.lif2.init_leaky(), torch.zeros(x.size(1), CLASSES)
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]) + self.back(spk2), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
        return mem2


class Plastic(Net):
    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1.detach()), mem2)
            with torch.no_grad():
                self.fc1.weight.mul_(1.0)
        return spk2, mem2


def forward_pass(net: nn.Module, steps: int, data: torch.Tensor) -> torch.Tensor:
    """A loop beside the training loop, as in snnTorch's tutorials 5 to 7."""
    utils.reset(net)
    return torch.stack([net(data[step])[0] for step in range(steps)])


def spikes() -> torch.Tensor:
    return (torch.rand(num_steps, BATCH, INPUTS) < 0.2).float()


def image() -> torch.Tensor:
    return torch.rand(BATCH, INPUTS)


# name: (what is to be seen, network, input, whether it can be fused)
GALLERY: dict[str, tuple[str, Callable[[], nn.Module], Callable[[], torch.Tensor], bool]] = {
    "static": ("the same input at every step", Static, image, True),
    "time first": ("x[t].view(...), .to(device), sum over time", TimeFirst, spikes, True),
    "batch first": ("x[:, t, ...], result transposed", BatchFirst, spikes, True),
    "iterated": ("for x_t in x.permute(2, 0, 1), last step", Iterated, lambda: spikes().permute(1, 2, 0), True),
    "encoded": ("spikes drawn in the loop, a list returned", Encoded, image, True),
    "hidden": ("init_hidden, utils.reset, one Sequential, dropout", Hidden, spikes, True),
    "function": ("the loop in a function: @plugin_accel.fused", lambda: Hidden().net, spikes, True),
    "truncated": ("detach every 5 steps, loss in the loop", Truncated, spikes, True),
    "learned": ("learned first states, decays and thresholds", Learned, spikes, True),
    "residual": ("lists of layers, norms, dropout, activity, running sum", Residual, spikes, True),
    "convolutional": ("pooling, embedding of time, readout without reset", Convolutional, image, True),
    "own": ("own layer, recurrent layer, running sum, predictions", Own, spikes, True),
    "quantised": ("state_quant: snnTorch's own layers", Quantised, image, True),
    "early exit": ("a branch on spikes", EarlyExit, spikes, False),
    "feedback": ("a later layer feeds an earlier one", Feedback, spikes, False),
    "plastic": ("weights edited in the loop", Plastic, spikes, False),
}
