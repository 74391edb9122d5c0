"""What the README claims: the table of layers, the measured rows, and that its example runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
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


def measured_rows(block: str) -> list[list[str]]:
    lines = README.split(f"<!-- {block}:start -->")[1].split(f"<!-- {block}:end -->")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def results_of(suite: str) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((ROOT / f"benchmarks/results/{suite}-cpu.json").read_text())
    return results


@pytest.mark.parametrize(("block", "suite"), [("bench", "sinabs"), ("snntorch", "snntorch"), ("norse", "norse")])
def test_the_measured_rows_are_those_of_the_committed_results(block: str, suite: str) -> None:
    ratios = {w["title"]: w["ratios"] for w in results_of(suite)["workloads"]}
    rows = measured_rows(block)
    assert len(rows) > 5
    for title, over_host, over_unbind in (row[:3] for row in rows):
        assert over_host == f"{ratios[title]['host']:.1f}x"
        assert over_unbind == f"{ratios[title]['host + unbind']:.1f}x"


def test_the_fused_rows_are_those_of_the_committed_results() -> None:
    ratios = {w["title"]: w["ratios"] for w in results_of("fusion")["trainings"]}
    rows = measured_rows("fusion")
    assert len(rows) == len(ratios)
    for title, over_loop, over_identity in (row[:3] for row in rows):
        assert over_loop == f"{ratios[title]['host']:.1f}x"
        assert over_identity == f"{ratios[title]['identity']:.2f}x"


def test_the_example_runs() -> None:
    code = next(c for c in re.findall(r"```python\n(.*?)```", README, re.S) if "Sequential" in c)
    scope: dict[str, object] = {}
    exec(code, scope)
    model = scope["model"]
    assert isinstance(model, torch.nn.Sequential)
    assert len(plugin_accel.report(model).accelerated) == 2
    assert model(torch.rand(2, 5, 700)).shape == (2, 5, 20)
