"""The demonstration: it runs, both trainings see the same numbers, and the host's own training is reproducible."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    """The example as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import digits_sinabs

        yield digits_sinabs


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder a quick run of the whole demonstration left behind."""
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, str(EXAMPLES / "digits_sinabs.py"), "--quick", "--threads", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for words in ("equal bit for bit", "test accuracy", "seconds per epoch", "accelerated", "all layers"):
        assert words in done.stdout
    return out


def test_demo_draws_its_figure(outcome: Path) -> None:
    picture = (outcome / "digits_sinabs.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_demo_trains_both_alike(outcome: Path) -> None:
    summary = json.loads((outcome / "digits_sinabs.json").read_text())
    host, accelerated = summary["runs"]
    rows = summary["report"]["rows"]
    assert len(host["losses"]) == len(accelerated["losses"]) > 4
    # The default network needs nothing but additions, multiplications and comparisons.
    assert host["losses"] == accelerated["losses"]
    assert host["accuracy"] == accelerated["accuracy"] and summary["raster_equal"]
    assert all((row["status"], row["backend"], row["reasons"]) == ("accelerated", "cpu", []) for row in rows)
    assert all(run["epoch_seconds"] and 0 <= run["accuracy"] <= 1 for run in summary["runs"])
    assert [name for name, _ in host["layers"]] == [name for name, _ in accelerated["layers"]]


def test_host_training_is_reproducible(digits: ModuleType) -> None:
    """Otherwise equal losses of host and converted model would be luck."""
    options = digits.parse(["--quick"])
    data = digits.Digits.load(options.steps, options.seed, options.limit)
    losses = []
    for _ in range(2):
        training = digits.Training("sinabs", data, options)
        training.epoch("epoch", digits.Console(quiet=True))
        losses.append(training.run.losses)
    assert losses[0] == losses[1]


def test_missing_module_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "sklearn.py").write_text("raise ModuleNotFoundError('blocked', name='sklearn')\n")
    program = "import sys, runpy; sys.path[:0] = sys.argv[1:3]; runpy.run_path(sys.argv[3], run_name='__main__')"
    command = [sys.executable, "-c", program, str(tmp_path), str(EXAMPLES), str(EXAMPLES / "digits_sinabs.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "plugin-accel[sinabs,demo]" in done.stderr and "sklearn" in done.stderr


def test_other_frameworks_train_alike() -> None:
    command = [sys.executable, str(EXAMPLES / "digits_others.py"), "--threads", "1"]
    command += ["--steps", "6", "--batch", "8", "--batches", "5"]
    wide = {**os.environ, "COLUMNS": "140"}  # a row of the table in a line
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=wide)
    assert done.returncode == 0, done.stderr
    rows = [line.split("│") for line in done.stdout.splitlines() if "faster" in line]
    assert [row[1].strip() for row in rows] == ["snnTorch", "Norse", "Norse", "Norse"]
    assert all(float(row[6]) < 1e-3 for row in rows)


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder a quick run of the snnTorch example left behind."""
    pytest.importorskip("snntorch")
    out = tmp_path_factory.mktemp("loops")
    command = [sys.executable, str(EXAMPLES / "snntorch_digits.py"), "--quick", "--threads", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("time fusion") == 2 and done.stdout.count("ms per training step") == 2
    return out


@pytest.mark.parametrize("net", ["fc", "conv"])
def test_loops_train_alike(loops: Path, net: str) -> None:
    summary = json.loads((loops / f"snntorch_{net}.json").read_text())
    host, fused = summary["snnTorch"], summary["fused"]
    assert len(host["losses"]) == len(fused["losses"]) > 4
    # Products over all steps may round otherwise than products of one step.
    assert fused["losses"] == pytest.approx(host["losses"], rel=1e-4)
    picture = (loops / f"snntorch_{net}.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


def test_gallery_of_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry is fused, or left alone, as the gallery says; outputs and gradients are the host's."""
    pytest.importorskip("snntorch")
    command = [sys.executable, str(EXAMPLES / "snntorch_loops.py"), "--quick", "--threads", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "snntorch_loops.json").read_text())
    monkeypatch.syspath_prepend(EXAMPLES)
    from loops import GALLERY

    assert results.keys() == GALLERY.keys()
    for name, (*_, fuses) in GALLERY.items():
        assert (results[name]["reason"] == "") == fuses, (name, results[name]["reason"])
        # Products over all steps may round otherwise than products of one step.
        assert results[name]["error"] <= 1e-5, name
    picture = (tmp_path / "snntorch_loops.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
