"""What a single step costs, and what of it no layer can save: the table in docs/architecture.md.

    python benchmarks/step_floor.py [leaky,synaptic,alpha,rleaky] [rounds]

Each row is the loop of `plugin-accel bench --host snntorch --only "*-step-*"` around another layer, forward and
backward, T=100, B=16, N=512, two threads, interleaved.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

import plugin_accel
from plugin_accel.bench import snntorch_suite as suite

STEPS, BATCH, NEURONS = 100, 16, 512
SAMPLES = 4  # in a turn


class Identity(nn.Module):
    """`unbind`, `stack` and their backward alone."""

    def reset_mem(self) -> None:
        """There is nothing to reset."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The input as spikes."""
        return (x,)


class _Node(torch.autograd.Function):
    """Allocates what Leaky's step allocates, and neither computes nor writes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mem: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(torch.empty_like(x))
        ctx.set_materialize_grads(False)
        return torch.empty_like(x), torch.empty_like(mem)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor]:
        (kept,) = ctx.saved_tensors
        return torch.empty_like(kept), torch.empty_like(kept)


class Empty(Identity):
    """One node of autograd, in Python."""

    mem: Tensor

    def reset_mem(self) -> None:
        """Starts a sequence."""
        self.mem = torch.zeros(BATCH, NEURONS)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Memory as spikes."""
        spk, self.mem = _Node.apply(x, self.mem)  # type: ignore[no-untyped-call]
        return spk, self.mem


def seconds(loop: nn.Module, x: Tensor, upstream: Tensor) -> float:
    """Of one sequence, forward and backward."""
    loop.reset_states()  # type: ignore[operator]
    x.grad = None
    for parameter in loop.parameters():
        parameter.grad = None
    start = time.perf_counter()
    loop(x).backward(upstream)
    return time.perf_counter() - start


def main(names: str = "leaky", rounds: str = "20") -> None:
    """Prints the table of each layer."""
    torch.set_num_threads(2)
    upstream = torch.randn(STEPS, BATCH, NEURONS)
    for name in names.split(","):
        words, layer, (mean, deviation) = suite._NEURONS[name]
        x = (torch.randn(STEPS, BATCH, NEURONS) * deviation + mean).requires_grad_()
        layers = {
            f"snnTorch's {words}": layer(),
            "the same, converted": plugin_accel.convert(layer(), strict=True),
            "an empty autograd function": Empty(),
            "a layer that returns its input": Identity(),
        }
        loops = {what: suite.Loop(made) for what, made in layers.items()}
        taken: dict[str, list[float]] = {what: [] for what in loops}
        for _ in range(int(rounds) + 1):
            for what, loop in loops.items():
                taken[what] += [seconds(loop, x, upstream) for _ in range(SAMPLES)]
        medians = [statistics.median(t[SAMPLES:]) / STEPS * 1e6 for t in taken.values()]  # the first turn warms up
        for what, median in zip(loops, medians, strict=True):
            print(f"| {what} | {median:.0f} us | {medians[0] / median:.1f}x |")


if __name__ == "__main__":
    main(*sys.argv[1:])
