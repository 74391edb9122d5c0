"""Everything that needs a GPU, in one go: build, tests, compute-sanitizer, benchmarks; the outcome as JSON.

    python benchmarks/gpu_check.py [--wheels DIR] [--out gpu-check.json] [--steps STEP ...]

Runs in an environment that has a CUDA build of torch, offline: what is missing comes from the wheels in DIR (by default
`wheels` beside the checkout, if it is there). Run it from the root of the checkout. Each step has a limit of time, and
the outcome is written after each; where the machine is lent for minutes, `--steps` does some of them now and the others
in another run, which adds to the same file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
TESTS = "tests/cuda_backend"
# Short ones: each memory access is checked, which takes ten to a hundred times as long.
SANITIZED = [f"{TESTS}/test_gpu.py", f"{TESTS}/test_gpu_egru.py", "-k"]
SANITIZED += ["(kernels_as_on_the_cpu and (LIF or Alpha)) or parameters_that_vary or (equals_the_reference and 50)"]
GPU_TESTS = [f"{TESTS}/{name}.py" for name in ("test_gpu", "test_gpu_egru", "test_gpu_hosts")]
LIMITS = {"build": 240, "tests": 420, "bench": 420, "memcheck": 240, "racecheck": 240}
"""Seconds that a step may take, what is right first."""

NEEDED = {
    "setuptools": ">=77",
    "pybind11": ">=2.13",
    "pluggy": "",
    "pytest": ">=8",
    "cuda-core": "",
    "cuda-bindings": "",
    "cuda-pathfinder": "",
}


def run(command: Sequence[str], log: Path, limit: float, **environment: str) -> dict[str, Any]:
    """Run a command from the root, its output into a file and onto the screen if it fails; it ends at the limit."""
    start = time.monotonic()
    print("+", " ".join(command), flush=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its compilers and workers too
            process.wait()
            code = None
    tail = log.read_text(errors="replace").splitlines()[-40:]
    print("\n".join(tail if code != 0 else tail[-3:]), flush=True)
    found = {"ok": code == 0, "exit": code, "seconds": round(time.monotonic() - start, 1), "log": str(log)}
    if code is None:
        found["why"] = f"took longer than {limit:g} s"
    return found if code == 0 else {**found, "tail": tail}


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


def missing() -> list[str]:
    """What is not installed of what the build and the tests need."""
    import torch

    cuda12 = str(torch.version.cuda).startswith("12.")
    nvrtc = "nvidia-cuda-nvrtc-cu12" if cuda12 else "nvidia-cuda-nvrtc"
    found = []
    for name, bound in {**NEEDED, nvrtc: ""}.items():
        try:
            version(name)
        except PackageNotFoundError:
            # as torch's own CUDA: of another major version it would not load
            found.append(name + ("<13" if cuda12 and name == "cuda-bindings" else bound))
    return found


def build(wheels: Path | None, logs: Path, limit: float) -> dict[str, Any]:
    """Install this checkout and what its tests need; torch stays the one that is there."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "10", "install"]
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    if needed := missing():
        first = run([*pip, *source, "--no-deps", *needed], logs / "packages.log", limit)
        if not first["ok"]:
            return first
    if wheels:
        for host in ("sinabs", "snntorch"):  # without them their layers are not tested, the kernels are
            if any(wheels.glob(f"{host}-*")):
                run([*pip, *source, "--no-deps", host], logs / f"{host}.log", limit)
    made = run([*pip, "--no-index", "--no-deps", "--no-build-isolation", "--editable", "."], logs / "build.log", limit)
    if made["ok"]:
        made["info"] = run([sys.executable, "-m", "plugin_accel.cli", "info"], logs / "info.log", 120)
    return made


def counted(found: dict[str, Any], report: Path) -> dict[str, Any]:
    """What a run of pytest found, from its report; nothing where it did not come to write one."""
    if not report.exists():
        return found
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [c for c in cases if c.find("skipped") is not None]
    names = [f"{c.get('classname')}::{c.get('name')}" for c in failed]
    passed = len(cases) - len(failed) - len(skipped)
    # where the backend cannot be used every test is skipped
    return {**found, "ok": found["ok"] and passed > 0, "passed": passed, "skipped": len(skipped), "failed": names}


def step(name: str, options: argparse.Namespace, logs: Path) -> dict[str, Any]:
    """One of LIMITS."""
    limit, report = LIMITS[name], logs / f"{name}.xml"
    report.unlink(missing_ok=True)
    # a warning of a torch that is newer than the tests is no failure here
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", f"--junitxml={report}"]
    if name == "build":
        return build(options.wheels, logs, limit)
    if name == "tests":
        return counted(run([*pytest, "--durations=10", *GPU_TESTS], logs / "tests.log", limit), report)
    if name == "bench":
        out = logs / "bench.json"
        out.unlink(missing_ok=True)
        extra = ["--quick"] if options.quick else []
        extra += ["--limit", str(limit * 0.7), "--out", str(out)]
        found = run([sys.executable, "benchmarks/gpu_bench.py", *extra], logs / "bench.log", limit)
        return {**found, "results": json.loads(out.read_text()) if out.exists() else None}
    tool = sanitizer()
    if tool is None:
        return {"ok": False, "why": "compute-sanitizer was not found; it comes with the CUDA toolkit"}
    checked = [tool, "--tool", name, "--error-exitcode", "99", *pytest, *SANITIZED]
    # torch's caching allocator would hide reads beyond the end of a tensor
    return counted(run(checked, logs / f"{name}.log", limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1"), report)


def before(out: Path, now: dict[str, Any]) -> dict[str, Any]:
    """The steps that an earlier run of the same commit on the same machine has left."""
    if not out.exists():
        return {}
    held = json.loads(out.read_text())
    return dict(held["steps"]) if held.get("environment") == now else {}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = ROOT.parent / "wheels"
    parser.add_argument("--wheels", type=Path, default=beside if beside.is_dir() else None)
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--steps", nargs="*", default=list(LIMITS), choices=LIMITS)
    parser.add_argument("--quick", action="store_true", help="short benchmarks")
    options = parser.parse_args()
    outcome: dict[str, Any] = {"environment": environment()}
    outcome["steps"] = before(options.out, outcome["environment"])
    logs = options.out.resolve().with_suffix("")
    logs.mkdir(parents=True, exist_ok=True)
    for name in LIMITS:
        if name not in options.steps:
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
