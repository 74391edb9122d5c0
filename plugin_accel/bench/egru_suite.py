"""``plugin-accel bench --host egru``: `nn.GRU`, the reference and the `cpu` backend, with one and with more threads.

EGRU has no host: its peers are torch's own GRU of the same size, which computes something else at the same cost per
dense step, and EGRU in plain torch. Before it is timed, the `cpu` backend must agree with the reference. It writes
``egru-cpu.json``::

    schema       1
    host, quick  "egru"; quick means tiny sizes, whose times mean nothing
    environment  as in the other suites; threads: the most that were used
    workloads    list of: name, title, mode ("train": forward + backward, "infer": no_grad), shape [T, B, I, H],
                 threads, events (active units per step), flipped (events unlike the reference's), error (largest
                 difference of outputs, or of parameter gradients in relation to the largest entry, samples with a
                 flip left out),
                 peers {name: {median_s, q1_s, q3_s, min_s, samples}}, ratios {peer: its median over that of cpu},
                 goals {peer: the ratio aimed at}
    sweep        list of: events, gru_s, cpu_s: inference of the first shape at thresholds for other activities
    kept         floats per unit and step that autograd keeps for backward, inputs and parameters left out
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plugin_accel import use_backend
from plugin_accel.bench import environment, output
from plugin_accel.bench.render import sections
from plugin_accel.bench.timing import Stats, Timed, interleave
from plugin_accel.conversion.reporting import table
from plugin_accel.layers import EGRU, EGRUState

GRU, REFERENCE, CPU = "nn.GRU", "reference", "cpu"
Shape = tuple[int, int, int, int]
MEDIUM, LONG = (100, 32, 128, 256), (784, 64, 1, 256)


@dataclass(frozen=True)
class Case:
    """One workload; `events`: thresholds are chosen for this activity instead of drawn."""

    name: str
    mode: str
    shape: Shape
    goals: tuple[tuple[str, float], ...] = ()
    events: float | None = None
    sequences: bool = False

    @property
    def title(self) -> str:
        """One line for tables."""
        steps, batch, features, hidden = self.shape
        what = {"train": "forward + backward", "infer": "inference"}[self.mode]
        what += ", h, o and trace of every step" if self.sequences else ""
        what += f", {self.events:.0%} active" if self.events is not None else ""
        return f"{what}, T={steps}, B={batch}, I={features}, H={hidden}"


CASES = (
    Case("medium-train", "train", MEDIUM, ((GRU, 2.0), (REFERENCE, 2.5))),
    Case("medium-train-sequences", "train", MEDIUM, sequences=True),
    Case("long-train", "train", LONG, ((GRU, 2.5), (REFERENCE, 4.0))),
    Case("medium-infer", "infer", MEDIUM),
    Case("medium-infer-5%", "infer", MEDIUM, ((GRU, 5.0),), 0.05),
    Case("long-infer", "infer", LONG),
    Case("long-infer-5%", "infer", LONG, ((GRU, 5.0),), 0.05),
)
SWEEP = (0.01, 0.05, 0.1, 0.2, 0.4, 0.6)


class Setup:
    """The competitors of a case on one input."""

    def __init__(self, case: Case) -> None:
        steps, batch, features, hidden = case.shape
        torch.manual_seed(0)
        self.x = torch.randn(steps, batch, features)
        self.upstream = torch.randn(steps, batch, hidden)
        self.gru = nn.GRU(features, hidden)
        self.egru = EGRU(features, hidden, return_state_sequence=case.sequences)
        self.mode = case.mode
        if case.events is not None:
            set_activity(self.egru, self.x, case.events)

    def run(self, layer: nn.Module) -> Callable[[], object]:
        """The timed call of a layer."""

        def train() -> None:
            layer(self.x)[0].backward(self.upstream)

        def infer() -> None:
            with torch.no_grad():
                layer(self.x)

        return train if self.mode == "train" else infer

    def timed(self) -> list[Timed]:
        """All competitors."""

        def clear(layer: nn.Module) -> Callable[[], None]:
            return lambda: layer.zero_grad(set_to_none=True)

        found = [Timed(GRU, self.run(self.gru), clear(self.gru))]
        for backend in (REFERENCE, CPU):
            context = lambda backend=backend: use_backend(backend)  # noqa: E731
            found.append(Timed(backend, self.run(self.egru), clear(self.egru), context))
        return found


@torch.no_grad()
def set_activity(layer: EGRU, x: Tensor, events: float) -> None:
    """Give all units the one threshold at which so many of them are active."""
    low, high = 0.0, 1.0
    for _ in range(12):
        layer.thr.fill_((low + high) / 2)
        layer(x)
        low, high = ((low + high) / 2, high) if layer.activity().events > events else (low, (low + high) / 2)


def agreement(setup: Setup) -> tuple[float, int, float]:
    """(events, flipped, error) of the cpu backend against the reference.

    Raises:
        RuntimeError: they disagree beyond rounding.
    """
    found: dict[str, tuple[Tensor, list[Tensor]]] = {}
    alike: Tensor | None = None
    for weigh in (False, True):
        for backend in (REFERENCE, CPU):
            setup.egru.zero_grad(set_to_none=True)
            with use_backend(backend), torch.set_grad_enabled(setup.mode == "train" and weigh):
                y = setup.egru(setup.x)[0]
                if y.requires_grad and alike is not None:
                    y.backward(setup.upstream * alike[None, :, None])
            grads = [p.grad for p in setup.egru.parameters() if p.grad is not None]
            found[backend] = (y.detach(), grads)
        (want, want_grads), (got, got_grads) = found[REFERENCE], found[CPU]
        flips = (want != 0) != (got != 0)
        alike = ~flips.any(2).any(0)
    assert alike is not None
    errors = [float((got - want)[:, alike].abs().max())] if alike.any() else [0.0]
    errors += [float((a - b).abs().max() / b.abs().max()) for a, b in zip(got_grads, want_grads, strict=True)]
    if max(errors) > 1e-4 or float(alike.float().mean()) < 0.5:
        raise RuntimeError(
            f"egru: expected cpu and reference to agree, got errors {errors} and {int(flips.sum())} flips"
        )
    return float((want != 0).float().mean()), int(flips.sum()), max(errors)


def kept_floats() -> float:
    """Floats per unit and step that the cpu backend keeps for backward, without inputs and parameters."""
    steps, batch, features, hidden = 50, 16, 8, 64
    layer, x = EGRU(features, hidden), torch.randn(steps, batch, features)
    state = EGRUState(*(torch.zeros(1, batch, hidden) for _ in range(3)))
    known = {t.data_ptr() for t in (x, *state, *layer.parameters(), *layer.buffers())}
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.data_ptr() not in known:
            sizes[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    with use_backend(CPU), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x, state)
    return sum(sizes.values()) / 4 / (steps * batch * hidden)


def measure(cases: Sequence[Case], rounds: int, threads: int, quick: bool) -> dict[str, Any]:
    """Run some cases, each with one thread and with `threads`, and the sweep if none is left out."""
    described = environment.describe("torch")
    results: dict[str, Any] = {"schema": 1, "host": "egru", "quick": quick, "environment": described, "workloads": []}
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        for case in cases:
            shrunk = Case(case.name, case.mode, (5, 3, 2, 16), case.goals, case.events) if quick else case
            print(f"  {case.name}, {count} threads", file=sys.stderr, flush=True)
            results["workloads"].append({"threads": count, **_time(shrunk, rounds)})
    results["sweep"] = _sweep(rounds) if not quick and len(cases) == len(CASES) else []
    results["kept"] = kept_floats()
    described["threads"] = threads
    described["load_after"] = environment.load()
    return results


def _time(case: Case, rounds: int) -> dict[str, Any]:
    setup = Setup(case)
    events, flipped, error = agreement(setup)
    stats = {name: Stats.of(s) for name, s in interleave(setup.timed(), rounds).items()}
    return {
        "name": case.name,
        "title": case.title,
        "mode": case.mode,
        "shape": list(case.shape),
        "events": events,
        "flipped": flipped,
        "error": error,
        "peers": {name: asdict(s) for name, s in stats.items()},
        "ratios": {name: stats[name].median_s / stats[CPU].median_s for name in (GRU, REFERENCE)},
        "goals": dict(case.goals),
    }


def _sweep(rounds: int) -> list[dict[str, float]]:
    torch.set_num_threads(1)
    found = []
    for events in SWEEP:
        setup = Setup(Case("sweep", "infer", MEDIUM, events=events))
        gru, _, cpu = setup.timed()
        stats = {name: Stats.of(s) for name, s in interleave([gru, cpu], rounds).items()}
        found.append(
            {
                "events": setup.egru.activity().events,
                "gru_s": stats[GRU].median_s,
                "cpu_s": stats[CPU].median_s,
            }
        )
    return found


def tables(results: dict[str, Any]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Every table as its title and rows, the first of which is the header."""

    def ms(value: float) -> str:
        return f"{1e3 * value:.1f} ms"

    header: tuple[str, ...] = ("workload", "threads", GRU, REFERENCE, CPU, "over nn.GRU", "over reference", "goal")
    rows = [(*header, "active")]
    for w in results["workloads"]:
        goals = ", ".join(
            f"{name} {goal:g}x {'met' if w['ratios'][name] >= goal else 'MISSED'}" for name, goal in w["goals"].items()
        )
        times = [ms(w["peers"][name]["median_s"]) for name in (GRU, REFERENCE, CPU)]
        ratios = [f"{w['ratios'][name]:.1f}x" for name in (GRU, REFERENCE)]
        rows.append((w["title"], str(w["threads"]), *times, *ratios, goals, f"{w['events']:.1%}"))
    found = [("EGRU (median of one call)", rows)]
    if results["sweep"]:
        swept: list[tuple[str, ...]] = [("active", GRU, CPU, "ratio")]
        for s in results["sweep"]:
            swept.append((f"{s['events']:.0%}", ms(s["gru_s"]), ms(s["cpu_s"]), f"{s['gru_s'] / s['cpu_s']:.1f}x"))
        found.append(("Inference over activity, T=100, B=32, I=128, H=256, one thread", swept))
    return found


def markdown(results: dict[str, Any]) -> str:
    """The tables for the documentation."""
    e = results["environment"]
    lines = ["<!-- Written by `plugin-accel bench --host egru --markdown`; do not edit. -->", ""]
    lines += [
        f"plugin_accel {e['plugin_accel']}, torch {e['torch']}, python {e['python']}; {e['cpu']}, {e['isa']}, fp32; "
        f"load average {e['load_before']} before and {e['load_after']} after; {e['date']}. Kept for backward: "
        f"{results['kept']:.2f} floats per unit and step.",
        "",
    ]
    return "\n".join([*lines, *sections(tables(results))])


def main(options: argparse.Namespace) -> int:
    """Run the suite with the options of ``plugin-accel bench``."""
    cases = output.chosen(options, CASES)
    if (code := output.told(options, cases)) is not None:
        return code
    results = measure(cases, 2 if options.quick else options.rounds, options.threads, options.quick)
    for title, rows in tables(results):
        print("\n".join(["", title, *table(rows)]))
    output.write(options, "egru", results, lambda: markdown(results))
    return 0
