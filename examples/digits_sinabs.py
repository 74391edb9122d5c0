"""Train a convolutional spiking network on real images twice: with sinabs, then with plugin_accel.

The images are scikit-learn's handwritten digits (1797 images of 8 x 8), turned into spike trains by a Bernoulli rate
code. Both runs start from the same seed and see the same batches; the second differs by one line,
``plugin_accel.convert(model)``.

    python examples/digits_sinabs.py            # about a minute on two cores
    python examples/digits_sinabs.py --help

It prints whether the losses are equal step by step, the test accuracies, the seconds per epoch and where they go, and
writes ``digits_sinabs.png`` and ``digits_sinabs.json``. Needs the extras ``plugin-accel[sinabs,demo]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

try:
    import sinabs
    import sinabs.activation as sa
    import sinabs.layers as sl
    from digits_report import figure, print_report
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    raise SystemExit(
        f"digits_sinabs: expected the module '{error.name}', which is not installed; "
        "pip install 'plugin-accel[sinabs,demo]'"
    ) from error

import plugin_accel

COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("loss {task.fields[loss]:.4f}"),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


@dataclass(frozen=True)
class Digits:
    """Spike trains ``(images, time, 1, 8, 8)`` of 0 and 1, the images they were drawn from, and the labels."""

    spikes: torch.Tensor
    images: torch.Tensor
    labels: torch.Tensor
    train: int

    @classmethod
    def load(cls, steps: int, seed: int, limit: int | None = None, max_rate: float = 0.5) -> Digits:
        """Shuffle the images, keep a fifth for the test, draw spikes with probability ``max_rate * brightness``."""
        data = load_digits()
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(data.target), generator=generator)[:limit]
        images = torch.tensor(data.images, dtype=torch.float32)[order] / 16
        chance = max_rate * images[:, None, None]
        drawn = torch.rand(len(images), steps, 1, 8, 8, generator=generator)
        return cls((drawn < chance).to(torch.uint8), images, torch.tensor(data.target)[order], len(images) * 4 // 5)

    def batch(self, index: torch.Tensor) -> torch.Tensor:
        """The spike trains of some images as sinabs's Squeeze layers take them: ``(images * time, 1, 8, 8)``."""
        return self.spikes[index].flatten(0, 1).float()


@dataclass
class Run:
    """What one training left behind."""

    label: str
    losses: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    accuracy: float = 0.0
    layers: list[tuple[str, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds per epoch (median)."""
        return statistics.median(self.epoch_seconds)

    @property
    def spiking_share(self) -> float:
        """The part of forward and backward that sinabs's layers take, from ``layers``."""
        spiking = sum(milliseconds for name, milliseconds in self.layers if hasattr(sl, name))
        return spiking / sum(milliseconds for _, milliseconds in self.layers)


def network(steps: int, exact: bool = True) -> nn.Sequential:
    """Conv - LIF - pool - conv - LIF - pool - linear - leaky integrator.

    Args:
        steps: Time steps per image.
        exact: A surrogate gradient without ``exp`` and fixed time constants, so that all of the training is additions,
            multiplications and comparisons, which two implementations can do bit for bit alike. Otherwise sinabs's
            defaults: ``exp`` and the long sums of the time constants' gradients differ in the last bit, and a training
            makes such differences grow.
    """
    surrogate = sa.Heaviside() if exact else sa.SingleExponential()
    options = {"tau_mem": 10.0, "norm_input": False, "surrogate_grad_fn": surrogate, "num_timesteps": steps}
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        sl.LIFSqueeze(**options),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        sl.LIFSqueeze(**options),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10, bias=False),
        sl.ExpLeakSqueeze(tau_mem=10.0, num_timesteps=steps),
    )
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            with torch.no_grad():  # spikes are sparse: at torch's default scale the second layer would start silent
                layer.weight *= 2
        elif exact and isinstance(layer, sl.StatefulLayer):
            layer.requires_grad_(False)
    return model


def logits(model: nn.Module, spikes: torch.Tensor, steps: int) -> torch.Tensor:
    """The readout membrane averaged over time, ``(images, classes)``, from a fresh state."""
    sinabs.reset_states(model)
    averaged: torch.Tensor = model(spikes).unflatten(0, (-1, steps)).mean(1)
    return averaged


class Training:
    """One training with Adam on the cross entropy; every random number comes from the seed."""

    def __init__(self, label: str, digits: Digits, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.digits, self.options, self.run = digits, options, Run(label)
        self.model = network(options.steps, not options.defaults)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.lr)
        self.order = torch.Generator().manual_seed(options.seed)

    def epoch(self, title: str, console: Console) -> None:
        """Show every training image once."""
        batches = torch.randperm(self.digits.train, generator=self.order).split(self.options.batch)
        with Progress(*COLUMNS, console=console) as progress:
            task = progress.add_task(f"{title} {self.run.label:<12}", total=len(batches), loss=float("nan"))
            start = time.perf_counter()
            for index in batches:
                self.run.losses.append(self.step(index))
                progress.update(task, advance=1, loss=self.run.losses[-1])
            self.run.epoch_seconds.append(time.perf_counter() - start)

    def step(self, index: torch.Tensor) -> float:
        """Train on some images; their loss."""
        self.optimizer.zero_grad()
        outputs = logits(self.model, self.digits.batch(index), self.options.steps)
        loss = nn.functional.cross_entropy(outputs, self.digits.labels[index])
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def test(self) -> None:
        """Measure the accuracy on the images that were kept back."""
        index = torch.arange(self.digits.train, len(self.digits.labels))
        with torch.no_grad():
            predicted = logits(self.model, self.digits.batch(index), self.options.steps).argmax(1)
        self.run.accuracy = (predicted == self.digits.labels[index]).float().mean().item()


def time_layers(trainings: Sequence[Training], spikes: torch.Tensor, repeats: int = 5) -> None:
    """Milliseconds of forward and backward of each layer alone, on the input it sees in training (median).

    The models take turns, so that what else the machine does meets both.
    """
    inputs = [spikes for _ in trainings]
    for layers in zip(*(training.model for training in trainings), strict=True):
        samples: list[list[float]] = [[] for _ in layers]
        for repeat in range(repeats * len(layers)):
            which = repeat % len(layers)
            sinabs.reset_states(trainings[which].model)
            leaf = inputs[which].detach().requires_grad_(inputs[which].requires_grad)
            start = time.perf_counter()
            result = layers[which](leaf)
            if result.requires_grad:
                result.backward(torch.ones_like(result))
            samples[which].append(1000 * (time.perf_counter() - start))
            if repeat >= (repeats - 1) * len(layers):  # in training, the next layer's input needs its gradient, or not
                inputs[which] = result.detach().requires_grad_(result.requires_grad)
        for training, layer, milliseconds in zip(trainings, layers, samples, strict=True):
            training.run.layers.append((type(layer).__name__, statistics.median(milliseconds)))
    for training in trainings:
        sinabs.reset_states(training.model)
        training.model.zero_grad()


def raster(model: nn.Sequential, spikes: torch.Tensor, steps: int, layer: int = 4) -> torch.Tensor:
    """Spike counts ``(time, neurons)`` of one layer for one image."""
    with torch.no_grad():
        sinabs.reset_states(model)
        counts: torch.Tensor = model[: layer + 1](spikes).unflatten(0, (-1, steps))[0].flatten(1)
    return counts


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, metavar="T", help="time steps per image")
    parser.add_argument("--batch", type=int, default=32, help="images per training step")
    parser.add_argument("--lr", type=float, default=5e-3, help="learning rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--defaults", action="store_true", help="sinabs's default surrogate gradient, trainable time constants"
    )
    parser.add_argument("--threads", type=int, default=None, help="torch.set_num_threads (default: torch's own)")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for digits_sinabs.png and .json")
    parser.add_argument("--quick", action="store_true", help="a few images, steps and epochs: does it run at all?")
    options = parser.parse_args(arguments)
    options.limit = None
    if options.quick:
        options.epochs, options.steps, options.batch, options.limit = 2, 8, 16, 120
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train twice, compare, report."""
    options = parse(arguments)
    console = Console()
    digits = Digits.load(options.steps, options.seed, options.limit)
    console.print(
        f"{digits.train} training and {len(digits.labels) - digits.train} test images of 8 x 8, T = {options.steps} "
        f"time steps, batches of {options.batch}, fp32, {torch.get_num_threads()} threads"
    )
    trainings = [Training(label, digits, options) for label in ("sinabs", "plugin_accel")]
    accelerated = trainings[1]
    plugin_accel.convert(accelerated.model)

    # In turns, so that what else the machine does meets both; they share nothing but the data.
    for epoch in range(options.epochs):
        for training in trainings:
            training.epoch(f"epoch {epoch + 1}/{options.epochs}", console)
    for training in trainings:
        training.test()
    time_layers(trainings, digits.batch(torch.arange(min(options.batch, digits.train))))
    report = plugin_accel.report(accelerated.model)
    console.print(str(report), highlight=False)

    runs = [training.run for training in trainings]
    shown = torch.tensor([digits.train])
    rasters = [raster(training.model, digits.batch(shown), options.steps) for training in trainings]
    options.out.mkdir(parents=True, exist_ok=True)
    picture = options.out / "digits_sinabs.png"
    figure(picture, runs, digits.images[shown[0]], int(digits.labels[shown[0]]), rasters, options.steps)
    summary = {
        "T": options.steps,
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        "runs": [asdict(run) for run in runs],
        "raster_equal": torch.equal(*rasters),
        "report": report.to_dict(),
    }
    (options.out / "digits_sinabs.json").write_text(json.dumps(summary, indent=1) + "\n")
    print_report(console, runs, options.steps)
    console.print(f"Figure: {picture}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
