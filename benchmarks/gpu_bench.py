"""Benchmarks of the `cuda` backend: neuron layers on their own, against their hosts and SpikingJelly; EGRU.

    python benchmarks/gpu_bench.py --out results.json [--quick] [--compile] [--limit SECONDS] [--parts PART ...]

Times are medians of CUDA events around calls with a fresh graph, after a warm-up, in interleaved rounds; the copy
bandwidth is measured in the same run, and outputs are compared with the host's before anything is timed. TF32 is off.
The file is written after every part: one that fails leaves its error there, and none begins after the limit.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from gpu_timing import Call, copy_bandwidth, inference, medians, training
from gpu_workloads import bulk, egru, host_side, latency, small, streaming, sweep
from torch import nn

import plugin_accel
from plugin_accel.backends.cuda import BACKEND


def sinabs_layer(rounds: int, compiled: bool) -> dict[str, Any]:
    """sinabs's LIF over (16, 500, 512): as it is, under torch.compile, converted."""
    import sinabs.layers as sl

    host = sl.LIF(tau_mem=10.0).cuda()
    ours = plugin_accel.convert(copy.deepcopy(host))
    x = torch.randn(16, 500, 512, device="cuda", requires_grad=True)
    if not torch.equal(host(x), ours(x)):
        raise SystemExit("sinabs LIF: expected the same spikes from the converted layer, got others")
    layers = {"host": host, "plugin_accel": ours}
    if compiled:
        layers["host, torch.compile"] = torch.compile(copy.deepcopy(host))
    calls = {}
    for name, layer in layers.items():
        calls[name] = training(layer, x, layer.reset_states)
        calls[f"{name} forward"] = inference(layer, x, layer.reset_states)
    ms = medians(calls, max(3, rounds // 3), target_ms=1.0)
    return {"workload": "sinabs LIF (16, 500, 512)", "ms": ms, "speedup": ms["host"] / ms["plugin_accel"]}


def linear_and_lif(rounds: int) -> list[dict[str, Any]]:
    """Linear then LIF, B=16 T=500, as the Open Neuromorphic benchmark has it, with every call waited for."""
    import sinabs.layers as sl

    rows = []
    for n in (512, 1024, 4096):
        host = nn.Sequential(nn.Linear(n, n), sl.LIF(tau_mem=10.0)).cuda()
        ours = plugin_accel.convert(copy.deepcopy(host))
        x = torch.randn(16, 500, n, device="cuda", requires_grad=True)
        calls = {
            "host": training(host, x, host[1].reset_states),
            "plugin_accel": training(ours, x, ours[1].reset_states),
            "linear alone": training(host[0], x),
        }
        ms = medians(calls, max(3, rounds // 5), target_ms=1.0)
        rows.append({"workload": f"Linear + sinabs LIF, N={n}", "ms": ms, "speedup": ms["host"] / ms["plugin_accel"]})
    return rows


def convolutions(rounds: int) -> dict[str, Any]:
    """Synthetic events 64 x 64 x 2, four convolutions with IAF neurons, T = 300, B = 16: a training step with Adam."""
    import sinabs.layers as sl

    torch.manual_seed(0)
    sizes = (2, 16, 32, 64, 64)
    parts: list[nn.Module] = []
    for n, m in pairwise(sizes):
        parts += [nn.Conv2d(n, m, 3, stride=2, padding=1, bias=False), sl.IAFSqueeze(batch_size=16)]
    host = nn.Sequential(*parts, nn.Flatten(), nn.Linear(64 * 16, 10)).cuda()
    ours = plugin_accel.convert(copy.deepcopy(host))
    x = (torch.rand(16 * 300, 2, 64, 64, device="cuda") < 0.03).float()
    labels = torch.randint(10, (16,), device="cuda")

    def train(model: nn.Module) -> Call:
        optimizer = torch.optim.Adam(model.parameters(), 1e-4)

        def run() -> None:
            for layer in model.modules():
                if isinstance(layer, sl.StatefulLayer):
                    layer.reset_states()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x).view(16, 300, 10).mean(1), labels).backward()
            optimizer.step()

        return run

    ms = medians({"host": train(host), "plugin_accel": train(ours)}, max(3, rounds // 10), target_ms=1.0)
    return {"workload": "conv IAF T=300 B=16", "ms": ms, "speedup": ms["host"] / ms["plugin_accel"]}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the JSON goes; else to the standard output")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--columns", type=int, default=1 << 22, help="neurons of the bulk workload")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--compile", action="store_true", help="hosts under torch.compile too: minutes of compiling")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no part begins")
    parser.add_argument("--parts", nargs="*", default=[], help="these alone")
    options = parser.parse_args()
    why = BACKEND.unavailable()
    if why is not None:
        sys.exit(f"benchmarks of the cuda backend: expected one that can be used here, got none ({why})")
    torch.backends.cuda.matmul.allow_tf32 = False
    rounds = 5 if options.quick else options.rounds
    parts: dict[str, Callable[[], Any]] = {
        "copy_gb_per_s": lambda: copy_bandwidth(rounds),
        "bulk": lambda: bulk(rounds, options.columns),
        "small": lambda: small(rounds),
        "host_side": host_side,
        "streaming": streaming,
        "sweep": lambda: sweep(max(3, rounds // 3), 16 * options.columns),
        "latency": lambda: latency(max(3, rounds // 3), options.columns // 100),
        "egru": lambda: egru(rounds, not options.quick),
    }
    if importlib.util.find_spec("sinabs") is not None:
        parts["sinabs"] = lambda: sinabs_layer(rounds, options.compile)
        parts["linear_and_lif"] = lambda: linear_and_lif(rounds)
        parts["convolutions"] = lambda: convolutions(rounds)
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    found |= {"backend": BACKEND.details(), "seconds": {}}
    failed = measure(parts, options.parts, options.limit, found, options.out)
    print(json.dumps(found, indent=2))
    sys.exit(f"parts that failed: {failed}" if failed else 0)


def measure(
    parts: dict[str, Callable[[], Any]], chosen: list[str], limit: float, found: dict[str, Any], out: Path | None
) -> list[str]:
    """Runs the parts one after the other, `found` written to `out` after each; gives the names of those that failed."""
    begun, failed = time.monotonic(), []
    for name, part in parts.items():
        if chosen and name not in chosen:
            continue
        start = time.monotonic()
        if start - begun > limit:
            found[name] = {"skipped": f"after {limit:g} s"}
            continue
        try:
            found[name] = part()
        except Exception:
            found[name] = {"error": traceback.format_exc()}
            failed.append(name)
        found["seconds"][name] = round(time.monotonic() - start, 1)
        print(name, found["seconds"][name], "s", flush=True)
        torch.cuda.empty_cache()
        if out:
            out.write_text(json.dumps(found, indent=2) + "\n")
    return failed


if __name__ == "__main__":
    main()
