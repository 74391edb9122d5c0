"""What runs on a GPU, run without one: "cuda" is taken for the CPU, and the kernels are emulated.

    python -m tests.cuda_backend.on_host FOLDER pytest tests/cuda_backend/test_gpu.py
    python -m tests.cuda_backend.on_host FOLDER benchmarks/gpu_bench.py --tiny

It tells that the GPU tests and benchmarks do what they mean to, before a machine is there to run them on. Streams,
events and graphs are stubs: nothing is asynchronous here, and a graph that is replayed does nothing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

FACTORIES = ("arange", "empty", "full", "ones", "rand", "randint", "randn", "tensor", "zeros")
CPU = torch.device("cpu")
MEMORY = 1 << 30


class Event:
    """Of the host's clock."""

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) * 1e3


class Stream:
    def wait_stream(self, other: Stream) -> None:
        assert isinstance(other, Stream)


class Graph:
    def replay(self) -> None:
        pass


def _on_cpu(make: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*arguments: Any, **options: Any) -> Any:
        if options.get("device") is not None and torch.device(options["device"]).type == "cuda":
            options["device"] = CPU
        return make(*arguments, **options)

    return made


def install(folder: Path, threads: int) -> None:
    """`threads` fill the emulated GPU: four columns are taken by each where there are four times as many."""
    from plugin_accel.backends.cuda import BACKEND
    from plugin_accel.backends.cuda_run import Runner

    from .emulated import EmulatedDevice

    folder.mkdir(parents=True, exist_ok=True)
    device = EmulatedDevice(folder, threads)
    BACKEND._device, BACKEND.runner, BACKEND.devices = device, Runner(device), frozenset({"cpu"})
    os.environ["PLUGIN_ACCEL_BACKEND"] = BACKEND.name  # else the `cpu` backend comes first
    for name in FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    for owner in (torch.Tensor, nn.Module):
        owner.cuda = lambda self: self  # type: ignore[method-assign, assignment]
    autocast = torch.autocast
    torch.autocast = lambda device, dtype: autocast("cpu", torch.bfloat16)  # type: ignore[misc, assignment]
    stubs: dict[str, Any] = {
        "CUDAGraph": Graph,
        "Event": Event,
        "Stream": Stream,
        "_sleep": lambda cycles: None,
        "current_stream": Stream,
        "empty_cache": lambda: None,
        "get_device_name": lambda: "emulated",
        "graph": lambda graph: contextlib.nullcontext(),
        "max_memory_allocated": lambda: 0,
        "mem_get_info": lambda: (MEMORY, MEMORY),
        "memory_allocated": lambda: 0,
        "reset_peak_memory_stats": lambda: None,
        "set_sync_debug_mode": lambda mode: None,
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda: None,
    }
    for name, stub in stubs.items():
        assert hasattr(torch.cuda, name), name
        setattr(torch.cuda, name, stub)


def main() -> None:
    """Command line."""
    folder, script, *rest = sys.argv[1:]
    install(Path(folder), threads=64)
    if script == "pytest":
        import pytest

        sys.exit(pytest.main(rest))
    sys.argv = [script, *rest]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
