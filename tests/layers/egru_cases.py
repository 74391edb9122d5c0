"""Calls of EGRU for the tests: random ones, and a second implementation in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from plugin_accel.layers.egru_call import Inputs, Options, Result
from plugin_accel.layers.egru_ops import run

RESULTS = Result._fields[:7]


def case(
    steps: int,
    batch: int,
    features: int,
    hidden: int,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    zoneout: float = 0.0,
    keep: float = 1.0,
    lengths: Sequence[int] | None = None,
    dampening: float = 0.7,
    support: float = 1.0,
    scale: float = 1.0,
    thr_mean: float = 0.3,
) -> tuple[Inputs, Options]:
    """Random inputs, all of which require a gradient, drawn in float64 whatever the type."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64) * std

    tensors = [
        normal(steps, batch, features),
        normal(features, 3 * hidden, std=scale / math.sqrt(features)),
        normal(hidden, 3 * hidden, std=scale / math.sqrt(hidden)),
        normal(3 * hidden, std=0.3),
        normal(3 * hidden, std=0.3),
        torch.rand(hidden, generator=g, dtype=torch.float64) * 2 * thr_mean,
        normal(batch, hidden, std=0.5) * (torch.rand(batch, hidden, generator=g) < 0.3),
        normal(batch, hidden, std=0.3),
        normal(batch, hidden, std=0.3),
    ]
    mask = torch.rand(steps, batch, hidden, generator=g) >= zoneout if zoneout else None
    options = Options(
        torch.tensor([dampening], dtype=dtype),
        torch.tensor([support], dtype=dtype),
        mask,
        None if lengths is None else torch.tensor(lengths),
        keep,
    )
    return Inputs(*(t.to(dtype).requires_grad_() for t in tensors)), options


def upstream(result: Result, only: Sequence[str] = RESULTS, seed: int = 1) -> list[Tensor | None]:
    """Random gradients of the results that are named."""
    g = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(t.shape, generator=g, dtype=torch.float64).to(t.dtype) for t in result[:7]]
    return [d if name in only else None for d, name in zip(drawn, RESULTS, strict=True)]


def differentiate(
    inputs: Inputs, options: Options, backend: str, only: Sequence[str] = RESULTS, record: bool = True
) -> tuple[Result, tuple[Tensor, ...]]:
    """Results and gradients of one backend."""
    result = run(inputs, options, record=record, backend=backend)
    pairs = [(t, g) for t, g in zip(result, upstream(result, only), strict=False) if g is not None and t.requires_grad]
    grads = torch.autograd.grad([t for t, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)
    return result, tuple(torch.zeros_like(t) if g is None else g for t, g in zip(inputs, grads, strict=True))


def by_hand(inputs: Inputs, options: Options) -> dict[str, list[list[list[float]]]]:
    """Forward in Python floats, one unit at a time: the equations once more, written by nobody's tensor library."""
    x, kernel, recurrent, bias, recurrent_bias, thr, y, h, trace = (t.detach().tolist() for t in inputs)
    hidden = len(thr)
    seen: dict[str, list[list[list[float]]]] = {name: [] for name in ("y", "h", "o", "trace")}
    for t, rows in enumerate(x):
        for values in seen.values():
            values.append([])
        for b, row in enumerate(rows):
            new: dict[str, list[float]] = {name: [] for name in seen}
            for j in range(hidden):
                a = [sum(v * w[k * hidden + j] for v, w in zip(row, kernel, strict=True)) for k in range(3)]
                q = [sum(v * w[k * hidden + j] for v, w in zip(y[b], recurrent, strict=True)) for k in range(3)]
                a = [v + bias[k * hidden + j] for k, v in enumerate(a)]
                q = [v + recurrent_bias[k * hidden + j] for k, v in enumerate(q)]
                z, r = (1 / (1 + math.exp(-(a[k] + q[k]))) for k in range(2))
                g = math.tanh(a[2] + r * q[2])
                c = z * h[b][j] + (1 - z) * g
                if options.mask is not None:
                    c = c if options.mask[t, b, j] else h[b][j]
                c = h[b][j] + options.keep * (c - h[b][j])
                o = 1.0 if c > thr[j] else 0.0
                new["o"].append(o)
                new["y"].append(o * c)
                new["h"].append(c - o * thr[j])
                new["trace"].append(0.9 * trace[b][j] + 0.1 * o * c)
            inside = options.lengths is None or t < int(options.lengths[b])
            if inside:
                y[b], h[b], trace[b] = new["y"], new["h"], new["trace"]
            for name, values in seen.items():
                values[-1].append(new[name] if inside else [0.0] * hidden)
    return {**seen, "y_n": y, "h_n": h, "trace_n": trace}
