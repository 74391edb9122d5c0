"""What the README claims: the table of layers, the measured rows, and that its example runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import sinabs.layers as sl
import torch
from sinabs.layers import alif

import plugin_accel
from plugin_accel.hosts import sinabs as host
from plugin_accel.hosts import snntorch as snntorch_host

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_layers_is_complete() -> None:
    table = README.split("## What is accelerated")[1].split("Options:")[0]
    named = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    assert named == {cls.__name__ for cls in host.classes()}
    stateful = {
        cls
        for module in (sl, alif)
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, sl.StatefulLayer) and cls is not sl.StatefulLayer
    }
    assert stateful == set(host.classes()), "sinabs has a layer that the table does not speak of"


def test_the_table_of_snntorch_is_complete() -> None:
    table = README.split("### snnTorch")[1].split("`init_hidden`")[0]
    named = set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    assert named == {cls.__name__ for cls in snntorch_host.classes()}


def test_the_measured_rows_are_those_of_the_committed_results() -> None:
    results = json.loads((ROOT / "benchmarks/results/sinabs-cpu.json").read_text())
    ratios = {w["title"]: w["ratios"] for w in results["workloads"]}
    block = README.split("<!-- bench:start -->")[1].split("<!-- bench:end -->")[0]
    lines = [line.strip("|") for line in block.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert len(rows) > 5
    for title, over_host, over_unbind in (row[:3] for row in rows[2:]):
        assert over_host == f"{ratios[title]['host']:.1f}x"
        assert over_unbind == f"{ratios[title]['host + unbind']:.1f}x"


def test_the_example_runs() -> None:
    code = next(c for c in re.findall(r"```python\n(.*?)```", README, re.S) if "Sequential" in c)
    scope: dict[str, object] = {}
    exec(code, scope)
    model = scope["model"]
    assert isinstance(model, torch.nn.Sequential)
    assert len(plugin_accel.report(model).accelerated) == 2
    assert model(torch.rand(2, 5, 700)).shape == (2, 5, 20)
