"""The table and the figure of ``digits_sinabs.py``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from digits_sinabs import Run

HOST, ACCEL, INK, FAINT = "#b3b9c4", "#0f7b8a", "#23272f", "#8b93a1"
SHOWN = 128
STYLE = {
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def agreement(runs: Sequence[Run]) -> tuple[int, int, float]:
    """Training steps whose losses are equal bit for bit, training steps in all, largest difference."""
    host, accel = runs
    differences = [abs(a - b) for a, b in zip(host.losses, accel.losses, strict=True)]
    return sum(d == 0 for d in differences), len(differences), max(differences)


def print_report(console: Console, runs: Sequence[Run], steps: int) -> None:
    """Print the comparison and where the time of one training step goes."""
    host, accel = runs
    equal, total, largest = agreement(runs)
    table = Table(title=f"The same training, T = {steps}")
    for column in ("", host.label, accel.label, ""):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("loss, first step", f"{host.losses[0]:.6f}", f"{accel.losses[0]:.6f}", "")
    table.add_row("loss, last step", f"{host.losses[-1]:.6f}", f"{accel.losses[-1]:.6f}", "")
    table.add_row("equal bit for bit", "", f"{equal} of {total} losses", f"at most {largest:.2g} apart")
    table.add_row("test accuracy", f"{host.accuracy:.2%}", f"{accel.accuracy:.2%}", "")
    ratio = f"[bold]{host.seconds / accel.seconds:.1f} x faster[/bold]"
    table.add_row("seconds per epoch", f"{host.seconds:.3f}", f"{accel.seconds:.3f}", ratio)
    console.print(table)

    table = Table(title="Where the time goes: forward + backward of each layer alone, one batch, milliseconds")
    for column in ("layer", host.label, accel.label, "ratio"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for (name, before), (_, after) in zip(host.layers, accel.layers, strict=True):
        table.add_row(name, f"{before:.2f}", f"{after:.2f}", f"{before / after:.1f}")
    sums = [sum(milliseconds for _, milliseconds in run.layers) for run in runs]
    table.add_section()
    table.add_row("all layers", f"{sums[0]:.2f}", f"{sums[1]:.2f}", f"{sums[0] / sums[1]:.1f}")
    console.print(table)
    console.print(
        "[dim]sinabs reads x[:, t] in its time loop, so its backward grows with T squared: the ratio holds for this T. "
        "Compare with a loop over unbind in `plugin-accel bench`.[/dim]"
    )


def _losses(axes: Axes, runs: Sequence[Run]) -> None:
    host, accel = runs
    equal, total, largest = agreement(runs)
    axes.plot(host.losses, color=HOST, linewidth=5, solid_capstyle="round", label=host.label)
    axes.plot(accel.losses, color=ACCEL, linewidth=1.2, label=accel.label)
    axes.set(xlabel="training step", ylabel="cross entropy", ylim=(0, None), xlim=(0, total - 1))
    axes.set_title("Training loss")
    axes.text(
        0.98,
        0.72,
        f"{equal} of {total} steps equal bit for bit\nlargest difference {largest:.2g}\n"
        f"test accuracy {host.accuracy:.1%} and {accel.accuracy:.1%}",
        transform=axes.transAxes,
        ha="right",
        va="top",
        color=INK,
    )
    axes.legend(frameon=False, loc="upper right")


def _raster(axes: Axes, rasters: Sequence[torch.Tensor], runs: Sequence[Run], image: torch.Tensor, label: int) -> None:
    host, accel = (counts[:, :SHOWN] for counts in rasters)
    for counts, colour, size, run in ((host, HOST, 30, runs[0]), (accel, ACCEL, 7, runs[1])):
        step, neuron = counts.nonzero(as_tuple=True)
        axes.scatter(step, neuron, s=size, color=colour, linewidths=0, label=run.label)
    axes.set(
        xlabel="time step", ylabel=f"neuron (the first {SHOWN})", xlim=(-0.5, len(host) - 0.5), ylim=(-2, SHOWN + 1)
    )
    axes.set_title("Spikes of the second LIF layer")
    inset = axes.inset_axes((1.02, 0.70, 0.30, 0.30))
    inset.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    inset.set(xticks=[], yticks=[])
    inset.set_title(f"test image: {label}", fontsize=9, fontweight="normal", loc="center", color=INK)
    for side in inset.spines.values():
        side.set(visible=True, color=FAINT)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 0.62), handletextpad=0.2)


def _times(axes: Axes, runs: Sequence[Run]) -> None:
    host, accel = runs
    for place, run, colour in ((1, host, HOST), (0, accel, ACCEL)):
        spiking = run.seconds * run.spiking_share
        axes.barh(place, spiking, color=colour, height=0.62)
        axes.barh(place, run.seconds - spiking, left=spiking, color=colour, height=0.62, alpha=0.4)
        axes.text(run.seconds + host.seconds * 0.012, place, f"{run.seconds:.2f} s", va="center")
    axes.text(
        accel.seconds + host.seconds * 0.1,
        0,
        f"{host.seconds / accel.seconds:.1f} x faster",
        va="center",
        fontsize=18,
        fontweight="bold",
        color=ACCEL,
    )
    handles = [Patch(color=INK, alpha=alpha) for alpha in (0.9, 0.3)]
    axes.legend(
        handles,
        ["in spiking layers", "in everything else"],
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(0.22, 1.28),
        ncols=2,
        borderaxespad=0,
    )
    axes.set(yticks=[1, 0], yticklabels=[host.label, accel.label], xlim=(0, host.seconds * 1.3), xlabel="seconds")
    axes.tick_params(axis="y", length=0)
    axes.set_title("Time per epoch")


def figure(
    path: Path, runs: Sequence[Run], image: torch.Tensor, label: int, rasters: Sequence[torch.Tensor], steps: int
) -> None:
    """Draw the losses of both runs, the spikes of a layer for one test image, and the time per epoch."""
    with plt.rc_context(STYLE):
        canvas = plt.figure(figsize=(12, 6.8), dpi=150)
        grid = canvas.add_gridspec(
            2, 2, height_ratios=(2.4, 1), width_ratios=(1.15, 1), hspace=0.48, wspace=0.2, top=0.86, bottom=0.09,
            left=0.1, right=0.86,
        )  # fmt: skip
        _losses(canvas.add_subplot(grid[0, 0]), runs)
        _raster(canvas.add_subplot(grid[0, 1]), rasters, runs, image, label)
        _times(canvas.add_subplot(grid[1, :]), runs)
        canvas.suptitle(
            "A convolutional spiking network on handwritten digits, trained twice from one seed",
            x=0.03,
            y=0.965,
            ha="left",
            fontsize=15,
            fontweight="bold",
        )
        canvas.text(
            0.03, 0.91, f"sinabs as shipped, and the same model after plugin_accel.convert(model); T = {steps}, fp32",
            color=FAINT, fontsize=11,
        )  # fmt: skip
        canvas.savefig(path)
        plt.close(canvas)
