"""``plugin-accel bench --sparse``: `SpikeLinear` against `nn.Linear` over the density of the input.

Three calls at each density: the forward pass without gradients; the backward pass alone, for weight and bias; and a
whole step, with weights that have changed since the last one. Before it is timed, `SpikeLinear` must agree with
`nn.Linear`. It writes ``sparse-cpu.json`` and ``sparse-cpu.png``::

    schema       1
    host, quick  "sparse"; quick means tiny sizes, whose times mean nothing
    environment  as in the other suites
    sweeps       list of: name, shape [rows, inputs, outputs], break_even {forward, weight_gradient} as measured,
                 points: list of: density, error (largest difference in relation to the largest entry),
                     calls {forward, weight_gradient, whole: {peers {name: {median_s, q1_s, q3_s, min_s, samples}},
                         ratio (nn.Linear over SpikeLinear), goal}},
                     kept (bytes per entry of the input that autograd keeps of one that has a gradient)
    streaming    list of: shape, density, linear_s, spikes_s, ratio, goal: single steps without gradients
    convolutions see `sparse_convs`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from plugin_accel.bench import environment, output, sparse_convs
from plugin_accel.bench.render import sections
from plugin_accel.bench.timing import Stats, Timed, interleave
from plugin_accel.conversion.reporting import table
from plugin_accel.layers import SpikeLinear, spike_choice

LINEAR, SPIKES = "nn.Linear", "SpikeLinear"
FORWARD, GRADIENT, WHOLE = "forward", "weight_gradient", "whole"
CALLS = {FORWARD: "forward", GRADIENT: "weight gradient", WHOLE: "whole step"}
DENSITIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
LEAST = 0.97


@dataclass(frozen=True)
class Sweep:
    """One shape; `goals`: at a density, those of forward and of the weight's gradient."""

    rows: int
    inputs: int
    outputs: int
    goals: tuple[tuple[float, float, float], ...] = ()

    @property
    def name(self) -> str:
        """As in --only."""
        return f"{self.rows}x{self.inputs}x{self.outputs}"


_GOALS = ((0.02, 8.0, 5.0), (0.05, 5.0, 3.0))
SWEEPS = (
    Sweep(3200, 784, 1000, _GOALS),
    Sweep(8000, 512, 512, _GOALS),
    Sweep(6400, 2312, 256),
    Sweep(12800, 128, 128),
    Sweep(3200, 1000, 10),
)
STREAMING = ((1, 784, 1000, 3.0), (1, 512, 512, 1.0), (8, 784, 1000, 1.0))
STREAMED = 0.05


class Setup:
    """Both layers on one input."""

    def __init__(self, sweep: Sweep, density: float) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = (torch.rand(sweep.rows, sweep.inputs, generator=generator) < density).float()
        self.upstream = torch.randn(sweep.rows, sweep.outputs, generator=generator)
        self.layers = {LINEAR: nn.Linear(sweep.inputs, sweep.outputs), SPIKES: nn.Linear(sweep.inputs, sweep.outputs)}
        self.layers[SPIKES].load_state_dict(self.layers[LINEAR].state_dict())
        self.layers[SPIKES].__class__ = SpikeLinear
        self.out: dict[str, Tensor] = {}

    def error(self) -> float:
        """Largest difference of outputs and gradients, in relation to the largest entry.

        Raises:
            RuntimeError: They differ by more than the order of summation explains.
        """
        found = []
        for layer in self.layers.values():
            layer.zero_grad(set_to_none=True)
            y = layer(self.x)
            y.backward(self.upstream)
            found.append([y.detach(), *(p.grad for p in layer.parameters() if p.grad is not None)])
        errors = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True)]
        if not max(errors) <= 1e-5:
            raise RuntimeError(f"sparse: expected {SPIKES} to agree with {LINEAR} within 1e-5, got errors {errors}")
        return max(errors)

    def timed(self, call: str) -> list[Timed]:
        """Both, in one of the three calls."""
        return [Timed(name, self.run(name, call), self.prepare(name, call)) for name in self.layers]

    def prepare(self, name: str, call: str) -> Callable[[], None]:
        """What happens before each sample."""
        layer = self.layers[name]

        def prepared() -> None:
            layer.zero_grad(set_to_none=True)
            if call == GRADIENT:
                self.out[name] = layer(self.x)
            elif call == WHOLE:
                with torch.no_grad():
                    layer.weight.mul_(1.0)  # as an optimizer would

        return prepared

    def run(self, name: str, call: str) -> Callable[[], object]:
        """What is timed."""
        layer = self.layers[name]

        def forward() -> None:
            with torch.no_grad():
                layer(self.x)

        def gradient() -> None:
            self.out[name].backward(self.upstream)

        def whole() -> None:
            layer(self.x).backward(self.upstream)

        return {FORWARD: forward, GRADIENT: gradient, WHOLE: whole}[call]

    def kept(self) -> float:
        """Bytes per entry that autograd keeps of an input that has a gradient."""
        sizes: dict[int, int] = {}
        layer = self.layers[SPIKES]
        parameters = {p.untyped_storage().data_ptr() for p in layer.parameters()}

        def pack(t: Tensor) -> Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            layer(self.x.clone().requires_grad_())
        return sum(size for address, size in sizes.items() if address not in parameters) / self.x.numel()


def measure(workloads: Sequence[Sweep | sparse_convs.Conv], rounds: int, threads: int, quick: bool) -> dict[str, Any]:
    """Run some sweeps, and the streaming steps if none is left out."""
    sweeps = [w for w in workloads if isinstance(w, Sweep)]
    convs = [w for w in workloads if isinstance(w, sparse_convs.Conv)]
    described = environment.describe("torch")
    results: dict[str, Any] = {"schema": 1, "host": "sparse", "quick": quick, "environment": described, "sweeps": []}
    torch.set_num_threads(threads)
    for sweep in sweeps:
        print(f"  {sweep.name}", file=sys.stderr, flush=True)
        shrunk = Sweep(64, 80, 48, sweep.goals) if quick else sweep
        points = [_point(shrunk, density, rounds) for density in DENSITIES[2:8:3] if quick] or [
            _point(shrunk, density, rounds) for density in DENSITIES
        ]
        results["sweeps"].append(
            {
                "name": sweep.name,
                "shape": [sweep.rows, sweep.inputs, sweep.outputs],
                "break_even": _break_even(shrunk),
                "points": points,
            }
        )
    results["streaming"] = _streaming(rounds) if not quick and len(sweeps) == len(SWEEPS) else []
    results["convolutions"] = sparse_convs.measure(convs, rounds, quick)
    described["threads"] = threads
    described["load_after"] = environment.load()
    return results


def _point(sweep: Sweep, density: float, rounds: int) -> dict[str, Any]:
    setup = Setup(sweep, density)
    goals = {d: {FORWARD: forward, GRADIENT: gradient} for d, forward, gradient in sweep.goals}.get(density, {})
    found: dict[str, Any] = {"density": density, "error": setup.error(), "calls": {}, "kept": setup.kept()}
    for call in CALLS:
        stats = {name: Stats.of(s) for name, s in interleave(setup.timed(call), rounds, 0.03).items()}
        found["calls"][call] = {
            "peers": {name: asdict(s) for name, s in stats.items()},
            "ratio": stats[LINEAR].median_s / stats[SPIKES].median_s,
            "goal": goals.get(call, LEAST),
        }
    return found


def _break_even(sweep: Sweep) -> dict[str, float] | None:
    for key, found in spike_choice.measured().items():
        described = dict(zip(spike_choice.KEY, key, strict=True))
        if described["training"] and (described["inputs"], described["outputs"]) == (sweep.inputs, sweep.outputs):
            return found._asdict()
    pinned = spike_choice.pinned()
    return None if pinned is None else pinned._asdict()


def _streaming(rounds: int) -> list[dict[str, Any]]:
    found = []
    for rows, inputs, outputs, goal in STREAMING:
        setup = Setup(Sweep(rows, inputs, outputs), STREAMED)
        timed = [Timed(name, setup.run(name, FORWARD), calls=100) for name in setup.layers]
        stats = {name: Stats.of(s) for name, s in interleave(timed, rounds).items()}
        linear, spikes = stats[LINEAR].median_s, stats[SPIKES].median_s
        found.append(
            {
                "shape": [rows, inputs, outputs],
                "density": STREAMED,
                "linear_s": linear,
                "spikes_s": spikes,
                "ratio": linear / spikes,
                "goal": goal,
            }
        )
    return found


def tables(results: dict[str, Any]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Every table as its title and rows, the first of which is the header."""
    found = []
    for sweep in results["sweeps"]:
        rows: list[tuple[str, ...]] = [("density", *(CALLS[c] for c in CALLS), "goals", "kept, bytes per entry")]
        for point in sweep["points"]:
            calls = point["calls"]
            cells = [_cell(calls[call]) for call in CALLS]
            missed = [CALLS[c] for c in CALLS if calls[c]["ratio"] < calls[c]["goal"]]
            goals = "MISSED: " + ", ".join(missed) if missed else "met"
            rows.append((f"{point['density']:.1%}", *cells, goals, f"{point['kept']:.3f}"))
        limits = sweep["break_even"]
        told = "" if limits is None else ", ".join(f"{CALLS[c]} {limits[c]:.0%}" for c in (FORWARD, GRADIENT))
        found.append((f"{' x '.join(map(str, sweep['shape']))} (break-even: {told or 'not measured'})", rows))
    if results["streaming"]:
        rows = [("single steps at 5%", LINEAR, SPIKES, "ratio", "goal")]
        for s in results["streaming"]:
            name = " x ".join(map(str, s["shape"]))
            times = [f"{1e6 * s[key]:.1f} us" for key in ("linear_s", "spikes_s")]
            goal = f"{s['goal']:g}x {'met' if s['ratio'] >= s['goal'] else 'MISSED'}"
            rows.append((name, *times, f"{s['ratio']:.1f}x", goal))
        found.append(("Streaming", rows))
    return found + sparse_convs.tables(results["convolutions"])


def _cell(call: dict[str, Any]) -> str:
    linear, spikes = (1e3 * call["peers"][name]["median_s"] for name in (LINEAR, SPIKES))
    return f"{linear:.2f} / {spikes:.2f} ms = {call['ratio']:.2f}x"


def markdown(results: dict[str, Any]) -> str:
    """The tables for the documentation."""
    e = results["environment"]
    lines = ["<!-- Written by `plugin-accel bench --sparse --markdown`; do not edit. -->", ""]
    lines += [
        f"plugin_accel {e['plugin_accel']}, torch {e['torch']}, python {e['python']}; {e['cpu']}, {e['isa']}, "
        f"{e['threads']} threads, fp32; load average {e['load_before']} before and {e['load_after']} after; "
        f"{e['date']}. Medians of {LINEAR} / {SPIKES}, then {sparse_convs.CONVOLUTION} / {sparse_convs.SPIKES}; goals: "
        f"those of the shape, else {LEAST:g}x.",
        "",
    ]
    return "\n".join([*lines, *sections(tables(results))])


def main(options: argparse.Namespace) -> int:
    """Run the suite with the options of ``plugin-accel bench``."""
    workloads: list[Sweep | sparse_convs.Conv] = [*SWEEPS, *sparse_convs.CONVS]
    workloads = output.chosen(options, workloads)
    if (code := output.told(options, workloads)) is not None:
        return code
    drawn = not options.no_figure and any(isinstance(w, Sweep) for w in workloads)
    if drawn and find_spec("matplotlib") is None:
        print("bench: expected matplotlib to be installed; pip install matplotlib or pass --no-figure", file=sys.stderr)
        return 1
    results = measure(workloads, 2 if options.quick else options.rounds, options.threads, options.quick)
    for title, rows in tables(results):
        print("\n".join(["", title, *table(rows)]))
    draw = None if not drawn else import_module("plugin_accel.bench.sparse_figure").draw
    output.write(options, "sparse", results, lambda: markdown(results), draw)
    return 0
