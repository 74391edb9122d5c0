"""Tables: on the console (with rich, if it is installed), and as Markdown for the documentation."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

from plugin_accel.bench.workload import CPU, HOST, PEERS, UNBIND
from plugin_accel.conversion.tables import table as aligned

GROUPS = {
    "step": "Single steps in a loop",
    "sequence": "Sequences",
    "memory": "Bound by memory",
    "small": "Small",
    "streaming": "Streaming: one time step per call, state kept",
    "recurrent": "Recurrent",
}
Table = tuple[str, list[tuple[str, ...]]]


def seconds(value: float) -> str:
    """A duration in the unit that fits."""
    if value < 1e-3:
        return f"{1e6 * value:.1f} us"
    return f"{1e3 * value:.2f} ms" if value < 1 else f"{value:.2f} s"


def tables(results: dict[str, Any]) -> list[Table]:
    """Every table as its title and its rows, the first of which is the header."""
    found: list[Table] = []
    for group, title in GROUPS.items():
        rows = [_time_row(workload) for workload in results["workloads"] if workload["group"] == group]
        if rows:
            found.append((f"{title} (median of one call)", [_TIME_HEADER, *rows]))
    both = [_products_row(w) for w in results["workloads"] if w.get("dense_products_s")]
    if both:
        header: tuple[str, ...] = ("workload", "emitted", "chosen", "always dense", "ratio")
        found.append(("Recurrent products of cpu: chosen by the number of spikes, and always dense", [header, *both]))
    bound = [_bandwidth_row(w) for w in results["workloads"] if w["bandwidth"]]
    if bound:
        header = ("workload", "bytes per step", "moved", "copy", "fraction", "goal")
        found.append(("Memory bandwidth of cpu", [header, *bound]))
    if results["memory"]:
        header = ("workload", *(f"{peer}: {what}" for what in ("kept", "peak") for peer in PEERS))
        rows = [_memory_row(entry) for entry in results["memory"]]
        found.append(("Bytes per neuron step: kept for backward, growth of the peak resident memory", [header, *rows]))
    if results["calls"]:
        header = ("workload", "whole call", "its kernels", "ratio", "overhead", "goal")
        rows = [_call_row(entry) for entry in results["calls"]]
        found.append(("One call of cpu in a fresh process, through autograd", [header, *rows]))
    if results["imports"]:
        entry = results["imports"]
        hosts = ", ".join(entry["hosts_imported"]) or "none"
        row = (seconds(entry["torch_s"]), seconds(entry["plugin_accel_s"]), hosts)
        header = ("import torch", "import plugin_accel adds", "host frameworks it imports")
        found.append(("Import", [header, row]))
    return found


_TIME_HEADER = ("workload", *PEERS, "over host", "over unbind", "goal", "emitted")


def _time_row(workload: dict[str, Any]) -> tuple[str, ...]:
    times = workload["peers"]
    goals = ", ".join(
        f"{'host' if peer == HOST else 'unbind'} {goal:g}x {'met' if workload['ratios'][peer] >= goal else 'MISSED'}"
        for peer, goal in workload["goals"].items()
    )
    spread = (times[CPU]["q3_s"] - times[CPU]["q1_s"]) / 2
    cells = [seconds(times[peer]["median_s"]) for peer in PEERS]
    cells[-1] += f" ±{spread / times[CPU]['median_s']:.0%}"
    return (
        workload["title"],
        *cells,
        f"{workload['ratios'][HOST]:.1f}x",
        f"{workload['ratios'][UNBIND]:.1f}x",
        goals,
        f"{workload['mean_output']:.3f}",
    )


def _products_row(workload: dict[str, Any]) -> tuple[str, ...]:
    chosen, dense = workload["peers"][CPU]["median_s"], workload["dense_products_s"]
    emitted = f"{workload['mean_output']:.3f}"
    return (workload["title"], emitted, seconds(chosen), seconds(dense), f"{dense / chosen:.2f}x")


def _bandwidth_row(workload: dict[str, Any]) -> tuple[str, ...]:
    entry = workload["bandwidth"]
    goal = entry["goal"]
    return (
        workload["title"],
        str(entry["bytes_per_element"]),
        f"{entry['moved_GBps']:.1f} GB/s",
        f"{entry['copy_GBps']:.1f} GB/s",
        f"{entry['fraction']:.0%}",
        "" if goal is None else f"{goal:.0%} {'met' if entry['fraction'] >= goal else 'MISSED'}",
    )


def _memory_row(entry: dict[str, Any]) -> tuple[str, ...]:
    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    return (entry["title"], *(cell(entry[what][peer]) for what in ("kept", "peak") for peer in PEERS))


def _call_row(entry: dict[str, Any]) -> tuple[str, ...]:
    goals = []
    for key, most in entry["goals"].items():
        words = f"at most {most:g}x" if key == "ratio" else f"overhead at most {seconds(most)}"
        goals.append(f"{words} {'met' if entry[key] <= most else 'MISSED'}")
    return (
        entry["title"],
        seconds(entry["whole_s"]),
        seconds(entry["kernels_s"]),
        f"{entry['ratio']:.2f}",
        seconds(entry["overhead_s"]),
        ", ".join(goals),
    )


def summary(results: dict[str, Any]) -> str:
    """One paragraph: what ran where."""
    environment = results["environment"]
    versions = ", ".join(f"{name} {environment[name]}" for name in ("plugin_accel", results["host"], "torch", "python"))
    return (
        f"{versions}; {environment['cpu']}, {environment['isa']}, {environment['threads']} threads, fp32; "
        f"load average {environment['load_before']} before and {environment['load_after']} after; {environment['date']}"
    )


def print_tables(results: dict[str, Any]) -> None:
    """Print every table, with rich where it is installed."""
    if find_spec("rich") is None:
        for title, rows in tables(results):
            print("\n".join(["", title, *aligned(rows)]))
    else:
        _print_rich(tables(results))
    print(summary(results))


def _print_rich(found: Sequence[Table]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    # Piped into a file there is no width to respect; cells cut short would be worse than long lines.
    console = Console(width=None if sys.stdout.isatty() else 200)
    for title, rows in found:
        shown = RichTable(title=title, title_justify="left")
        for index, column in enumerate(rows[0]):
            shown.add_column(column, justify="right" if index else "left")
        for row in rows[1:]:
            shown.add_row(*(f"[bold red]{cell}[/]" if "MISSED" in cell else cell for cell in row))
        console.print(shown)


def markdown(results: dict[str, Any]) -> str:
    """The tables as Markdown, to be included in the documentation."""
    lines = ["<!-- Written by `plugin-accel bench --markdown`; do not edit. -->", "", summary(results), ""]
    return "\n".join([*lines, *sections(tables(results))])


def sections(tables: Iterable[tuple[str, Sequence[tuple[str, ...]]]]) -> list[str]:
    """Tables under their titles, as Markdown."""
    return [part for title, rows in tables for part in (f"### {title}", "", pipe_table(rows))]


def pipe_table(rows: Sequence[tuple[str, ...]]) -> str:
    """One table as Markdown."""
    rule = _pipes(["---"] + ["---:"] * (len(rows[0]) - 1))
    return "\n".join([_pipes(rows[0]), rule, *map(_pipes, rows[1:]), ""])


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
