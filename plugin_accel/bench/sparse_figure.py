"""The figure of the density sweep: how many times faster than `nn.Linear`, on logarithmic scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plugin_accel.bench.figure import FAINT, INK, RULE
from plugin_accel.bench.sparse_suite import CALLS, LINEAR, SPIKES

COLOURS = ("#0f7b8a", "#e09f3e", "#9e2a2b", "#5f7a3b", "#6d597a")
TICKS = (0.5, 1, 2, 5, 10, 20, 50)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the ratios over the density into a PNG, a panel for each call; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(CALLS), figsize=(13, 4.6), dpi=150, sharey=True)
    figure.subplots_adjust(left=0.06, right=0.98, top=0.8, bottom=0.16, wspace=0.06)
    for axes, (call, title) in zip(panels, CALLS.items(), strict=True):
        for sweep, colour in zip(results["sweeps"], COLOURS, strict=False):
            points = [(100 * p["density"], p["calls"][call]["ratio"]) for p in sweep["points"]]
            label = " x ".join(map(str, sweep["shape"]))
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3.5, linewidth=1.4, label=label)
            limit = (sweep["break_even"] or {}).get(call)
            if limit:
                axes.plot([100 * limit], [1], color=colour, marker="v", markersize=8)
        axes.axhline(1, color=FAINT, linewidth=1)
        axes.set(xscale="log", yscale="log")
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        axes.set_xlabel("entries of the input that are not zero, %", color=INK)
        densities = [100 * p["density"] for p in results["sweeps"][0]["points"]]
        axes.set_xticks(densities, [f"{d:g}" for d in densities], color=INK, fontsize=8)
        axes.set_yticks(TICKS, [f"{tick:g}x" for tick in TICKS], color=INK)
        axes.minorticks_off()
        axes.grid(color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    figure.text(0.02, 0.94, f"How many times faster {SPIKES} is than {LINEAR}", weight="bold", fontsize=14, color=INK)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.013, 0.92), ncols=5, frameon=False
    )
    e = results["environment"]
    told = f"{e['cpu']}, {e['isa']}, {e['threads']} threads, fp32, torch {e['torch']}; triangles: measured break-even"
    figure.text(0.02, 0.02, told, color=FAINT, fontsize=7)
    figure.savefig(path, facecolor="white")
    plt.close(figure)
