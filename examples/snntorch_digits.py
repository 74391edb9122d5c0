"""The two networks of snnTorch's tutorials on scikit-learn's digits, with and without one more line.

A fully connected net (784-1000-10) and a convolutional one (12C5-MP2-64C5-MP2-10), written as the tutorials write them,
with the loop over time in ``forward``. Each is trained twice from the same weights: as it is, and after
``plugin_accel.convert(net, fuse_time=True)``. Runs offline; draws losses, times and the output spikes.

    python examples/snntorch_digits.py                 # both nets
    python examples/snntorch_digits.py --net conv      # one of them
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import snntorch as snn
import torch
import torch.nn as nn
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from snntorch import surrogate

import plugin_accel

num_steps = 25


class FullyConnected(nn.Module):
    def __init__(self, num_hidden: int = 1000, beta: float = 0.95):
        super().__init__()

        # Initialize layers
        self.fc1 = nn.Linear(28 * 28, num_hidden)
        self.lif1 = snn.Leaky(beta=beta)
        self.fc2 = nn.Linear(num_hidden, 10)
        self.lif2 = snn.Leaky(beta=beta)

    def forward(self, x):
        # Initialize hidden states at t=0
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()

        # Record the final layer
        spk2_rec = []
        mem2_rec = []

        for _step in range(num_steps):
            cur1 = self.fc1(x.flatten(1))
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)

        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


class Convolutional(nn.Module):
    def __init__(self, beta: float = 0.5):
        super().__init__()
        spike_grad = surrogate.fast_sigmoid(slope=25)

        # Initialize layers
        self.conv1 = nn.Conv2d(1, 12, 5)
        self.lif1 = snn.Leaky(beta=beta, spike_grad=spike_grad)
        self.conv2 = nn.Conv2d(12, 64, 5)
        self.lif2 = snn.Leaky(beta=beta, spike_grad=spike_grad)
        self.fc1 = nn.Linear(64 * 4 * 4, 10)
        self.lif3 = snn.Leaky(beta=beta, spike_grad=spike_grad)

    def forward(self, x):
        # Initialize hidden states and outputs at t=0
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        mem3 = self.lif3.init_leaky()

        spk3_rec = []
        mem3_rec = []

        for _step in range(num_steps):
            cur1 = F.max_pool2d(self.conv1(x), 2)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = F.max_pool2d(self.conv2(spk1), 2)
            spk2, mem2 = self.lif2(cur2, mem2)
            cur3 = self.fc1(spk2.view(x.size(0), -1))
            spk3, mem3 = self.lif3(cur3, mem3)
            spk3_rec.append(spk3)
            mem3_rec.append(mem3)

        return torch.stack(spk3_rec), torch.stack(mem3_rec)


NETS = {"fc": FullyConnected, "conv": Convolutional}


def digits(limit: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits as images of 28 x 28 in [0, 1], and their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.tensor(bunch.images[:limit], dtype=torch.float32).unsqueeze(1) / 16
    large = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    return large, torch.tensor(bunch.target[:limit])


def train(label: str, net: nn.Module, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """One training as in the tutorials; losses, seconds per training step, accuracy on what was kept back."""
    images, labels = digits(options.limit)
    kept_back = len(images) // 5
    train_x, train_y = images[:-kept_back], labels[:-kept_back]
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=options.lr)
    order = torch.Generator().manual_seed(options.seed)
    losses, seconds = [], []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        batches = len(train_x) // options.batch
        task = progress.add_task(label, total=options.epochs * batches, loss=float("nan"))
        for _epoch in range(options.epochs):
            shuffled = torch.randperm(len(train_x), generator=order)
            for batch in range(batches):
                index = shuffled[batch * options.batch : (batch + 1) * options.batch]
                data, targets = train_x[index], train_y[index]
                start = time.perf_counter()
                spk_rec, mem_rec = net(data)
                loss_val = torch.zeros(())
                for step in range(num_steps):
                    loss_val = loss_val + loss_fn(mem_rec[step], targets) / num_steps
                optimizer.zero_grad()
                loss_val.backward()
                optimizer.step()
                seconds.append(time.perf_counter() - start)
                losses.append(loss_val.item())
                progress.update(task, advance=1, loss=losses[-1])
    with torch.no_grad():
        spk_rec, _ = net(images[-kept_back:])
    accuracy = (spk_rec.sum(0).argmax(1) == labels[-kept_back:]).float().mean().item()
    return {"losses": losses, "seconds": seconds, "accuracy": accuracy, "raster": spk_rec[:, :8].flatten(1)}


def figure(path: Path, runs: dict[str, dict[str, Any]], title: str) -> None:
    """Losses, milliseconds per training step, and the output spikes of eight images."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for (name, run), style in zip(runs.items(), ("-", "--"), strict=True):
        axes[0].plot(run["losses"], style, label=name)
        axes[1].plot([1000 * s for s in run["seconds"]], style, label=name)
    axes[0].set(title=f"{title}: loss", xlabel="training step")
    axes[1].set(title="milliseconds per training step", xlabel="training step", yscale="log")
    fused = runs["fused"]["raster"].nonzero()
    axes[2].scatter(fused[:, 0], fused[:, 1], s=4, color="tab:orange")
    axes[2].set(title="output spikes of eight images", xlabel="time step", ylabel="neuron")
    axes[0].legend()
    shown.savefig(path, dpi=110)
    plt.close(shown)


def median(values: Sequence[float]) -> float:
    """Median of the second half: the first calls of a fused net are recorded."""
    later = sorted(values[len(values) // 2 :])
    return later[len(later) // 2]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=[*NETS, "both"], default="both")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None, help="torch.set_num_threads (default: torch's own)")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the figures and the results")
    parser.add_argument("--quick", action="store_true", help="a few images and steps: does it run at all?")
    options = parser.parse_args(arguments)
    options.limit = 60 if options.quick else None
    options.batch = 8 if options.quick else options.batch
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train each net twice, compare, report."""
    global num_steps
    options = parse(arguments)
    num_steps = 5 if options.quick else 25
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in NETS if options.net == "both" else [options.net]:
        torch.manual_seed(options.seed)
        net = NETS[name](*((20,) if options.quick and name == "fc" else ()))
        nets = {"snnTorch": net, "fused": copy.deepcopy(net)}

        plugin_accel.convert(nets["fused"], fuse_time=True)  # the one more line

        runs = {label: train(f"{name} {label}", net, options, console) for label, net in nets.items()}
        console.print(str(plugin_accel.report(nets["fused"])), highlight=False)
        times = {label: 1000 * median(run["seconds"]) for label, run in runs.items()}
        difference = max(abs(a - b) for a, b in zip(*(run["losses"] for run in runs.values()), strict=True))
        accuracies = " and ".join(f"{run['accuracy']:.3f}" for run in runs.values())
        console.print(
            f"{name}: {times['snnTorch']:.1f} ms -> {times['fused']:.1f} ms per training step, largest difference of"
            f" the losses {difference:.1e}, accuracy {accuracies}"
        )
        figure(options.out / f"snntorch_{name}.png", runs, name)
        summary = {
            label: {**{k: v for k, v in run.items() if k != "raster"}, "median_ms": times[label]}
            for label, run in runs.items()
        }
        (options.out / f"snntorch_{name}.json").write_text(json.dumps(summary, indent=1) + "\n")
        console.print(f"Figure: {options.out / f'snntorch_{name}.png'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
