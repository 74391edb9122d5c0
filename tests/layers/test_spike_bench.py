"""``plugin-accel bench --sparse``: that it runs, agrees and writes what it says. No test depends on a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from plugin_accel import bench
from plugin_accel.bench import sparse_convs, sparse_suite


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The benchmark sets torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "tables.md"
    name, conv = sparse_suite.SWEEPS[0].name, sparse_convs.CONVS[0].name
    arguments = ["--sparse", "--quick", "--only", f"{name},{conv}", "--out", str(tmp_path), "--markdown", str(table)]
    assert bench.main(arguments) == 0
    results = json.loads((tmp_path / "sparse-cpu.json").read_text())
    (sweep,) = results["sweeps"]
    assert sweep["name"] == name and results["environment"]["threads"] == 2
    for point in sweep["points"]:
        assert point["error"] <= 1e-5 and set(point["calls"]) == set(sparse_suite.CALLS)
        for call in point["calls"].values():
            linear, spikes = (call["peers"][peer]["median_s"] for peer in (sparse_suite.LINEAR, sparse_suite.SPIKES))
            assert call["ratio"] == linear / spikes
    (convolution,) = results["convolutions"]
    assert convolution["name"] == conv and set(convolution["break_even"]) == set(sparse_convs.CALLS)
    for point in convolution["points"]:
        assert point["error"] <= 1e-5
        for call in point["calls"].values():
            assert call["ratio"] == call["dense_s"] / call["spikes_s"]
    assert "| 2.0% |" in table.read_text() and (tmp_path / "sparse-cpu.png").stat().st_size > 10_000
    assert "SpikeLinear" in capsys.readouterr().out + table.read_text()


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--host", "sparse", "--list"]) == 0
    names = capsys.readouterr().out.split()
    assert names == [workload.name for workload in (*sparse_suite.SWEEPS, *sparse_convs.CONVS)] and len(names) == 9
    assert bench.main(["--sparse", "--only", "nothing"]) == 1


def test_a_disagreement_is_an_error() -> None:
    setup = sparse_suite.Setup(sparse_suite.Sweep(8, 20, 6), 0.5)
    assert setup.error() <= 1e-5
    with torch.no_grad():
        setup.layers[sparse_suite.SPIKES].bias.add_(1e-3)
    with pytest.raises(RuntimeError, match="to agree"):
        setup.error()
