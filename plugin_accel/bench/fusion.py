"""``plugin-accel bench --host fusion``: a user's loop over time as it is, fused, and the same net without neurons.

Competitors: ``host`` (snnTorch's layers in the user's loop), ``fused`` (after ``convert(net, fuse_time=True)``),
``identity`` (the linear layers and convolutions alone, batched over time: what no neuron kernel can go below) and, for
some, ``sparse`` (fused, with layers computed from their spikes). Before
it is timed, ``fused`` must give the host's loss within 1e-4, relative; bit equality is what the tests check, on a grid
where linear layers are exact.

The JSON file ``fusion-cpu.json``, times in seconds::

    schema, host, quick, environment   as in plugin_accel.bench
    trainings   list of: name, title, steps, batch, static, loss_error, record_s (the two recorded calls),
                peers {competitor: median_s, q1_s, q3_s, min_s, samples}, ratios {"host": host / fused,
                "identity": fused / identity}, goals, calls_before, calls_after. With ``sparse``: "host": host / sparse,
                "fused": fused / sparse, and "identity": sparse / identity
    overhead    seconds of a fused call of a tiny net that are not its layers': key_s (signature and guards)
    capture     seconds to record, group and compile T = 100 steps of ten layers
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from plugin_accel.bench import environment
from plugin_accel.bench.render import seconds
from plugin_accel.bench.timing import Stats, Timed, interleave

__all__ = ["rows", "run"]


def run(only: str | None, rounds: int, threads: int, quick: bool) -> dict[str, Any]:
    """Measures; gives the document described above."""
    from plugin_accel.bench.fusion_nets import FRAMEWORK, trainings

    torch.set_num_threads(threads)
    patterns = only.split(",") if only else ["*"]
    results: dict[str, Any] = {"schema": 1, "host": "fusion", "quick": quick}
    results["environment"] = environment.describe(FRAMEWORK)
    results["trainings"] = []
    for training in trainings(quick):
        if any(fnmatchcase(training.name, pattern) for pattern in patterns):
            print(f"  {training.name}: {training.title}", file=sys.stderr, flush=True)
            results["trainings"].append(_measure(training, min(rounds, 2) if quick else rounds))
    results["overhead"], results["capture"] = _overhead(), _capture(3 if quick else 100)
    results["environment"]["load_after"] = environment.load()
    return results


def _measure(training: Any, rounds: int) -> dict[str, Any]:
    import plugin_accel
    from plugin_accel.conversion.fusion import engine_of

    x, labels = training.data()
    nets = {}
    last = "fused" if training.sparse is None else "sparse"
    for name in dict.fromkeys(("host", "fused", "identity", last)):
        torch.manual_seed(0)
        nets[name] = training.make(training.steps, training.static)
    for name, sparse in {"fused": False, last: training.sparse or False}.items():
        plugin_accel.convert(nets[name], fuse_time=True, sparse=sparse)
        start = time.perf_counter()
        for _ in range(2):
            nets[name](x)
        recorded = time.perf_counter() - start
    engine = engine_of(nets[last])
    if engine is None or engine.reason is not None:
        raise RuntimeError(f"bench: expected {training.name} to be fused, got: {engine and engine.reason}")
    calls = {name: net.identity if name == "identity" else net for name, net in nets.items()}
    losses = {name: float(_loss(calls[name](x), labels).detach()) for name in ("host", last)}
    error = abs(losses[last] - losses["host"]) / max(abs(losses["host"]), 1e-12)
    if error > 1e-4:
        raise RuntimeError(f"bench: expected the host's loss {losses['host']}, got {losses[last]}")

    def step(name: str) -> None:
        loss = _loss(calls[name](x), labels)
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()

    optimizers = {name: torch.optim.SGD(net.parameters(), 1e-4) for name, net in nets.items()}
    timed = [Timed(name, lambda name=name: step(name)) for name in calls]  # type: ignore[misc]
    stats = {name: Stats.of(samples) for name, samples in interleave(timed, rounds).items()}
    before, after = engine.table.splitlines()[-1].split()[1:3]
    ours = stats[last].median_s
    ratios = {"host": stats["host"].median_s / ours, "identity": ours / stats["identity"].median_s}
    if last == "sparse":
        ratios["fused"] = stats["fused"].median_s / ours
    return {
        **{key: getattr(training, key) for key in ("name", "title", "steps", "batch", "static")},
        "loss_error": error,
        "record_s": recorded,
        "peers": {name: asdict(stat) for name, stat in stats.items()},
        "ratios": ratios,
        "goals": training.goals,
        "calls_before": int(before),
        "calls_after": int(after),
    }


def _loss(results: Any, labels: Any) -> Any:
    spikes, membranes = results
    rate = nn.functional.cross_entropy(spikes.sum(0), labels)
    return rate + nn.functional.cross_entropy(membranes.flatten(0, 1), labels.repeat(len(membranes)))


def _overhead() -> dict[str, float]:
    """Seconds of signature and guards, of a net like the tutorial's."""
    import plugin_accel
    from plugin_accel.bench.fusion_nets import Convolutional
    from plugin_accel.conversion.fusion import engine_of

    net = plugin_accel.convert(Convolutional(25, True), fuse_time=True)
    x = torch.rand(1, 1, 28, 28)
    for _ in range(3):
        net(x)
    engine = engine_of(net)
    assert engine is not None
    samples = []
    for _ in range(200):
        start = time.perf_counter()
        engine.ready((x,), {}, [net])
        samples.append(time.perf_counter() - start)
    return {"key_s": Stats.of(samples).median_s}


def _capture(steps: int) -> dict[str, float]:
    """Seconds to record, group and compile ten layers over ``steps`` steps, less what the forward itself takes."""
    import snntorch as snn

    import plugin_accel

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(10))
            self.lifs: Any = nn.ModuleList(snn.Leaky(0.9) for _ in range(10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mems = [lif.init_leaky() for lif in self.lifs]
            rec = []
            for _ in range(steps):
                spk = x
                for i, (layer, lif) in enumerate(zip(self.layers, self.lifs, strict=True)):
                    spk, mems[i] = lif(layer(spk), mems[i])
                rec.append(spk)
            return torch.stack(rec)

    net, x = Deep(), torch.rand(4, 16)
    net(x)
    start = time.perf_counter()
    net(x)
    plain = time.perf_counter() - start
    plugin_accel.convert(net, fuse_time=True)
    start = time.perf_counter()
    for _ in range(2):
        net(x)
    return {"both_calls_s": time.perf_counter() - start, "plain_call_s": plain}


def rows(results: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    """The table."""
    found = [
        ("training step", "host", "fused", "sparse", "identity", "host / ours", "ours / identity", "calls", "goals")
    ]
    for entry in results["trainings"]:
        peers, ratios, goals = entry["peers"], entry["ratios"], entry["goals"]
        times = [
            seconds(peers[name]["median_s"]) if name in peers else ""
            for name in ("host", "fused", "sparse", "identity")
        ]
        told = []
        for name in ("host", "fused"):
            if name in goals:
                told.append(f"{name} {goals[name]:g}x {'met' if ratios[name] >= goals[name] else 'MISSED'}")
        if "fused" in ratios:
            told.append(f"fused / sparse {ratios['fused']:.1f}x")
        if "identity" in goals:
            met = "met" if ratios["identity"] <= goals["identity"] else "MISSED"
            told.append(f"identity at most {goals['identity']:g}x {met}")
        calls = f"{entry['calls_before']} -> {entry['calls_after']}"
        cells = (f"{ratios['host']:.1f}x", f"{ratios['identity']:.2f}x", calls, ", ".join(told))
        found.append((entry["title"], *times, *cells))
    return found
