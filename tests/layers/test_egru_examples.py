"""The examples of EGRU run, learn something, and write what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def ran(name: str, out: Path, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), "--threads", "1", "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_digits(tmp_path: Path) -> None:
    said = ran(
        "egru_digits.py", tmp_path, "--epochs", "5", "--hidden", "32", "--limit", "900", "--lr", "0.02", "--batch", "32"
    )
    history = json.loads((tmp_path / "egru_digits.json").read_text())
    assert "test accuracy" in said and len(history["loss"]) == 5
    assert history["loss"][-1] < 0.7 * history["loss"][0] and history["accuracy"][-1] > 0.4
    assert all(0 < e < 0.5 for e in history["events"])
    picture = (tmp_path / "egru_digits.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_characters(tmp_path: Path) -> None:
    ran("egru_characters.py", tmp_path, "--epochs", "6", "--hidden", "64", "--size", "30000", "--lr", "0.01")
    result = json.loads((tmp_path / "egru_characters.json").read_text())
    assert result["held_out"][-1] < 0.8 * result["unigram"] and len(result["sample"]) == 300


def test_a_missing_module_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "sklearn.py").write_text("raise ModuleNotFoundError('blocked', name='sklearn')\n")
    program = "import sys, runpy; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2], run_name='__main__')"
    command = [sys.executable, "-c", program, str(tmp_path), str(EXAMPLES / "egru_digits.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "plugin-accel[demo]" in done.stderr


@pytest.mark.parametrize("arguments", [["--quick", "--no-figure", "--only", "medium-*n"]])
def test_benchmark(tmp_path: Path, arguments: list[str]) -> None:
    from plugin_accel import bench

    markdown = tmp_path / "egru.md"
    assert bench.main(["--host", "egru", "--out", str(tmp_path), "--markdown", str(markdown), *arguments]) == 0
    results = json.loads((tmp_path / "egru-cpu.json").read_text())
    assert {w["threads"] for w in results["workloads"]} == {1, 2} and results["kept"] <= 5.0
    assert all(set(w["peers"]) == {"nn.GRU", "reference", "cpu"} and w["error"] < 1e-4 for w in results["workloads"])
    assert "over nn.GRU" in markdown.read_text()
