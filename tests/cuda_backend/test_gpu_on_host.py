"""The GPU tests and the benchmark, run on the host with emulated kernels: they do what they mean to where none can run.

But for the replay of graphs, which is a stub, and for what asks torch about a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .emulated import COMPILER

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to emulate with")

CHOSEN = {
    "test_gpu": "streams or stream_is_taken or nothing_waits or used or (surrogates and triang)",
    "test_gpu_egru": "not (graph_of or data_on)",
    "test_gpu_hosts": "not (graph_of or compiled or low1)",
}


def on_host(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "tests.cuda_backend.on_host", str(folder), *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout[-4000:] + made.stderr[-4000:]
    return made.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_gpu_tests(name: str, folder: Path) -> None:
    if name == "test_gpu_hosts":
        pytest.importorskip("sinabs")
        pytest.importorskip("snntorch")
    said = on_host(
        folder, "pytest", "-q", "-p", "no:cacheprovider", f"tests/cuda_backend/{name}.py", "-k", CHOSEN[name]
    )
    assert " passed" in said


@pytest.mark.slow
def test_the_benchmark(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    on_host(folder, "benchmarks/gpu_bench.py", "--tiny", "--out", str(out))
    found = json.loads(out.read_text())
    assert not [name for name, part in found.items() if isinstance(part, dict) and {"error", "stopped"} & part.keys()]
    assert all(row["met"] is not None for row in found["targets"] if "SpikingJelly" not in row["target"])
    assert found["sinabs"]["same"] is True
