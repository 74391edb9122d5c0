"""The convolutions of ``plugin-accel bench --sparse``: `SpikeConv2d` against `nn.Conv2d` over the density of the input.

Two calls: the forward pass without gradients, and a step with the gradient of weights and bias. Results, per
convolution: name, title, break_even {forward, step} as measured, points: list of density, error, calls {forward, step:
{dense_s, spikes_s, ratio, goal}}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plugin_accel.bench.timing import Stats, Timed, interleave
from plugin_accel.layers import SpikeConv2d
from plugin_accel.layers.spike_conv import Geometry, break_even_of

CONVOLUTION, SPIKES = "nn.Conv2d", "SpikeConv2d"
FORWARD, STEP = "forward", "step"
CALLS = {FORWARD: "forward", STEP: "forward and weight gradient"}
DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.4)
GOALS = {0.05: 1.5}
LEAST = 0.97


@dataclass(frozen=True)
class Conv:
    """A convolution with padding that keeps the size."""

    inputs: int
    outputs: int
    kernel: int
    size: int
    images: int = 400

    @property
    def name(self) -> str:
        """As in --only."""
        return f"conv-{self.inputs}x{self.outputs}x{self.kernel}x{self.size}"

    @property
    def title(self) -> str:
        """For tables."""
        k, size = self.kernel, self.size
        return f"{self.inputs} -> {self.outputs} channels, {k} x {k} on {size} x {size}, {self.images} images"


CONVS = (Conv(12, 64, 5, 12), Conv(64, 64, 3, 16), Conv(32, 64, 5, 14), Conv(128, 128, 3, 8))


def measure(convs: Sequence[Conv], rounds: int, quick: bool) -> list[dict[str, Any]]:
    """Run some of them."""
    found = []
    for conv in convs:
        shrunk = Conv(3, 8, 3, 6, 2) if quick else conv
        points = [_point(shrunk, density, rounds) for density in (DENSITIES[1:2] if quick else DENSITIES)]
        x, weight = torch.zeros(shrunk.images, shrunk.inputs, shrunk.size, shrunk.size), _layer(shrunk).weight
        geometry = Geometry((1, 1), (shrunk.kernel // 2, shrunk.kernel // 2), (1, 1))
        limits = {call: break_even_of(x, weight, geometry, call == STEP) for call in CALLS}
        found.append({"name": conv.name, "title": conv.title, "break_even": limits, "points": points})
    return found


def _layer(conv: Conv) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(conv.inputs, conv.outputs, conv.kernel, padding=conv.kernel // 2)


def _point(conv: Conv, density: float, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(conv.images, conv.inputs, conv.size, conv.size, generator=generator) < density).float()
    upstream = torch.randn(conv.images, conv.outputs, conv.size, conv.size, generator=generator)
    layers = {CONVOLUTION: _layer(conv), SPIKES: _layer(conv)}
    layers[SPIKES].__class__ = SpikeConv2d
    found: dict[str, Any] = {"density": density, "error": _error(layers, x, upstream), "calls": {}}

    def forward(layer: nn.Conv2d) -> Callable[[], object]:
        @torch.no_grad()
        def run() -> object:
            return layer(x)

        return run

    def step(layer: nn.Conv2d) -> Callable[[], object]:
        return lambda: layer(x).backward(upstream)

    for call, run in ((FORWARD, forward), (STEP, step)):
        timed = [Timed(name, run(layer), layer.zero_grad) for name, layer in layers.items()]
        dense, spikes = (Stats.of(s).median_s for s in interleave(timed, rounds, 0.03).values())
        goal = GOALS.get(density, LEAST)
        found["calls"][call] = {"dense_s": dense, "spikes_s": spikes, "ratio": dense / spikes, "goal": goal}
    return found


def _error(layers: dict[str, nn.Conv2d], x: Tensor, upstream: Tensor) -> float:
    """Largest difference of outputs and gradients, in relation to the largest entry."""
    found = []
    for layer in layers.values():
        y = layer(x)
        found.append([y.detach(), *torch.autograd.grad(y, list(layer.parameters()), upstream)])
    error = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True))
    if not error <= 1e-5:
        raise RuntimeError(
            f"sparse: expected {SPIKES} to agree with {CONVOLUTION} within 1e-5, got an error of {error}"
        )
    return error


def tables(results: Sequence[dict[str, Any]]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Every table as its title and rows, the first of which is the header."""
    found = []
    for conv in results:
        rows: list[tuple[str, ...]] = [("density", *CALLS.values(), "goals")]
        for point in conv["points"]:
            calls = point["calls"]
            cells = [
                f"{1e3 * calls[c]['dense_s']:.2f} / {1e3 * calls[c]['spikes_s']:.2f} ms = {calls[c]['ratio']:.2f}x"
                for c in CALLS
            ]
            missed = [CALLS[c] for c in CALLS if calls[c]["ratio"] < calls[c]["goal"]]
            rows.append((f"{point['density']:.1%}", *cells, "MISSED: " + ", ".join(missed) if missed else "met"))
        told = ", ".join(f"{CALLS[c]} {conv['break_even'][c]:.0%}" for c in CALLS)
        found.append((f"{conv['title']} (break-even: {told})", rows))
    return found
