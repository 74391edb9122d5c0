"""What the `cuda` backend is to reach on an H200, and what a run of gpu_bench.py says to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

AT_LEAST, AT_MOST, EXACTLY = ">=", "<=", "=="


def _row(found: dict[str, Any], part: str, dtype: str) -> dict[str, Any]:
    return next(row for row in found[part] if row["dtype"] == dtype)


def _of_copy(dtype: str) -> Callable[[dict[str, Any]], float]:
    return lambda found: _row(found, "bulk", dtype)["gb_per_s"] / found["copy_gb_per_s"]


def _saved(what: str, dtype: str) -> Callable[[dict[str, Any]], float]:
    return lambda found: max(row[what] for row in found["saved"] if row["dtype"] == dtype)


def _over_spikingjelly(dtype: str) -> Callable[[dict[str, Any]], float]:
    return lambda found: _row(found, "bulk", dtype)["over_spikingjelly"]


TARGETS: dict[str, tuple[str, float, Callable[[dict[str, Any]], float]]] = {
    "T=32 x 4.19 M fp32, forward + backward, part of the copy bandwidth": (AT_LEAST, 0.75, _of_copy("float32")),
    "T=32 x 4.19 M fp16, forward + backward, part of the copy bandwidth": (AT_LEAST, 0.75, _of_copy("float16")),
    "T=32 x 4.19 M fp32, times as fast as SpikingJelly": (AT_LEAST, 1.3, _over_spikingjelly("float32")),
    "T=32 x 4.19 M fp16, times as fast as SpikingJelly": (AT_LEAST, 1.3, _over_spikingjelly("float16")),
    "T=500 B=16 N=512, ns per step, forward": (AT_MOST, 50, lambda f: f["small"]["ns_per_step"]["forward"]),
    "T=500 B=16 N=512, ns per step, backward": (AT_MOST, 50, lambda f: f["small"]["ns_per_step"]["backward"]),
    "T=500 B=16 N=512, times as fast as sinabs eager": (AT_LEAST, 100, lambda f: f["sinabs"]["speedup"]),
    "host side of a launch, us, forward": (AT_MOST, 15, lambda f: f["host_side"]["us"]["forward"]),
    "host side of a launch, us, backward": (AT_MOST, 15, lambda f: f["host_side"]["us"]["backward"]),
    "a CUDA graph of a training step, same bits": (EXACTLY, 1, lambda f: f["graph"]["same"]),
    "saved for backward, bytes per element, fp32": (AT_MOST, 4, _saved("training", "float32")),
    "saved for backward, bytes per element, fp16": (AT_MOST, 2, _saved("training", "float16")),
    "saved in inference, bytes per element": (AT_MOST, 0, _saved("inference", "float32")),
}


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each with what was found, and whether that is enough; None where it was not measured."""
    rows = []
    for name, (relation, bound, value) in TARGETS.items():
        try:
            got = float(value(found))
        except (KeyError, TypeError, ValueError, StopIteration):  # a part that was left out, or failed
            rows.append({"target": name, "wanted": f"{relation} {bound:g}", "found": None, "met": None})
            continue
        met = {AT_LEAST: got >= bound, AT_MOST: got <= bound, EXACTLY: got == bound}[relation]
        rows.append({"target": name, "wanted": f"{relation} {bound:g}", "found": round(got, 3), "met": met})
    return rows
