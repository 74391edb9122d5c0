"""One measurement in a fresh process: ``python -m plugin_accel.bench.probe REQUEST``, both sides JSON.

Peak memory and the cost of a call depend on what the process did before: memory that other competitors gave back is
there to be reused, and the C library adapts its thresholds. So a process of its own runs one competitor only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from typing import Any

from plugin_accel.bench.memory import IMPORT_PROGRAM, peak_bytes, summarise_imports
from plugin_accel.bench.workload import Workload, peers

SUITES = {name: f"plugin_accel.bench.{name}_suite" for name in ("sinabs", "snntorch", "norse")}


def suite(host: str, quick: bool) -> list[Workload]:
    """The workloads of a host framework; imports the framework."""
    workloads: list[Workload] = import_module(SUITES[host]).workloads(quick)
    return workloads


def ask(what: str, host: str, workload: Workload, peer: str, threads: int, quick: bool, rounds: int) -> Any:
    """Run :func:`answer` in a fresh process."""
    request = {
        "what": what,
        "host": host,
        "workload": workload.name,
        "peer": peer,
        "threads": threads,
        "quick": quick,
        "rounds": rounds,
    }
    return _python("-m", "plugin_accel.bench.probe", json.dumps(request))


def imports(times: int) -> dict[str, object]:
    """Seconds that ``import plugin_accel`` adds to ``import torch``, each time in a fresh process."""
    return summarise_imports([_python("-c", IMPORT_PROGRAM) for _ in range(times)])


def _python(*arguments: str) -> Any:
    # A list without a shell: interpreter and modules are this process's own.
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"bench: expected the probe {arguments[-1]} to succeed, got:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def answer(request: dict[str, Any]) -> Any:
    """Do what a request asks for, in this process."""
    import torch

    torch.set_num_threads(request["threads"])
    (workload,) = (w for w in suite(request["host"], request["quick"]) if w.name == request["workload"])
    (peer,) = peers(workload, (request["peer"],))
    if request["what"] == "peak":
        return peak_bytes(peer, workload)
    from plugin_accel.bench.call import whole_and_kernels

    return whole_and_kernels(peer, request["rounds"])


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
