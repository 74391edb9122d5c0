"""Everything that needs a GPU, in one go: build, tests, benchmarks, compute-sanitizer; the outcome as JSON.

    python benchmarks/gpu_check.py [--wheels DIR] [--out gpu-check.json] [--steps STEP ...] [--limit SECONDS]

Runs in an environment that has a CUDA build of torch, offline: what is missing comes from the wheels in DIR (by default
`wheels` beside the checkout, if it is there; benchmarks/gpu_wheels.py fetches them). Each step has a limit of time, and
the outcome is written after each; where the machine is lent for minutes, `--limit` says for how many seconds, and
`--steps` does some of them now and the others in another run, which adds to the same file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
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
GPU_TESTS = [f"{TESTS}/{name}.py" for name in ("test_gpu", "test_gpu_egru", "test_gpu_hosts")]
LIMITS = {"build": 240, "tests": 420, "bench": 420, "memcheck": 240, "racecheck": 240}
"""Seconds that a step may take, what is right first."""

NEEDED = ("setuptools>=77", "pybind11>=2.13", "pluggy>=1.2", "iniconfig>=1.1", "packaging>=22", "pygments", "pytest>=8")
"""What the build and the tests need, whatever the version of CUDA."""
CUDA = {
    "12": (
        "cuda-pathfinder>=1.4.2",
        "cuda-core>=1.0.1,<2",
        "cuda-bindings>=12.9,<13",
        "nvidia-cuda-nvrtc-cu12>=12.8,<13",
    ),
    "13": ("cuda-pathfinder>=1.4.2", "cuda-core>=1.0.1,<2", "cuda-bindings>=13,<14", "nvidia-cuda-nvrtc>=13,<14"),
}
"""By the major version of torch's CUDA: of another one they would not load."""
HOSTS = {
    "sinabs": ("sinabs>=3.1", "nir<=1.0.4", "nirtorch<=2.0.2", "pbr"),
    "snntorch": ("snntorch>=0.9",),
    "norse": ("norse>=1.1", "nir<=1.0.4", "nirtorch<=2.0.2"),
    "spikingjelly": ("spikingjelly>=2", "loguru", "scienceplots"),
}
"""Without a host its layers are not tested and not measured, the kernels are."""


def run(command: Sequence[str], log: Path, limit: float, **environment: str) -> dict[str, Any]:
    """Run a command from the root, its output added to a file and the end shown; it ends at the limit."""
    start = time.monotonic()
    print("+", " ".join(command), flush=True)
    with log.open("a") as file:
        begin = file.tell()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            preexec_fn=os.setpgrp,  # noqa: PLW1509 - there are no threads; `process_group` wants Python 3.11
        )
        code: int | None = None
        try:
            code = process.wait(max(limit, 1))
        except subprocess.TimeoutExpired:
            pass
        finally:
            if code is None:
                os.killpg(process.pid, signal.SIGKILL)  # its compilers and workers too
                process.wait()
    said = log.read_bytes()[begin:].decode(errors="replace")
    tail = said.splitlines()[-40:]
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
        "commit": commit(),
    }


def commit() -> str | None:
    """That of the checkout; None of a copy without git's folder."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-c", f"safe.directory={ROOT}", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or None


def build(wheels: Path | None, logs: Path, limit: float) -> dict[str, Any]:
    """Install this checkout and what its tests need; torch stays the one that is there, as does all that fits."""
    import torch

    log, end = logs / "build.log", time.monotonic() + limit
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "10", "install"]
    pip += ["--no-deps", "--no-build-isolation"]
    source = ["--no-index", "--find-links", str(wheels.resolve())] if wheels else []

    def install(*what: str) -> dict[str, Any]:
        return run([*pip, *what], log, end - time.monotonic())

    first = install(*source, *NEEDED, *CUDA["12" if str(torch.version.cuda).startswith("12.") else "13"])
    if not first["ok"]:
        return first
    hosts = {}
    for host, packages in HOSTS.items():
        if wheels and any(wheels.glob(f"{host}-*")):
            hosts[host] = install(*source, *packages)
    made = install("--no-index", "--editable", ".")
    if made["ok"]:
        made["info"] = run([sys.executable, "-m", "plugin_accel.cli", "info"], log, 120)
        hosts |= {host: run([sys.executable, "-c", f"import {host}"], log, 60) for host in HOSTS}
    return {**made, "hosts": {host: found["ok"] or found["tail"][-1] for host, found in hosts.items()}}


OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL)\b", re.MULTILINE)


def tests(
    what: Sequence[str], log: Path, limit: float, before: Sequence[str] = (), **environment: str
) -> dict[str, Any]:
    """What a run of pytest found, also one that did not come to its end."""
    # a warning of a torch that is newer than the tests is no failure here
    pytest = [sys.executable, "-m", "pytest", "-v", "--durations=10", "-p", "no:cacheprovider", "-p", "no:logging"]
    pytest += ["-W", "default"]
    begin = log.stat().st_size if log.exists() else 0
    found = run([*before, *pytest, "-o", "faulthandler_timeout=90", *what], log, limit, **environment)
    outcomes = dict(OUTCOME.findall(log.read_bytes()[begin:].decode(errors="replace")))
    failed = [name for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR")]
    passed, skipped = (list(outcomes.values()).count(outcome) for outcome in ("PASSED", "SKIPPED"))
    # where the backend cannot be used every test is skipped
    return {**found, "ok": found["ok"] and passed > 0, "passed": passed, "skipped": skipped, "failed": failed}


def step(name: str, options: argparse.Namespace, logs: Path, limit: float) -> dict[str, Any]:
    """One of LIMITS."""
    log, end = logs / f"{name}.log", time.monotonic() + limit
    log.unlink(missing_ok=True)
    if name == "build":
        return build(options.wheels, logs, limit)
    if name == "tests":  # a process each: after a fault of the GPU nothing else works in one
        files = {path: tests([path], log, end - time.monotonic()) for path in GPU_TESTS}
        return {
            "ok": all(f["ok"] for f in files.values()),
            "seconds": sum(f["seconds"] for f in files.values()),
            **files,
        }
    if name == "bench":
        out = logs / "bench.json"
        out.unlink(missing_ok=True)
        extra = ["--quick"] if options.quick else ["--compile"]
        extra += ["--limit", str(limit - 30), "--out", str(out)]
        found = run([sys.executable, "benchmarks/gpu_bench.py", *extra], log, limit)
        return {**found, "results": json.loads(out.read_text()) if out.exists() else None}
    tool = sanitizer()
    if tool is None:
        return {"ok": False, "why": "compute-sanitizer was not found; it comes with the CUDA toolkit"}
    # torch's caching allocator would hide reads beyond the end of a tensor
    checked = [tool, "--tool", name, "--error-exitcode", "99"]
    return tests(SANITIZED, log, limit, checked, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def before(out: Path, now: dict[str, Any]) -> dict[str, Any]:
    """The steps that an earlier run of the same commit on the same machine has left."""
    if not out.exists() or now["commit"] is None:
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
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds for all steps together")
    parser.add_argument("--quick", action="store_true", help="short benchmarks, none under torch.compile")
    options = parser.parse_args()
    end = time.monotonic() + options.limit
    outcome: dict[str, Any] = {"environment": environment()}
    outcome["steps"] = before(options.out, outcome["environment"])
    logs = options.out.resolve().with_suffix("")
    logs.mkdir(parents=True, exist_ok=True)
    for name, own_limit in LIMITS.items():
        if name not in options.steps:
            continue
        left = min(own_limit, end - time.monotonic() - 5)
        outcome["steps"][name] = {"ok": False, "why": "not begun: too little time was left"}
        if left > 20:
            outcome["steps"][name] = step(name, options, logs, left)
        options.out.write_text(json.dumps(outcome, indent=2) + "\n")
        if name == "build" and not outcome["steps"][name]["ok"]:
            break
    failed = [name for name, found in outcome["steps"].items() if not found["ok"]]
    print(f"gpu-check: {'failed: ' + ', '.join(failed) if failed else 'all passed'}; see {options.out}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
