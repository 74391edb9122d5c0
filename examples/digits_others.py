"""Networks of snnTorch and Norse on real images, trained twice each: as they are, then with plugin_accel.

The images are scikit-learn's handwritten digits as Bernoulli spike trains. Both runs of a row start from the same seed,
see the same batches and take turns, so that what else the machine does meets both.

    python examples/digits_others.py            # some ten seconds on two cores
    python examples/digits_others.py --help

It prints milliseconds per training step and how far the losses are apart. Needs the extras
``plugin-accel[snntorch,norse,demo]``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

try:
    import norse.torch as norse
    import snntorch as snn
    from rich.console import Console
    from rich.table import Table
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    raise SystemExit(
        f"digits_others: expected the module '{error.name}', which is not installed; "
        "pip install 'plugin-accel[snntorch,norse,demo]'"
    ) from error

import plugin_accel


class Loop(nn.Module):
    """A net as snnTorch's tutorials write it, with the loop over time in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(64, 256), snn.Leaky(beta=0.9)
        self.fc2, self.lif2 = nn.Linear(256, 10), snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        """Membranes of the readout, [T, batch, classes]."""
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        membranes = []
        for step in range(x.shape[0]):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            _, mem2 = self.lif2(self.fc2(spk1), mem2)
            membranes.append(mem2)
        return torch.stack(membranes)


class Steps(nn.Module):
    """Norse's cells, called step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = norse.SequentialState(nn.Linear(64, 256), norse.LIFCell(), norse.LILinearCell(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Membranes of the readout, [T, batch, classes]."""
        state, membranes = None, []
        for x_t in x * 10:
            membrane, state = self.net(x_t, state)
            membranes.append(membrane)
        return torch.stack(membranes)


class Whole(nn.Module):
    """Norse's layers for sequences, fed forward or recurrent."""

    def __init__(self, hidden: nn.Module) -> None:
        super().__init__()
        self.net = norse.SequentialState(nn.Linear(64, 128), hidden, nn.Linear(128, 10), norse.LI())

    def forward(self, x: Tensor) -> Tensor:
        """Membranes of the readout, [T, batch, classes]."""
        membranes: Tensor = self.net(x * 10)[0]
        return membranes


NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "Leaky, loop over time": ("snnTorch", Loop),
    "cells, loop over time": ("Norse", Steps),
    "LIF": ("Norse", lambda: Whole(norse.LIF())),
    "LIFRecurrent": ("Norse", lambda: Whole(norse.LIFRecurrent(128, 128))),
}


def batches(count: int, size: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Spike trains [T, batch, 64] and labels, always the same."""
    data = load_digits()
    generator = torch.Generator().manual_seed(0)
    images = torch.tensor(data.images, dtype=torch.float32).flatten(1) / 16
    for _ in range(count):
        index = torch.randint(len(images), (size,), generator=generator)
        yield (
            (torch.rand(steps, size, 64, generator=generator) < images[index]).float(),
            torch.tensor(data.target)[index],
        )


def compare(make: Callable[[], nn.Module], options: argparse.Namespace) -> tuple[float, float, float]:
    """Milliseconds per training step of both, and the largest difference of their losses."""
    nets, times, losses = [], ([], []), ([], [])
    for fast in (False, True):
        torch.manual_seed(0)
        net = make()
        nets.append(plugin_accel.convert(net, fuse_time=True) if fast else net)
    optimizers = [torch.optim.Adam(net.parameters(), lr=2e-3) for net in nets]
    for x, y in batches(options.batches, options.batch, options.steps):
        for k, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            start = time.perf_counter()
            loss = nn.functional.cross_entropy(net(x).mean(0), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            times[k].append(1000 * (time.perf_counter() - start))
            losses[k].append(loss.item())
    differ = max(abs(a - b) for a, b in zip(*losses, strict=True))
    # the first calls are recorded, see docs/fusion.md
    slow, quick = (statistics.median(t[3:]) for t in times)
    return slow, quick, differ


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains every network and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=25, metavar="T", help="time steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=12, help="training steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="torch.set_num_threads (default: torch's own)")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    table = Table(title=f"snnTorch and Norse on the digits, T = {options.steps}, milliseconds per training step")
    for column in ("framework", "network", "as it is", "plugin_accel", "", "losses apart"):
        table.add_column(column, justify="left" if column in ("framework", "network") else "right")
    for name, (framework, make) in NETWORKS.items():
        slow, quick, differ = compare(make, options)
        ratio = f"[bold]{slow / quick:.1f} x faster[/bold]"
        table.add_row(framework, name, f"{slow:.1f}", f"{quick:.1f}", ratio, f"{differ:.1g}")
    Console().print(table)


if __name__ == "__main__":
    main()
