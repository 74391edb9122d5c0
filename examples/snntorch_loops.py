"""A gallery of the loops that people write: each as it is, and fused, with what came of it.

Every entry (``loops.py``) is a network with its loop over time as it is found in public code. It is run as it stands
and after ``plugin_accel.convert(net, fuse_time=True)`` (functions: ``@plugin_accel.fused``). The table says how much
less time a training step takes, the largest difference of outputs and gradients relative to the largest of them,
or why the loop runs as it was written. Runs offline, on random spikes; ``--explain NAME`` prints the schedule of one.

    python examples/snntorch_loops.py
    python examples/snntorch_loops.py --explain residual
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from loops import GALLERY, forward_pass
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

import plugin_accel


def tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def step(call: Callable[[torch.Tensor], Any], net: nn.Module, x: torch.Tensor) -> tuple[list[torch.Tensor], float]:
    """One forward and backward: outputs and gradients, and seconds."""
    net.zero_grad()
    torch.manual_seed(0)
    start = time.perf_counter()
    outputs = tensors(call(x))
    sum(out.float().square().mean() for out in outputs if out.requires_grad).backward()  # type: ignore[union-attr]
    seconds = time.perf_counter() - start
    return [*outputs, *(p.grad.clone() for p in net.parameters() if p.grad is not None)], seconds


def compare(name: str, rounds: int) -> dict[str, Any]:
    """Runs one entry both ways."""
    shown, make, data, _ = GALLERY[name]
    nets = []
    for _ in range(2):  # no copies: snnTorch's `utils.reset` does not know them
        torch.manual_seed(1)
        nets.append(make())
    host, fused = nets
    x = data()
    if name == "function":
        fast = plugin_accel.fused(forward_pass)
        plugin_accel.convert(fused)
        calls = {"host": lambda x: forward_pass(host, len(x), x), "fused": lambda x: fast(fused, len(x), x)}
    else:
        plugin_accel.convert(fused, fuse_time=True)
        calls = {"host": host, "fused": fused}
    times: dict[str, list[float]] = {"host": [], "fused": []}
    error = 0.0
    for call in range(3 + rounds):
        mine, seconds = step(calls["fused"], fused, x)
        theirs, host_seconds = step(calls["host"], host, x)
        scale = max(float(b.detach().abs().max()) for b in theirs)
        error = max(error, *(float((a - b).detach().abs().max()) / scale for a, b in zip(mine, theirs, strict=True)))
        if call >= 3:
            times["fused"].append(seconds)
            times["host"].append(host_seconds)
    engine = fast.fusion if name == "function" else plugin_accel.report(fused).loops[0]
    reason = engine.reason if name == "function" else "; ".join(engine.reasons)
    medians = {key: sorted(values)[len(values) // 2] for key, values in times.items()}
    return {"what": shown, "error": error, "reason": reason or "", **medians}


def figure(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """How many times faster each entry is."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown, axes = plt.subplots(figsize=(8, 0.35 * len(results) + 1), layout="constrained")
    names = list(results)[::-1]
    colours = ["tab:grey" if results[n]["reason"] else "tab:orange" for n in names]
    axes.barh(names, [results[n]["host"] / results[n]["fused"] for n in names], color=colours)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(title="training step: snnTorch's time / fused (grey: runs as written)", xlabel="times faster")
    shown.savefig(path, dpi=110)
    plt.close(shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the gallery."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--explain", choices=GALLERY, help="print the schedule of this entry, and nothing else")
    parser.add_argument("--threads", type=int, default=None, help="torch.set_num_threads (default: torch's own)")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the figure and the results")
    parser.add_argument("--quick", action="store_true", help="few calls: does it run at all?")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.explain:
        _, make, data, _ = GALLERY[options.explain]
        net = plugin_accel.convert(make(), fuse_time=True, explain=True)
        for _ in range(3):
            net(data())
        return 0
    console = Console()
    results = {name: compare(name, 1 if options.quick else 9) for name in track(GALLERY, "loops", console=console)}
    table = Table("entry", "what", "snnTorch", "fused", "times faster", "difference", "not fused since")
    for name, found in results.items():
        times = [f"{1e3 * found[key]:.1f} ms" for key in ("host", "fused")]
        faster = f"{found['host'] / found['fused']:.1f}"
        table.add_row(name, escape(found["what"]), *times, faster, f"{found['error']:.0e}", escape(found["reason"]))
    console.print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    figure(options.out / "snntorch_loops.png", results)
    (options.out / "snntorch_loops.json").write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"Figure: {options.out / 'snntorch_loops.png'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
