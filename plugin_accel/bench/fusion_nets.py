"""The networks of the fusion benchmark: snnTorch's tutorials, and the same without neurons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn
from torch.nn import functional as F

FRAMEWORK = "snntorch"


class Loop(nn.Module):
    """A loop over time as the tutorials write it; spikes and membranes of the last layer, ``[T, B, 10]``."""

    def __init__(self, steps: int, static: bool) -> None:
        super().__init__()
        self.steps, self.static = steps, static


class FullyConnected(Loop):
    """784-1000-10."""

    def __init__(self, steps: int, static: bool) -> None:
        super().__init__(steps, static)
        self.fc1, self.lif1 = nn.Linear(784, 1000), snn.Leaky(beta=0.95)
        self.fc2, self.lif2 = nn.Linear(1000, 10), snn.Leaky(beta=0.95)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Loop`."""
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk_rec, mem_rec = [], []
        for step in range(self.steps):
            spk1, mem1 = self.lif1(self.fc1(x if self.static else x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk_rec.append(spk2)
            mem_rec.append(mem2)
        return torch.stack(spk_rec), torch.stack(mem_rec)

    def identity(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same with every neuron the identity, its linear layers batched over time."""
        current = self.fc1(x if self.static else x.flatten(0, 1))
        spikes = current.expand(self.steps, *current.shape).flatten(0, 1) if self.static else current
        out = self.fc2(spikes).unflatten(0, (self.steps, -1))
        return out, out


class Convolutional(Loop):
    """12C5-MP2-64C5-MP2-10."""

    def __init__(self, steps: int, static: bool) -> None:
        super().__init__(steps, static)
        options: dict[str, Any] = {"beta": 0.5, "spike_grad": surrogate.fast_sigmoid(slope=25)}
        self.conv1, self.lif1 = nn.Conv2d(1, 12, 5), snn.Leaky(**options)
        self.conv2, self.lif2 = nn.Conv2d(12, 64, 5), snn.Leaky(**options)
        self.fc1, self.lif3 = nn.Linear(64 * 4 * 4, 10), snn.Leaky(**options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Loop`."""
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        spk_rec, mem_rec = [], []
        for step in range(self.steps):
            spk1, mem1 = self.lif1(F.max_pool2d(self.conv1(x if self.static else x[step]), 2), mem1)
            spk2, mem2 = self.lif2(F.max_pool2d(self.conv2(spk1), 2), mem2)
            spk3, mem3 = self.lif3(self.fc1(spk2.flatten(1)), mem3)
            spk_rec.append(spk3)
            mem_rec.append(mem3)
        return torch.stack(spk_rec), torch.stack(mem_rec)

    def identity(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`FullyConnected.identity`."""
        first = F.max_pool2d(self.conv1(x if self.static else x.flatten(0, 1)), 2)
        first = first.expand(self.steps, *first.shape).flatten(0, 1) if self.static else first
        second = F.max_pool2d(self.conv2(first), 2)
        out = self.fc1(second.flatten(1)).unflatten(0, (self.steps, -1))
        return out, out


@dataclass(frozen=True)
class Training:
    """One workload: a whole training step (forward, loss on spikes and membranes, backward, SGD).

    Attributes:
        name: Unique name.
        title: For tables.
        make: The net.
        steps: Time steps.
        batch: Batch size.
        static: Whether one input enters at every step; otherwise spikes.
        goals: ``host``: how many times faster than the loop; ``identity``: how many times slower than the same without
            neurons, at most; ``fused``: how many times faster than fused and dense.
        density: Share of ones among spikes.
        sparse: Which layers to compute from their spikes: then ``sparse`` is measured too, and goals are its own.
    """

    name: str
    title: str
    make: Callable[[int, bool], Any]
    steps: int
    batch: int
    static: bool
    goals: dict[str, float]
    density: float = 0.1
    sparse: str | None = None

    def data(self) -> tuple[Tensor, Tensor]:
        """Input and labels."""
        generator = torch.Generator().manual_seed(0)
        shape = (784,) if self.make is FullyConnected else (1, 28, 28)
        if self.static:
            x = torch.rand((self.batch, *shape), generator=generator)
        else:
            x = (torch.rand((self.steps, self.batch, *shape), generator=generator) < self.density).float()
        return x, torch.randint(0, 10, (self.batch,), generator=generator)


def trainings(quick: bool = False) -> list[Training]:
    """The workloads, in the order of the table."""
    suite = [
        ("fc-static-T25", FullyConnected, 25, 128, True, {"host": 6.0, "identity": 1.4}),
        ("fc-static-T100", FullyConnected, 100, 128, True, {"host": 6.0, "identity": 1.4}),
        ("fc-spikes-T50", FullyConnected, 50, 64, False, {"identity": 1.15}),
        ("fc-spikes-T100", FullyConnected, 100, 16, False, {"identity": 1.15}),
        ("conv-static-T50", Convolutional, 50, 32, True, {"identity": 1.4}),
        ("conv-spikes-T50", Convolutional, 50, 32, False, {"identity": 1.4}),
    ]
    made = []
    for name, net, full_steps, full_batch, static, goals in suite:
        steps, batch = (3, 2) if quick else (full_steps, full_batch)
        shape = "784-1000-10" if net is FullyConnected else "12C5-MP2-64C5-MP2-10"
        entry = "static input" if static else "spikes"
        title = f"{shape}, {entry}, T={steps}, B={batch}"
        made.append(Training(name, title, net, steps, batch, static, {} if quick else goals))
    steps, batch = (3, 2) if quick else (50, 64)
    for name, net, layers, goals in (
        ("fc-sparse-T50", FullyConnected, "fc*", {"host": 4.0, "fused": 3.0}),
        ("conv-sparse-T50", Convolutional, "[cf]*2", {}),
    ):
        shape = "784-1000-10" if net is FullyConnected else "12C5-MP2-64C5-MP2-10"
        title = f"{shape}, 5 % spikes, T={steps}, B={batch}, sparse"
        made.append(Training(name, title, net, steps, batch, False, {} if quick else goals, 0.05, layers))
    return made
