"""Runs the workloads and gathers the document that ``plugin_accel.bench`` describes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

import torch

from plugin_accel.bench import environment, probe
from plugin_accel.bench.agreement import DisagreementError, check
from plugin_accel.bench.memory import kept_bytes
from plugin_accel.bench.timing import Stats, Timed, copied_bytes, copying, interleave
from plugin_accel.bench.workload import CPU, PEERS, Peer, Workload, dense_products, peers

__all__ = ["DisagreementError", "run", "select"]

# One streaming call lasts microseconds: time many, as a loop over incoming data would make them.
STREAMED_CALLS = 100


def select(host: str, only: str | None, quick: bool) -> list[Workload]:
    """The workloads of a host whose name matches one of the comma-separated patterns."""
    patterns = only.split(",") if only else ["*"]
    return [w for w in probe.suite(host, quick) if any(fnmatchcase(w.name, pattern) for pattern in patterns)]


def run(
    host: str, workloads: Sequence[Workload], rounds: int, threads: int, quick: bool, with_probes: bool
) -> dict[str, Any]:
    """Measure workloads.

    Raises:
        DisagreementError: A competitor does not compute what the host computes.
    """
    torch.set_num_threads(threads)
    rounds = min(rounds, 2) if quick else rounds
    described = environment.describe(host)
    results: dict[str, Any] = {"schema": 1, "host": host, "quick": quick, "environment": described}
    results |= {"workloads": [], "memory": [], "calls": [], "imports": None}
    if described["load_before"] is not None and described["load_before"] > 0.5:
        _say(f"bench: the load average is {described['load_before']}; other programs distort the times")
    for workload in workloads:
        _say(f"  {workload.name}: {workload.title}")
        competitors = list(peers(workload))
        results["workloads"].append(_times(workload, competitors, rounds, quick))
        if with_probes and workload.probe_memory:
            kept = {peer.name: kept_bytes(peer, workload) for peer in competitors}
            peak = {name: probe.ask("peak", host, workload, name, threads, quick, rounds) for name in PEERS}
            results["memory"].append({"name": workload.name, "title": workload.title, "kept": kept, "peak": peak})
        if with_probes and workload.probe_call:
            call = probe.ask("call", host, workload, CPU, threads, quick, rounds)
            goals = dict(workload.call_goals)
            results["calls"].append({"name": workload.name, "title": workload.title, **call, "goals": goals})
    if with_probes:
        _say("  imports")
        results["imports"] = probe.imports(2 if quick else 7)
    described["load_after"] = environment.load()
    return results


def _times(workload: Workload, competitors: Sequence[Peer], rounds: int, quick: bool) -> dict[str, Any]:
    mean, agreement = check(competitors)
    calls = STREAMED_CALLS if workload.streaming else 1
    timed = [Timed(peer.name, peer.run, peer.prepare, peer.context, calls) for peer in competitors]
    megabytes = 16 if quick else 256
    if workload.bytes_per_element:
        timed.append(copying(megabytes))
    if workload.products:
        ours = next(peer for peer in competitors if peer.name == CPU)
        timed.append(Timed("dense", ours.run, ours.prepare, dense_products, calls))
    stats = {name: Stats.of(samples) for name, samples in interleave(timed, rounds).items()}
    median = stats[CPU].median_s
    return {
        "name": workload.name,
        "group": workload.group,
        "title": workload.title,
        "neuron": workload.neuron,
        "shape": list(workload.shape),
        "mode": workload.mode,
        "streaming": workload.streaming,
        "mean_output": mean,
        "load": environment.load(),
        "peers": {name: {**asdict(stats[name]), **asdict(agreement[name])} for name in agreement},
        "ratios": {name: stats[name].median_s / median for name in agreement if name != CPU},
        "goals": dict(workload.goals),
        "dense_products_s": stats["dense"].median_s if workload.products else None,
        "bandwidth": _bandwidth(workload, median, copied_bytes(megabytes) / stats["copy"].median_s)
        if workload.bytes_per_element
        else None,
    }


def _bandwidth(workload: Workload, seconds: float, copy: float) -> dict[str, float | None]:
    size = workload.bytes_per_element or 0
    moved = size * workload.elements / seconds
    return {
        "bytes_per_element": size,
        "moved_GBps": moved / 1e9,
        "copy_GBps": copy / 1e9,
        "fraction": moved / copy,
        "goal": workload.bandwidth_goal,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
