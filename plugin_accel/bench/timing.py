"""How it is measured: interleaved rounds after a warm-up, medians and quartiles."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Stats:
    """Seconds of one call: median, quartiles, least, number of samples."""

    median_s: float
    q1_s: float
    q3_s: float
    min_s: float
    samples: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Stats:
        """The statistics of some samples."""
        if len(seconds) < 2:
            return cls(seconds[0], seconds[0], seconds[0], seconds[0], 1)
        first, middle, third = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(middle, first, third, min(seconds), len(seconds))


@dataclass(frozen=True)
class Timed:
    """Something to time: ``prepare`` runs before each sample, untimed; ``calls`` calls make one sample."""

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    calls: int = 1

    def sample(self) -> float:
        """Seconds of one call."""
        self.prepare()
        start = time.perf_counter()
        for _ in range(self.calls):
            self.run()
        return (time.perf_counter() - start) / self.calls


def interleave(
    competitors: Sequence[Timed], rounds: int, block_s: float = 0.05, most: int = 200
) -> dict[str, list[float]]:
    """Time competitors in turns (A B C A B C ...), so that a drift of the machine meets all of them alike.

    Args:
        competitors: What to time.
        rounds: Turns per competitor.
        block_s: Time a turn should last: a fast competitor takes several samples in its turn.
        most: Samples per turn at most.

    Returns:
        Seconds per call, one entry per sample, for each competitor.
    """
    repeats = {}
    for competitor in competitors:
        with competitor.context():
            competitor.sample()  # the first call builds states, caches and thread pools
            once = max(competitor.sample() * competitor.calls, 1e-9)
        repeats[competitor.name] = min(most, max(1, math.ceil(block_s / once)))
    seconds: dict[str, list[float]] = {competitor.name: [] for competitor in competitors}
    for _ in range(rounds):
        for competitor in competitors:
            with competitor.context():
                seconds[competitor.name] += [competitor.sample() for _ in range(repeats[competitor.name])]
    return seconds


def copying(megabytes: int = 256) -> Timed:
    """``torch.Tensor.copy_`` of a buffer well above the last-level cache: the memory bandwidth of this moment."""
    source = torch.ones(megabytes * 2**18)
    target = torch.empty_like(source)
    return Timed("copy", lambda: target.copy_(source))


def copied_bytes(megabytes: int = 256) -> int:
    """Bytes read and written by one call of :func:`copying`."""
    return 2 * megabytes * 2**20
