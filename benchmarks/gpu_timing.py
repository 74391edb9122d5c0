"""How the benchmarks on a GPU take times; see gpu_bench.py."""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Call = Callable[[], object]


class Sizes(NamedTuple):
    """Of the workloads."""

    copied: int = 1 << 28
    """Elements whose copy is timed."""
    columns: int = 1 << 22
    """Neurons of the bulk workload."""
    bulk_steps: int = 32
    swept: tuple[int, ...] = (25, 100, 400, 1600)
    """Steps, of 16 * columns elements together."""
    batch: int = 16
    steps: int = 500
    neurons: int = 512
    widths: tuple[int, ...] = (512, 1024, 4096)
    latency_steps: int = 1000
    latency_neurons: tuple[int, ...] = (1, 10, 100, 1000, 10_000)
    event_steps: int = 300
    egru: tuple[tuple[int, int, int, int], ...] = ((100, 32, 128, 256), (784, 64, 1, 256))
    """Steps, batch, features, units."""
    repeats: int = 300
    """Calls whose time on the host is taken."""


TINY = Sizes(1 << 12, 64, 4, (2, 4), 2, 5, 8, (8,), 6, (1, 10), 2, ((4, 2, 3, 8),), 5)
"""Does it run? The times mean nothing."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Ends what takes longer.

    Raises:
        TimeoutError: it does.
    """

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"expected to end within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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


def copy_bandwidth(rounds: int, elements: int) -> float:
    """GB/s of a copy, reads and writes together."""
    a, b = (torch.randn(elements, device="cuda") for _ in range(2))
    ms = medians({"copy": lambda: b.copy_(a)}, rounds)["copy"]
    return 2 * a.numel() * 4 / ms / 1e6


def training(layer: nn.Module, x: Tensor, reset: Call | None = None) -> Call:
    """Forward and backward of a layer with a fresh graph, without accumulation into x."""
    made: list[Tensor] = []

    def run() -> None:
        if reset is not None:
            reset()
        out = layer(x)
        if not made:
            made.append(torch.randn(out.shape, device=out.device, dtype=out.dtype))
        torch.autograd.grad(out, x, made[0])

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


def host_us(call: Call, prepare: Callable[[], Any] | None = None, repeats: int = 300) -> float:
    """Microseconds for which a call keeps the host, the GPU idle; `prepare` runs before each, and is not timed."""
    times = []
    for _ in range(repeats):
        if prepare is not None:
            prepare()
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)
