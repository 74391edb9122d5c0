"""Larger networks with their loops: see `forms`."""

from __future__ import annotations

import snntorch as snn
import torch
import torch.nn.functional as F
from snntorch import utils
from snntorch.functional import quant
from torch import nn

from tests.fusion.base import Layers, N, T


class Deep(nn.Module):
    """Layers in lists, states in lists, a residual sum, dropout, a norm per layer, all spikes returned."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(N, N) for _ in range(3))
        self.norms = nn.ModuleList([nn.BatchNorm1d(N), nn.LayerNorm(N), nn.Identity()])
        self.lifs = nn.ModuleList(snn.Leaky(0.5) for _ in range(3))
        self.drop = nn.Dropout(0.5)
        self.embedding = nn.Parameter(torch.arange(float(N)) / 8)

    def forward(self, x):
        mems = [lif.reset_mem() for lif in self.lifs]
        spikes = [[] for _ in self.lifs]
        for _step in range(T):
            out = x + self.embedding
            for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=False)):
                cur = norm(layer(out))
                if i > 0:
                    cur = cur + out
                spk, mems[i] = self.lifs[i](cur, mems[i])
                out = self.drop(spk)
                spikes[i].append(spk)
        return {"spikes": [torch.stack(s) for s in spikes], "rate": sum(spikes[-1]) / T, "steps": T}


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3)
        self.lif1 = snn.Leaky(0.5, spike_grad=snn.surrogate.fast_sigmoid(slope=25))
        self.conv2 = nn.Conv2d(2, 3, 2)
        self.lif2 = snn.Leaky(0.5)
        self.fc1 = nn.Linear(3, 4)
        self.lif3 = snn.Leaky(0.5, reset_mechanism="none")

    def forward(self, x):
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        spk_rec, mem_rec = [], []
        for _step in range(T):
            spk1, mem1 = self.lif1(F.max_pool2d(self.conv1(x), 2), mem1)
            spk2, mem2 = self.lif2(F.avg_pool2d(self.conv2(spk1), 1), mem2)
            spk3, mem3 = self.lif3(self.fc1(spk2.view(x.size(0), -1)), mem3)
            spk_rec.append(spk3)
            mem_rec.append(mem3)
        return torch.stack(spk_rec), torch.stack(mem_rec)


class Habituation(nn.Module):
    """A user's own layer with a state, in plain torch."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.25))

    def forward(self, x, trace):
        trace = 0.5 * trace + self.rate * x
        return x - trace, trace


class Own(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.habituation = Habituation()
        self.back = snn.RLeaky(beta=torch.linspace(0.25, 0.75, 4), linear_features=4)

    def forward(self, x):
        mem1 = self.lif1.init_leaky()
        spk2, mem2 = self.back.init_rleaky()
        trace = torch.zeros(x.shape[1], 6)
        rec = []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk1, trace = self.habituation(spk1, trace)
            spk2, mem2 = self.back(self.fc2(spk1), spk2, mem2)
            rec.append(spk2)
        return torch.stack(rec), trace


class OneSequential(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(N, 6),
            snn.Leaky(0.5, init_hidden=True),
            nn.Dropout(0.5),
            nn.Linear(6, 4),
            snn.Leaky(0.5, init_hidden=True, output=True),
        )

    def forward(self, x):
        utils.reset(self.net)
        spk_rec = []
        for step in range(x.size(0)):
            spk_out, _mem_out = self.net(x[step])
            spk_rec.append(spk_out)
        return torch.stack(spk_rec)


class Summed(Layers):
    """Pooling after a neuron, an embedding of time, running sums of all kinds, a prediction at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.arange(T * N).view(T, N) / 8)
        self.fc2 = nn.Linear(3, 4)
        self.syn = snn.Synaptic(0.5, 0.75)

    def forward(self, x):
        syn1, mem1 = self.syn.init_synaptic()
        mem2 = self.lif2.init_leaky()
        total, spk_sum, sums, peak, spikes, labels = 0, torch.zeros(x.size(1), 4), [], None, [], []
        for t in range(x.shape[0]):
            spk1, syn1, mem1 = self.syn(self.fc1(x[t] + self.embedding[t]), syn1, mem1)
            spk2, mem2 = self.lif2(self.fc2(F.avg_pool1d(spk1.unsqueeze(1), 2).squeeze(1)), mem2)
            total = total + mem2
            spk_sum += spk2
            sums.append(total)
            peak = syn1.clone() if peak is None else syn1 + peak
            spikes.append(spk2)
            labels.append(spk_sum.argmax(1))
        return total, spk_sum, torch.stack(sums), peak, sum(spikes), torch.stack(labels)


class Quantised(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.lif0 = snn.Leaky(0.5, state_quant=quant.state_quant(num_bits=4, uniform=True, threshold=1.0))
        self.fc0 = nn.Linear(N, N)

    def forward(self, x):
        mem0, mem1, mem2 = self.lif0.init_leaky(), self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for t in range(x.shape[0]):
            spk0, mem0 = self.lif0(self.fc0(x[t]), mem0)
            spk1, mem1 = self.lif1(self.fc1(spk0), mem1)
            _spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(mem2)
        return torch.stack(rec), mem0


class Kept(Layers):
    """States and activity kept as attributes of the module."""

    def forward(self, x):
        self.mem1, self.mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        rec = []
        for _step in range(self.num_steps):
            self.spk1, self.mem1 = self.lif1(self.fc1(x), self.mem1)
            spk2, self.mem2 = self.lif2(self.fc2(self.spk1), self.mem2)
            rec.append(spk2)
        self.activity = torch.stack(rec).mean()
        return torch.stack(rec)
