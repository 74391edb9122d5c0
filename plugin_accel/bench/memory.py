"""Memory: what autograd keeps for the backward pass, and the peak of a fresh process."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from plugin_accel.bench.workload import Peer, Workload

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def kept_bytes(peer: Peer, workload: Workload) -> float:
    """Bytes per neuron step that autograd holds between forward and backward, beyond input, output and parameters.

    Every saved tensor is counted by its storage, each storage once. ``torch.is_grad_enabled()`` decides as in training;
    a workload of inference keeps nothing if its forward saves nothing.
    """
    peer.reset()
    peer.prepare()
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with peer.context(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if workload.mode == "train":
            output = peer.layer(peer.x)
        else:
            with torch.no_grad():
                output = peer.layer(peer.x)
    for known in (peer.x, output, *peer.layer.parameters()):
        storages.pop(known.untyped_storage().data_ptr(), None)
    del output
    peer.reset()
    return sum(storages.values()) / workload.elements


def peak_bytes(peer: Peer, workload: Workload) -> float | None:
    """Bytes per neuron step by which two calls raise the peak resident memory of this process.

    Meant for a fresh process: memory that an earlier call left behind would hide what this one needs.

    Returns:
        The growth, or ``None`` where the system does not tell (no ``/proc``).
    """
    if not _STATUS.exists():
        return None
    warm = peer.x.detach()[:, :1].clone().requires_grad_(peer.x.requires_grad)
    with peer.context():
        result = peer.layer(warm)  # starts thread pools
        if result.requires_grad:
            result.backward(torch.ones_like(result))  # a first backward with a gradient makes torch import sympy
    peer.reset()
    _CLEAR_REFS.write_text("5")  # the peak starts again from what is resident now
    before = _resident("VmRSS")
    for _ in range(2):
        peer.prepare()
        with peer.context():
            peer.run()
    return (_resident("VmHWM") - before) / workload.elements


def _resident(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{_STATUS}: expected a line {key}, found none; is /proc that of Linux?")
    return 1024 * int(found[1])


IMPORT_PROGRAM = """
import json, sys, time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import plugin_accel
end = time.perf_counter()
hosts = sorted({"sinabs", "snntorch", "norse"} & sys.modules.keys())
print(json.dumps({"torch_s": middle - start, "plugin_accel_s": end - middle, "hosts": hosts}))
"""


def summarise_imports(runs: list[dict[str, object]]) -> dict[str, object]:
    """Medians over several fresh processes of what ``IMPORT_PROGRAM`` printed."""
    return {
        "torch_s": statistics.median(float(str(run["torch_s"])) for run in runs),
        "plugin_accel_s": statistics.median(float(str(run["plugin_accel_s"])) for run in runs),
        "hosts_imported": sorted({host for run in runs for host in run["hosts"]}),  # type: ignore[attr-defined]
    }
