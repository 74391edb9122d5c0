"""Benchmarks of the `cuda` backend: neuron layers on their own, against their hosts and SpikingJelly; EGRU.

    python benchmarks/gpu_bench.py --out results.json [--quick] [--compile] [--limit SECONDS] [--parts PART ...]

Times are medians of CUDA events around calls with a fresh graph, after a warm-up, in interleaved rounds; the copy
bandwidth is measured in the same run, and outputs are compared with the host's ("same"). TF32 is off. What the backend
is to reach stands under "targets", met or not. The file is written after every part: one that fails leaves its error
there, and one that takes too long is stopped. Hosts under torch.compile come last: compiling takes minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_layers as layers
import gpu_workloads as kernels
import torch
from gpu_targets import targets
from gpu_timing import TINY, Sizes, at_most, copy_bandwidth

from plugin_accel.backends.cuda import BACKEND

LONGEST = 100.0
"""Seconds of one part."""


def parts_of(sizes: Sizes, rounds: int, compiled: bool) -> dict[str, Callable[[], Any]]:
    """What can be measured with what is installed, what matters most first."""
    few, bulk = max(3, rounds // 3), (1, sizes.bulk_steps, sizes.columns)
    sequence = (sizes.batch, sizes.steps, sizes.neurons)
    parts: dict[str, Callable[[], Any]] = {
        "copy_gb_per_s": lambda: copy_bandwidth(rounds, sizes.copied),
        "saved": lambda: kernels.saved(sizes),
        "bulk": lambda: kernels.bulk(rounds, sizes),
        "spikingjelly": kernels.spikingjelly_kernels,
        "small": lambda: kernels.small(rounds, sizes),
        "host_side": lambda: kernels.host_side(sizes),
        "graph": lambda: kernels.graph(sizes),
    }
    if kernels.installed("sinabs"):
        parts["sinabs"] = lambda: layers.sinabs_layer(rounds, sequence, False)
        parts["sinabs_bulk"] = lambda: layers.sinabs_layer(rounds, bulk, False)
        parts["linear_and_lif"] = lambda: layers.linear_and_lif(rounds, sizes)
        parts["convolutions"] = lambda: layers.convolutions(rounds, sizes)
    parts["streaming"] = lambda: layers.streaming(sizes)
    parts["sweep"] = lambda: kernels.sweep(few, sizes)
    parts["latency"] = lambda: kernels.latency(few, sizes)
    parts["egru"] = lambda: layers.egru(rounds, sizes, compiled)
    if kernels.installed("snntorch"):
        parts["snntorch"] = lambda: layers.snntorch_steps(rounds, sizes, False)
        if compiled:
            parts["snntorch_compiled"] = lambda: layers.snntorch_steps(rounds, sizes, True)
    if compiled and kernels.installed("sinabs"):
        parts["sinabs_bulk_compiled"] = lambda: layers.sinabs_layer(rounds, bulk, True)
        parts["sinabs_compiled"] = lambda: layers.sinabs_layer(rounds, sequence, True)
    return parts


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the JSON goes; else to the standard output")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--tiny", action="store_true", help="does it run? The times mean nothing")
    parser.add_argument("--compile", action="store_true", help="hosts under torch.compile too: minutes of compiling")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds for all parts")
    parser.add_argument("--parts", nargs="*", default=[], help="these alone")
    options = parser.parse_args()
    why = BACKEND.unavailable()
    if why is not None:
        sys.exit(f"benchmarks of the cuda backend: expected one that can be used here, got none ({why})")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rounds = 3 if options.tiny else 5 if options.quick else options.rounds
    parts = parts_of(TINY if options.tiny else Sizes(), rounds, options.compile)
    if unknown := set(options.parts) - set(parts):
        sys.exit(f"--parts: expected some of {', '.join(parts)}, got {', '.join(unknown)}")
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    found |= {"backend": BACKEND.details(), "targets": [], "seconds": {}}
    chosen = {name: part for name, part in parts.items() if not options.parts or name in options.parts}
    failed = measure(chosen, options.limit, found, options.out)
    print(json.dumps(found, indent=2))
    sys.exit(f"parts that failed: {failed}" if failed else 0)


def measure(parts: dict[str, Callable[[], Any]], limit: float, found: dict[str, Any], out: Path | None) -> list[str]:
    """Runs the parts one after the other, `found` written to `out` after each; gives the names of those that failed."""
    begun, failed = time.monotonic(), []
    for name, part in parts.items():
        start = time.monotonic()
        left = limit - (start - begun)
        try:
            with at_most(min(LONGEST, left)):
                found[name] = part()
        except TimeoutError as error:
            found[name] = {"stopped": str(error)}
        except Exception:
            found[name] = {"error": traceback.format_exc()}
            failed.append(name)
        found["seconds"][name] = round(time.monotonic() - start, 1)
        print(name, found["seconds"][name], "s", flush=True)
        torch.cuda.empty_cache()
        found["targets"] = targets(found)
        if out:
            out.write_text(json.dumps(found, indent=2) + "\n")
    return failed


if __name__ == "__main__":
    main()
