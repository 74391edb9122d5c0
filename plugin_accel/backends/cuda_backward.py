"""The backward call of the `cuda` backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plugin_accel.backends import cuda_call as cc
from plugin_accel.backends.cuda_run import Runner, static
from plugin_accel.backends.cuda_source import AHEAD, Backward
from plugin_accel.neurons import Config, Gradients, Incoming, Neuron, Saved, Wanted
from plugin_accel.neurons.layout import layout_of

_NO_SURROGATE = (0.0,) * 5


def backward(
    runner: Runner,
    neuron: Neuron,
    config: Config,
    saved: Saved,
    grads: Incoming,
    wanted: Wanted,
    dspike_dv: Tensor | None,
) -> Gradients:
    """See `Kernels.backward`."""
    kept, dtype = saved.kept, saved.kept.dtype
    index = runner.index(kept.device)
    fixed = static(neuron, config, dtype)
    layout = layout_of(kept, config.time_dim)
    outer, time, inner = layout.sizes
    columns = outer * inner
    x_dtype = dtype if saved.x is None else saved.x.dtype
    rows: list[tuple[cc.Row, int]] = []  # what the kernel reads
    held: list[Tensor] = []  # copies that must outlive the call

    def row(t: Tensor | None, of: torch.dtype) -> cc.Row:
        if t is None:
            return cc.ABSENT
        t, strides = layout.readable(t if t.dtype is of else t.to(of))
        held.append(t)
        rows.append(((t.data_ptr(), *strides), of.itemsize))
        return rows[-1][0]

    def state(t: Tensor | None) -> int:
        if t is None:
            return 0
        t = layout.state(t if t.dtype is dtype else t.to(dtype))
        held.append(t)
        rows.append(((t.data_ptr(), 0, 0, 1), dtype.itemsize))
        return t.data_ptr()

    views, arguments = cc.view_params(saved.params, layout)
    names = neuron.params(config)
    alike = [want and n in neuron.summed_inputs for n, want in zip(names, wanted.params, strict=True)]
    summed = [want and not same for want, same in zip(wanted.params, alike, strict=True)]
    replays = neuron.replays(config) or neuron.reads_input(config, summed)
    g_x = None
    if wanted.summed:
        g_x = cc.empty_state(layout, kept, x_dtype)
    elif wanted.x or any(alike):
        g_x = cc.empty(layout, kept, x_dtype)
    g_first = tuple([cc.empty_state(layout, kept, dtype) if want else None for want in wanted.first])
    g_params = [
        None if not want else torch.empty_like(p) if v is None else v.gradient()
        for p, v, want in zip(saved.params, views, summed, strict=True)
    ]
    by_column = any(want and v is not None for v, want in zip(views, summed, strict=True))
    slots = [(slot, i) for slot, i in enumerate(fixed.slots) if i is not None and summed[i]]

    x_row, kept_row = row(saved.x, x_dtype), row(kept, dtype)
    first = [state(s) for s in saved.first]
    slope, g_out, g_kept = row(dspike_dv, dtype), row(grads.out, fixed.out), row(grads.kept, dtype)
    g_records = [row(g, dtype) for g in grads.records]
    g_last = [state(g) for g in grads.last]
    g_mean = None if grads.mean is None else grads.mean.to(fixed.out)

    single = views.count(None) == len(views) and dtype is torch.float32 and not (replays or wanted.summed)
    width = 4 if single and runner.fills(layout, 4, index) and cc.aligned(rows, 4) else 1
    block = runner.block(columns, width, index)
    blocks = -(-columns // (width * block))
    each = columns if by_column else blocks
    sums = torch.empty(len(slots), each, dtype=torch.float64, device=kept.device) if slots else None
    chunks = -(-time // AHEAD[width])
    left = max(chunks - 1, 0) * len(first) * columns if replays else 0
    scratch = torch.empty(left, dtype=dtype, device=kept.device) if left else None
    to_sums = [0] * len(fixed.slots)
    for n, (slot, _) in enumerate(slots):
        assert sums is not None
        to_sums[slot] = sums.data_ptr() + n * each * sums.element_size()

    surrogate = config.surrogate if dspike_dv is None and config.spiking else None
    call = cc.pack_backward(
        layout,
        config,
        [(0, 0, 0) if i is None else arguments[i] for i in fixed.slots],
        x_row,
        kept_row,
        first,
        config.packed_surrogate[1:] if surrogate else _NO_SURROGATE,
        slope,
        g_out,
        g_kept,
        g_records,
        g_last,
        cc.address(g_mean),
        wanted.summed,
        cc.address(g_x),
        [cc.address(g) for g in g_first],
        by_column,
        to_sums,
        cc.address(scratch),
    )
    if blocks:
        source = Backward(
            fixed.step,
            x_dtype,
            fixed.out,
            width,
            surrogate.name if surrogate else None,
            sum(1 << slot for slot, _ in slots),
            fixed.bounded,
            replays,
        )
        runner.kernel(source, index)((blocks, 1), block, call)
    _finish(runner, index, views, g_params, slots, to_sums, by_column, blocks, (outer, inner), dtype)
    return Gradients(
        g_x,
        g_first,
        tuple(
            g_x if same else g if g is None or v is None else v.finished(g)
            for g, v, same in zip(g_params, views, alike, strict=True)
        ),
    )


def _finish(
    runner: Runner,
    index: int,
    views: Sequence[cc.ParamView | None],
    g_params: Sequence[Tensor | None],
    slots: Sequence[tuple[int, int]],
    sums: Sequence[int],
    by_column: bool,
    blocks: int,
    size: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    """Second pass: sums of columns or blocks to gradients of parameters."""
    outer, inner = size
    groups: dict[tuple[str, int, int], list[tuple[int, int]]] = {}
    for slot, i in slots:
        view, gradient = views[i], g_params[i]
        assert gradient is not None
        if not by_column:
            shape = ("rows", 1, blocks)
        elif view is None:
            shape = ("rows", 1, outer * inner)
        elif view.by_outer and view.by_inner:
            shape = ("columns", 1, outer * inner)
        elif view.by_inner:
            shape = ("columns", outer, inner)
        else:
            shape = ("rows", outer, inner)
        groups.setdefault(shape, []).append((sums[slot], gradient.data_ptr()))
    for (kind, rows, n), pairs in groups.items():
        runner.reduce(kind, rows, n, 1.0, pairs, dtype, index)
