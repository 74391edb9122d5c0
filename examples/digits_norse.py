"""Train a convolutional Norse network on real images twice: as it is, then with plugin_accel.

A `SequentialState` of convolutions, `LIF` and a leaky integrator learns scikit-learn's handwritten digits (1797 images
of 8 x 8), turned into spike trains by a Bernoulli rate code. Both runs start from the same seed and see the same
batches; the second differs by one line, ``plugin_accel.convert(model)``.

    python examples/digits_norse.py            # some minutes on two cores, nearly all of them Norse's own
    python examples/digits_norse.py --help

It prints losses, test accuracies and seconds per epoch. Needs the extras ``plugin-accel[norse,demo]``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

try:
    import norse.torch as norse
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    raise SystemExit(
        f"digits_norse: expected the module '{error.name}', which is not installed; "
        "pip install 'plugin-accel[norse,demo]'"
    ) from error

import plugin_accel


def network() -> norse.SequentialState:
    """Conv - LIF - pool - conv - LIF - pool - linear - LI; the time constants are those of Norse."""
    p = norse.LIFParameters(v_th=torch.tensor(0.3))
    model = norse.SequentialState(
        norse.Lift(nn.Conv2d(1, 16, 3, padding=1)),
        norse.LIF(p),
        norse.Lift(nn.AvgPool2d(2)),
        norse.Lift(nn.Conv2d(16, 32, 3, padding=1)),
        norse.LIF(p),
        norse.Lift(nn.AvgPool2d(2)),
        nn.Flatten(2),
        nn.Linear(128, 10),
        norse.LI(),
    )
    with torch.no_grad():  # spikes are sparse: at torch's default scale the second layer would start silent
        for layer in (model[0], model[3]):
            layer.lifted_module.weight *= 4
    return model


def digits(steps: int, limit: int | None) -> tuple[Tensor, Tensor]:
    """Spike trains ``(images, time, 1, 8, 8)`` and labels, in an order that is always the same."""
    data = load_digits()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(data.target), generator=generator)[:limit]
    chance = torch.tensor(data.images, dtype=torch.float32)[order, None, None] / 16
    drawn = torch.rand(len(order), steps, 1, 8, 8, generator=generator) < chance
    return drawn.float(), torch.tensor(data.target)[order]


def logits(model: nn.Module, spikes: Tensor) -> Tensor:
    """The readout's highest membrane, ``(images, classes)``."""
    membrane, _ = model(spikes.transpose(0, 1).contiguous())  # Norse takes time first
    highest: Tensor = membrane.amax(0)
    return highest


def train(model: nn.Module, x: Tensor, y: Tensor, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Losses of every batch and seconds of every epoch, training on four fifths of the images."""
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(1)
    losses, seconds, count = [], [], len(x) * 4 // 5
    for _ in range(options.epochs):
        start = time.perf_counter()
        for index in torch.randperm(count, generator=generator).split(options.batch):
            loss = nn.functional.cross_entropy(logits(model, x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    return losses, seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Runs both trainings and prints what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help="time steps per image (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--limit", type=int, help="use this many images only")
    options = parser.parse_args(argv)
    x, y = digits(options.steps, options.limit)
    held_out = len(x) * 4 // 5
    found = {}
    for name in ("Norse", "plugin_accel"):
        torch.manual_seed(0)
        model = network()
        if name == "plugin_accel":
            plugin_accel.convert(model, strict=True)
            print(plugin_accel.report(model))
        losses, seconds = train(model, x, y, options)
        with torch.no_grad():
            right = (logits(model, x[held_out:]).argmax(1) == y[held_out:]).float().mean().item()
        found[name] = (losses, min(seconds))
        print(f"{name:13} last loss {losses[-1]:.5f}   test accuracy {right:.1%}   {min(seconds):.2f} s per epoch")
    (theirs, slow), (ours, fast) = found.values()
    differ = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    print(f"{slow / fast:.1f} times faster; losses differ by {differ:.1e} at most")


if __name__ == "__main__":
    main()
