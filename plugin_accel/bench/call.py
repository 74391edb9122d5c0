"""How much of a whole call, through autograd, is spent in the compiled library."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from plugin_accel import _C
from plugin_accel.bench.timing import Stats, Timed, interleave
from plugin_accel.bench.workload import Peer


class _Clock:
    """Adds up the time between entering and leaving the compiled library."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, kernel: Callable[..., object]) -> Callable[..., object]:
        """The same function, timed."""

        def timed(*arguments: object) -> object:
            start = time.perf_counter()
            result = kernel(*arguments)
            self.seconds += time.perf_counter() - start
            return result

        return timed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Put the timed functions in the place of the library's; the backend looks them up at each call."""
        kernels = {name: getattr(_C, name) for name in ("forward", "backward")}
        try:
            for name, kernel in kernels.items():
                setattr(_C, name, self.watch(kernel))
            yield
        finally:
            for name, kernel in kernels.items():
                setattr(_C, name, kernel)


def whole_and_kernels(peer: Peer, rounds: int) -> dict[str, Any]:
    """Time whole calls, and in the same rounds the kernels inside of them.

    Returns:
        Medians: ``whole_s``, ``kernels_s``, their ``ratio`` and difference ``overhead_s``.
    """
    clock = _Clock()
    kernels = []

    def watched() -> None:
        clock.seconds = 0.0
        with clock.watching():
            peer.run()
        kernels.append(clock.seconds)

    whole = Timed("whole", peer.run, peer.prepare, peer.context)
    inside = Timed("kernels", watched, peer.prepare, peer.context)
    whole_s = Stats.of(interleave([whole, inside], rounds)["whole"]).median_s
    # The first two samples are the warm-up's.
    kernels_s = Stats.of(kernels[2:]).median_s
    if not kernels_s:
        raise RuntimeError(f"bench: expected '{peer.name}' to call the compiled library, got no call; is it converted?")
    return {
        "whole_s": whole_s,
        "kernels_s": kernels_s,
        "ratio": whole_s / kernels_s,
        "overhead_s": whole_s - kernels_s,
    }
