"""When a product is computed from its spikes: below a density that is measured once per shape, or is pinned."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch

from plugin_accel import _C

VARIABLE = "PLUGIN_ACCEL_SPIKES"
# Near the break-even no time is to be won; but in training, compressed spikes are what is kept for backward.
_MARGIN, _MARGIN_TRAINING = 0.88, 0.95
_LEAST = 0.01  # below this the fixed costs decide, and the measurement is not that exact
_MOST_ROWS, _MOST_WORK = 1024, 1 << 27  # what is measured: enough rows to be like more of them
_SPARSE, _DENSE = 2.0, 0.0


class BreakEven(NamedTuple):
    """Densities below which spikes are used; 0: never, above 1: always."""

    forward: float
    weight_gradient: float


KEY = ("isa", "threads", "dtype", "training", "rows", "inputs", "outputs")
"""What a break-even depends on; rows: a power of two, at most 1024 unless the layer is small."""

_pinned: ContextVar[BreakEven | None] = ContextVar("spike_break_even", default=None)
_measured: dict[tuple[object, ...], BreakEven] = {}
_others: list[dict[tuple[object, ...], float]] = []


def store() -> dict[tuple[object, ...], float]:
    """What another kind of layer has measured; `forget` empties it."""
    _others.append({})
    return _others[-1]


@contextmanager
def spike_break_even(forward: float, weight_gradient: float | None = None) -> Iterator[None]:
    """Pin the densities below which `SpikeLinear` computes from the spikes, in this context.

    Without it they are measured on the first call of each shape, so that two runs may take different ways and differ
    in rounding. The environment variable `PLUGIN_ACCEL_SPIKES` does the same for the whole process: `dense`, `sparse`,
    `auto`, or one or two numbers, as in `0.3,0.2`.

    Args:
        forward: Density for y = x W^T; 0 means always dense, a number above 1 always sparse.
        weight_gradient: Density for its weights' gradient; as `forward`, if None.

    Raises:
        ValueError: A density is negative or not a number.
    """
    token = _pinned.set(_checked("break-even", forward, forward if weight_gradient is None else weight_gradient))
    try:
        yield
    finally:
        _pinned.reset(token)


def _checked(what: str, forward: float, weight_gradient: float) -> BreakEven:
    for value in (forward, weight_gradient):
        if not value >= 0:
            raise ValueError(f"{what}: expected a density of 0 or more, got {value!r}; 0 means always dense")
    return BreakEven(float(forward), float(weight_gradient))


def _parse(text: str) -> BreakEven | None:
    words = {"": None, "auto": None, "dense": BreakEven(_DENSE, _DENSE), "sparse": BreakEven(_SPARSE, _SPARSE)}
    if text in words:
        return words[text]
    try:
        numbers = [float(part) for part in text.split(",")]
        return _checked(VARIABLE, numbers[0], numbers[-1] if len(numbers) < 3 else -1.0)
    except ValueError:
        raise ValueError(
            f"{VARIABLE}: expected 'auto', 'dense', 'sparse' or one or two densities such as 0.3,0.2, got {text!r}"
        ) from None


_variable = _parse(os.environ.get(VARIABLE, ""))


def pinned() -> BreakEven | None:
    """What the user has set: the context's, else the environment's; None: measure."""
    found = _pinned.get()
    return _variable if found is None else found


def measured() -> dict[tuple[object, ...], BreakEven]:
    """What has been measured so far, by `KEY`."""
    return dict(_measured)


def forget() -> None:
    """Drop what has been measured; the next calls measure again."""
    _measured.clear()
    for other in _others:
        other.clear()


class Timing(NamedTuple):
    """What a measurement times."""

    calls: Callable[[int, float | None], Sequence[Callable[[], object]]]
    """(rows, density, or None for dense) -> calls of the product and of the weights' gradient."""
    overhead: Sequence[float]
    """Seconds of choosing and of bookkeeping that come to each of these."""


def break_even(
    dtype: torch.dtype, rows: int, inputs: int, outputs: int, training: bool, timing: Callable[[], Timing]
) -> BreakEven:
    """The densities in force for a product [rows, inputs] x [inputs, outputs]; measured at the first call."""
    found = pinned()
    if found is not None:
        return found
    most = max(_MOST_ROWS, _MOST_WORK // (inputs * outputs))
    rows = 1 << (min(rows, most).bit_length() - 1)
    key = (_C.isa(), torch.get_num_threads(), str(dtype), training, rows, inputs, outputs)
    found = _measured.get(key)
    if found is None:
        found = _measured[key] = _measure(rows, training, timing())
    return found


def _measure(rows: int, training: bool, timing: Timing) -> BreakEven:
    """Where sparse products take as long as dense ones."""

    def limits(lines: Sequence[Line]) -> list[float]:
        forward, gradient = (crossing([line]) for line in lines)
        if training:  # what the gradient gains may pay for the forward pass, which makes the indices of both
            forward = max(forward, min(crossing(lines), gradient))
        return [forward, gradient]

    return BreakEven(*density_limits(rows, timing, limits, _MARGIN_TRAINING if training else _MARGIN))


class Line(NamedTuple):
    """What is gained over the dense product at a density, seconds, and what is lost per unit of density above it."""

    low: float
    gain: float
    slope: float


def crossing(lines: Sequence[Line]) -> float:
    """The density at which as much is lost as gained in all of them, measured at the same densities."""
    return lines[0].low + sum(line.gain for line in lines) / sum(line.slope for line in lines)


def density_limits(
    rows: int, timing: Timing, limits: Callable[[Sequence[Line]], list[float]], margin: float = _MARGIN_TRAINING
) -> list[float]:
    """Densities below which spikes are used: 0, where that is below 1 %, to 1.

    Args:
        rows: How many to time.
        timing: What to time.
        limits: Densities of equal time, from the lines of both products.
        margin: Factor of these.
    """
    low, high = 0.03, 0.25
    found = limits(_lines(rows, timing, low, high))
    if max(found) > 1.2 * high:  # a line drawn that far beyond its points misses
        again = limits(_lines(rows, timing, high, min(max(found), 1.0)))
        found = [min(pair) if pair[0] > high else pair[0] for pair in zip(found, again, strict=True)]
    return [0.0 if margin * limit < _LEAST else min(margin * limit, 1.0) for limit in found]


def _lines(rows: int, timing: Timing, low: float, high: float) -> list[Line]:
    calls = [timing.calls(rows, density) for density in (None, low, high)]
    lines = []
    for product, overhead in enumerate(timing.overhead):
        dense, at_low, at_high = _seconds([call[product] for call in calls])
        lines.append(Line(low, dense - overhead - at_low, max((at_high - at_low) / (high - low), 1e-12)))
    return lines


def _seconds(calls: list[Callable[[], object]], turns: int = 5) -> list[float]:
    """Least time of each call, or of a group of calls where one is short; in turns, against drifts of the machine."""
    repeats = []
    for call in calls:
        call()
        start = time.perf_counter()
        call()
        repeats.append(max(1, min(20, int(2e-4 / max(time.perf_counter() - start, 1e-7)))))
    least = [math.inf] * len(calls)
    for _ in range(turns):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(repeats[i]):
                call()
            least[i] = min(least[i], (time.perf_counter() - start) / repeats[i])
    return least
