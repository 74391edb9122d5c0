"""A character language model with an event-based GRU, on text that ships with Python.

The text is Python's own: the Zen (``import this``), its licence, and pages of its reference (``pydoc``). Training uses
truncated backpropagation with the full state carried from chunk to chunk, the last tenth of the text is held out, and
the perplexity is compared with that of the best model without memory: the frequencies of the characters (unigrams).

    python examples/egru_characters.py        # about a minute on two cores
    python examples/egru_characters.py --help

It prints perplexities and activity, writes ``egru_characters.json`` and ends with a few lines of its own. Needs nothing
but torch.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import json
import math
import re
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn

from plugin_accel.layers import EGRU, EGRUState, activity_loss


class Model(nn.Module):
    """Embedding, EGRU, and scores of the next character."""

    def __init__(self, characters: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, 64)
        self.rnn = EGRU(64, hidden, thr_mean=0.3)
        self.read = nn.Linear(hidden, characters)

    def forward(self, text: Tensor, state: EGRUState | None = None) -> tuple[Tensor, EGRUState, Tensor]:
        """Characters [T, B] to scores [T, B, characters], the state to continue from, and events [T, B, H]."""
        y, (_, o, _), state = self.rnn(self.embed(text), state, return_state=True)
        return self.read(y), state, o


def corpus(size: int) -> str:
    """The Zen of Python, the licence where it is installed, and pages of Python's reference; `size` characters."""
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    parts = [codecs.decode(this.s, "rot13")]
    folder = Path(sysconfig.get_path("stdlib"))
    parts += [
        f.read_text(encoding="utf-8") for f in (folder / "LICENSE.txt", folder.parent / "LICENSE.txt") if f.exists()
    ]
    parts += [topics[name] for name in sorted(topics)]
    text = "".join(c if " " <= c <= "~" or c == "\n" else "?" for c in "\n".join(parts)[:size])
    return re.sub(r"[*=~-]{4,}", "----", text)


def perplexity_of_frequencies(train: Tensor, held_out: Tensor, characters: int) -> float:
    """What the best model without memory reaches: each character as often as in training."""
    counts = torch.bincount(train, minlength=characters).double() + 1
    return math.exp(-float((counts / counts.sum()).log()[held_out].mean()))


@torch.no_grad()
def evaluate(model: Model, text: Tensor) -> float:
    """Perplexity of the held-out text, read in one pass."""
    model.eval()
    scores, _, _ = model(text[:-1, None])
    model.train()
    return math.exp(float(nn.functional.cross_entropy(scores[:, 0], text[1:])))


@torch.no_grad()
def write(model: Model, start: Tensor, count: int) -> list[int]:
    """Continue a text, one character and one step at a time."""
    model.eval()
    generator = torch.Generator().manual_seed(0)
    scores, state, _ = model(start[:, None])
    written = []
    for _ in range(count):
        chances = torch.softmax(scores[-1, 0] / 0.6, 0)
        written.append(int(torch.multinomial(chances, 1, generator=generator)))
        scores, state, _ = model(torch.tensor([[written[-1]]]), state)
    model.train()
    return written


def train(options: argparse.Namespace) -> dict[str, list[float] | float | str]:
    """Train, print as it goes; perplexities, activity and a sample."""
    torch.manual_seed(options.seed)
    text = corpus(options.size)
    alphabet = sorted(set(text))
    codes = torch.tensor([alphabet.index(c) for c in text])
    split = len(codes) * 9 // 10
    known, held_out = codes[:split], codes[split:]
    baseline = perplexity_of_frequencies(known, held_out, len(alphabet))
    print(f"{len(text)} characters, {len(alphabet)} different; unigram perplexity {baseline:.2f}", flush=True)
    columns = known[: split // options.batch * options.batch].view(options.batch, -1).t().contiguous()
    chunks = [columns[i : i + options.steps + 1] for i in range(0, len(columns) - 1, options.steps)]
    model = Model(len(alphabet), options.hidden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.epochs * len(chunks))
    perplexities, events = [], []
    for epoch in range(options.epochs):
        began, total, state = time.perf_counter(), 0.0, None
        for chunk in chunks:
            scores, state, o = model(chunk[:-1], state)
            state = EGRUState(*(s.detach() for s in state))
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), chunk[1:].flatten())
            optimizer.zero_grad()
            (loss + options.penalty * activity_loss(o, options.target)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        events.append(model.rnn.activity().events)
        perplexities.append(evaluate(model, held_out))
        print(
            f"epoch {epoch + 1:3d}/{options.epochs}  perplexity {math.exp(total / len(chunks)):6.2f} in training, "
            f"{perplexities[-1]:6.2f} held out  active {events[-1]:.1%}  {time.perf_counter() - began:.1f} s",
            flush=True,
        )
    sample = "".join(alphabet[c] for c in write(model, held_out[:50], 300))
    return {"unigram": baseline, "held_out": perplexities, "events": events, "sample": sample}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A character language model with EGRU.")
    parser.add_argument("--size", type=int, default=120_000, help="characters of text")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=64, help="steps of backpropagation through time")
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--penalty", type=float, default=2.0, help="weight of the activity loss")
    parser.add_argument("--target", type=float, default=0.15, help="events per unit and step aimed at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder for the numbers")
    return parser.parse_args(arguments)


def main() -> None:
    """Run it."""
    options = parse()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    result = train(options)
    (options.out / "egru_characters.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n" + str(result["sample"]))


if __name__ == "__main__":
    main()
