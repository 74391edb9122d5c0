"""Train an event-based GRU on handwritten digits that arrive one pixel at a time.

scikit-learn's 8 x 8 images become sequences of 64 steps with one feature; the classes are read off the output trace at
the end of each row of pixels. Most units stay silent at most steps: a penalty on the activity (docs/egru.md) keeps it
so, and the kernels skip what is silent.

    python examples/egru_digits.py            # about half a minute on two cores
    python examples/egru_digits.py --help

It prints loss, accuracy and activity per epoch and writes ``egru_digits.png`` (loss, activity, raster) and
``egru_digits.json``. Needs the extra ``plugin-accel[demo]``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    raise SystemExit(
        f"egru_digits: expected the module '{error.name}', which is not installed; pip install 'plugin-accel[demo]'"
    ) from error

from plugin_accel.layers import EGRU, activity_loss


class Reader(nn.Module):
    """An EGRU over the pixels and a linear readout of its output trace."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.rnn = EGRU(1, hidden, pseudo_derivative_support=1.7, thr_mean=0.1)
        self.read = nn.Linear(8 * hidden, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [T, B, 1] to class scores [B, 10] and events [T, B, H]."""
        _, (_, o, trace) = self.rnn(x)
        return self.read(trace[7::8].transpose(0, 1).flatten(1)), o


def load(seed: int, limit: int | None) -> tuple[Tensor, Tensor, int]:
    """Sequences [images, 64, 1], labels, and how many are for training; shuffled."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))[:limit]
    pixels = torch.tensor(data.images, dtype=torch.float32).flatten(1)[order, :, None] / 16
    return 2 * pixels - 1, torch.tensor(data.target)[order], len(order) * 4 // 5


def train(options: argparse.Namespace) -> dict[str, list[float]]:
    """Train, print as it goes, draw; the history."""
    torch.manual_seed(options.seed)
    x, labels, split = load(options.seed, options.limit)
    model = Reader(options.hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    steps = options.epochs * -(-split // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps)
    history: dict[str, list[float]] = {"loss": [], "accuracy": [], "events": [], "silent": [], "seconds": []}
    test = x[split:].transpose(0, 1)
    for epoch in range(options.epochs):
        start, total, seen = time.perf_counter(), 0.0, []
        for index in torch.randperm(split).split(options.batch):
            scores, o = model(x[index].transpose(0, 1))
            loss = nn.functional.cross_entropy(scores, labels[index])
            optimizer.zero_grad()
            (loss + options.penalty * activity_loss(o, options.target)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
            seen.append(model.rnn.activity())
        model.eval()
        with torch.no_grad():
            scores, events = model(test)
        model.train()
        history["loss"].append(total / split)
        history["accuracy"].append(float((scores.argmax(1) == labels[split:]).float().mean()))
        history["events"].append(sum(a.events for a in seen) / len(seen))
        history["silent"].append(sum(a.silent for a in seen) / len(seen))
        history["seconds"].append(time.perf_counter() - start)
        print(
            f"epoch {epoch + 1:3d}/{options.epochs}  loss {history['loss'][-1]:.3f}  "
            f"test accuracy {history['accuracy'][-1]:.1%}  active {history['events'][-1]:.1%}  "
            f"{history['seconds'][-1]:.1f} s",
            flush=True,
        )
    draw(history, test[:, 0, 0].reshape(8, 8), events[:, 0], int(labels[split]), options.out / "egru_digits.png")
    (options.out / "egru_digits.json").write_text(json.dumps(history, indent=1) + "\n")
    return history


def draw(history: dict[str, list[float]], image: Tensor, events: Tensor, label: int, path: Path) -> None:
    """Loss and accuracy, activity, and the events of one test image under its pixels."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    (left, right), (picture, raster) = axes
    epochs = range(1, len(history["loss"]) + 1)
    left.plot(epochs, history["loss"], color="#0f7b8a")
    left.set(title="Loss and test accuracy", xlabel="epoch", ylabel="cross entropy")
    twin = left.twinx()
    twin.plot(epochs, history["accuracy"], color="#c4572e")
    twin.set(ylabel="test accuracy", ylim=(0, 1))
    right.plot(epochs, history["events"], color="#0f7b8a", label="send an event")
    right.plot(epochs, history["silent"], color="#b3b9c4", label="silent, surrogate zero")
    right.set(title="Units per step", xlabel="epoch", ylabel="fraction", ylim=(0, 1))
    right.legend(frameon=False)
    picture.imshow(image, cmap="gray")
    picture.set(title=f"A test image, label {label}", xticks=[], yticks=[])
    where = events.nonzero()
    raster.scatter(where[:, 0], where[:, 1], s=2, color="#23272f")
    raster.set(title="Events while it is read", xlabel="pixel", ylabel="unit", xlim=(-1, len(events)))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="EGRU on scikit-learn's digits, pixel by pixel.")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--penalty", type=float, default=5.0, help="weight of the activity loss")
    parser.add_argument("--target", type=float, default=0.05, help="events per unit and step aimed at")
    parser.add_argument("--limit", type=int, help="use so many images only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder for figure and numbers")
    return parser.parse_args(arguments)


def main() -> None:
    """Run it."""
    options = parse()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    history = train(options)
    print(f"test accuracy {history['accuracy'][-1]:.1%} after {sum(history['seconds']):.0f} s")


if __name__ == "__main__":
    main()
