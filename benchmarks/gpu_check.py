"""Everything that needs a GPU, in one go: build, tests, compute-sanitizer, benchmarks; the outcome as JSON.

    python benchmarks/gpu_check.py [--wheels DIR] [--out gpu-check.json] [--skip STEP ...]

Runs in an environment that has a CUDA build of torch, offline: what is missing comes from the wheels in DIR (by default
`wheels` beside the checkout, if it is there). Run it from the root of the checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TESTS = "tests/cuda_backend"
# Short ones: each memory access is checked, which takes ten to a hundred times as long.
SANITIZED = [f"{TESTS}/test_gpu.py", f"{TESTS}/test_gpu_egru.py", "-k"]
SANITIZED += ["(kernels_as_on_the_cpu and (LIF or Alpha)) or parameters_that_vary or (equals_the_reference and 50)"]
STEPS = ("build", "tests", "memcheck", "racecheck", "bench")


def run(command: Sequence[str], log: Path, **environment: str) -> dict[str, Any]:
    """Run a command from the root, its output into a file and onto the screen if it fails."""
    start = time.monotonic()
    print("+", " ".join(command), flush=True)
    with log.open("w") as file:
        code = subprocess.run(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment}, check=False
        ).returncode
    lines = log.read_text(errors="replace").splitlines()
    print("\n".join(lines[-40:] if code else lines[-3:]), flush=True)
    return {"ok": code == 0, "exit": code, "seconds": round(time.monotonic() - start, 1), "log": str(log)}


def sanitizer() -> str | None:
    """Path of compute-sanitizer, which comes with the CUDA toolkit."""
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", ""), *[f"{place}/bin" for place in places if place]]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def environment() -> dict[str, Any]:
    """What this machine is.

    Raises:
        SystemExit: no GPU that torch can use.
    """
    try:
        import torch
    except ImportError:
        sys.exit("gpu-check: expected a CUDA build of torch, got none installed; see https://pytorch.org")
    if torch.version.cuda is None:
        sys.exit(
            f"gpu-check: expected a CUDA build of torch, got {torch.__version__}; run this on a machine with a GPU, "
            "in an environment with the torch of https://pytorch.org"
        )
    if not torch.cuda.is_available():
        sys.exit(f"gpu-check: expected a GPU that torch {torch.__version__} can use, got none; see nvidia-smi")
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip(),
    }


def nvrtc() -> str:
    """The package of NVRTC that fits torch's CUDA."""
    import torch

    return "nvidia-cuda-nvrtc-cu12" if str(torch.version.cuda).startswith("12.") else "nvidia-cuda-nvrtc"


def build(wheels: Path | None, logs: Path) -> dict[str, Any]:
    """Install this checkout and what its tests need; torch stays the one that is there."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    needed = ["setuptools>=77", "pybind11>=2.13", "pluggy", "pytest", "cuda-core", "cuda-bindings", "cuda-pathfinder"]
    first = run([*pip, *source, "--no-deps", *needed, nvrtc()], logs / "packages.log")
    if not first["ok"]:
        return first
    for host in ("sinabs", "snntorch"):  # without them their layers are not tested, the kernels are
        run([*pip, *source, "--no-deps", host], logs / f"{host}.log")
    return run([*pip, "--no-index", "--no-deps", "--no-build-isolation", "--editable", "."], logs / "build.log")


def step(name: str, options: argparse.Namespace, logs: Path) -> dict[str, Any]:
    """One of STEPS."""
    # a warning of a torch that is newer than the tests is no failure here
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default"]
    if name == "build":
        return build(options.wheels, logs)
    if name == "tests":
        return run([*pytest, TESTS], logs / "tests.log")
    if name == "bench":
        out = logs / "bench.json"
        extra = ["--quick"] if options.quick else []
        found = run([sys.executable, "benchmarks/gpu_bench.py", "--out", str(out), *extra], logs / "bench.log")
        return {**found, "results": json.loads(out.read_text()) if found["ok"] else None}
    tool = sanitizer()
    if tool is None:
        return {"ok": False, "why": "compute-sanitizer was not found; it comes with the CUDA toolkit"}
    checked = [tool, "--tool", name, "--error-exitcode", "99", *pytest, *SANITIZED]
    # torch's caching allocator would hide reads beyond the end of a tensor
    return run(checked, logs / f"{name}.log", PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = ROOT.parent / "wheels"
    parser.add_argument("--wheels", type=Path, default=beside if beside.is_dir() else None)
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--skip", nargs="*", default=[], choices=STEPS)
    parser.add_argument("--quick", action="store_true", help="short benchmarks")
    options = parser.parse_args()
    outcome: dict[str, Any] = {"environment": environment(), "steps": {}}
    logs = options.out.resolve().with_suffix("")
    logs.mkdir(parents=True, exist_ok=True)
    for name in STEPS:
        if name in options.skip:
            continue
        outcome["steps"][name] = step(name, options, logs)
        options.out.write_text(json.dumps(outcome, indent=2) + "\n")
        if name == "build" and not outcome["steps"][name]["ok"]:
            break
    failed = [name for name, found in outcome["steps"].items() if not found["ok"]]
    print(f"gpu-check: {'failed: ' + ', '.join(failed) if failed else 'all passed'}; see {options.out}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
