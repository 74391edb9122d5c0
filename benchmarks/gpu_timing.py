"""How the benchmarks on a GPU take times; see gpu_bench.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[], object]


def elapsed(call: Call, calls: int) -> float:
    """Milliseconds of one of `calls` calls."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def medians(calls: dict[str, Call], rounds: int, target_ms: float = 20.0) -> dict[str, float]:
    """Milliseconds of each, in interleaved rounds."""
    repeats = {}
    for name, call in calls.items():
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        repeats[name] = max(1, min(50, int(target_ms / max(elapsed(call, 1), 1e-3))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(elapsed(call, repeats[name]))
    return {name: statistics.median(found) for name, found in times.items()}


def copy_bandwidth(rounds: int) -> float:
    """GB/s of a copy, reads and writes together."""
    a, b = (torch.empty(1 << 28, device="cuda") for _ in range(2))
    ms = medians({"copy": lambda: b.copy_(a)}, rounds)["copy"]
    return 2 * a.numel() * 4 / ms / 1e6


def training(layer: nn.Module, x: Tensor, reset: Call | None = None) -> Call:
    """Forward and backward of a layer with a fresh graph, without accumulation into x."""
    gradient = torch.randn(x.shape, device=x.device)

    def run() -> None:
        if reset is not None:
            reset()
        out = layer(x)
        torch.autograd.grad(out, x, gradient.to(out.dtype))

    return run


def inference(layer: nn.Module, x: Tensor, reset: Call | None = None) -> Call:
    def run() -> None:
        if reset is not None:
            reset()
        with torch.no_grad():
            layer(x)

    return run


def captured(call: Call) -> Call:
    """Replays a CUDA graph of a call."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def host_us(call: Call, prepare: Callable[[], Any] | None = None) -> float:
    """Microseconds for which a call keeps the host, the GPU idle; `prepare` runs before each, and is not timed."""
    times = []
    for _ in range(300):
        if prepare is not None:
            prepare()
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)
