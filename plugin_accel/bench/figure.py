"""The figure: how many times faster the cpu backend is, on a logarithmic scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plugin_accel.bench.render import GROUPS, seconds, summary
from plugin_accel.bench.workload import CPU, HOST, UNBIND

INK, FAINT, RULE = "#23272f", "#6b7280", "#d9dde3"
COLOURS = {HOST: "#0f7b8a", UNBIND: "#e09f3e"}
WORDS = {HOST: "than the framework as shipped", UNBIND: "than the same operations in eager torch with unbind"}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
ROW, TOP, BOTTOM = 0.4, 1.0, 0.75  # inches


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the ratios of every workload into a PNG; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    rows: list[dict[str, Any] | str] = []
    for group, title in GROUPS.items():
        members = [workload for workload in results["workloads"] if workload["group"] == group]
        rows += [title, *members] if members else []
    height = TOP + ROW * len(rows) + BOTTOM
    figure, axes = plt.subplots(figsize=(11, height), dpi=150)
    figure.subplots_adjust(left=0.375, right=0.97, top=1 - TOP / height, bottom=BOTTOM / height)
    ratios = [workload["ratios"][peer] for workload in results["workloads"] for peer in COLOURS]
    low, high = 0.97 * min(1, *ratios), 3.0 * max(1, *ratios)
    for place, row in enumerate(rows):
        if isinstance(row, str):
            axes.text(1.03, place + 0.15, row, weight="bold", color=INK, va="center")
            continue
        for offset, (peer, colour) in zip((-0.19, 0.19), COLOURS.items(), strict=True):
            ratio = row["ratios"][peer]
            axes.barh(place + offset, ratio - 1, left=1, height=0.34, color=colour)
            axes.text(max(1, ratio) * 1.03, place + offset, f"{ratio:.3g}x", va="center", fontsize=8.5, color=INK)
        axes.text(high, place, seconds(row["peers"][CPU]["median_s"]), va="center", ha="right", color=FAINT, fontsize=9)
    axes.text(high, -0.1, "time of one call", va="center", ha="right", color=FAINT, fontsize=9)
    axes.axvline(1, color=FAINT, linewidth=1)
    axes.set(xscale="log", xlim=(low, high), ylim=(len(rows) - 0.4, -0.6))
    axes.set_xlabel("times faster (logarithmic)", color=INK)
    labelled = [(place, row["title"]) for place, row in enumerate(rows) if not isinstance(row, str)]
    axes.set_yticks(*map(list, zip(*labelled, strict=True)), color=INK, fontsize=9)
    ticks = [tick for tick in TICKS if low <= tick <= high / 1.8]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks], color=INK)
    axes.xaxis.minorticks_off()
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    title = f"How many times faster {results['host']} runs with plugin_accel on the CPU"
    figure.text(0.02, 1 - 0.35 / height, title, weight="bold", fontsize=14, color=INK)
    handles = [Patch(color=colour) for colour in COLOURS.values()]
    figure.legend(
        handles, WORDS.values(), loc="upper left", bbox_to_anchor=(0.013, 1 - 0.42 / height), ncols=2, frameon=False
    )
    figure.text(0.02, 0.12 / height, summary(results), color=FAINT, fontsize=7)
    figure.savefig(path, facecolor="white")
    plt.close(figure)
