"""Sequences of the `cpu` backend that hear their own spikes: the time loop in C++, products of spikes included."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.backends.cpu_arguments import Parameter, static_of
from plugin_accel.backends.cpu_memory import empty
from plugin_accel.neurons.layout import STEP, contiguous_layout
from plugin_accel.neurons.recurrent_loop import Back, Connection, Grads, Held, Loop, Run, Wants

Row = tuple[int, int, int, int]
"""(address, sample stride, time stride, unit stride)"""


class _Shape(NamedTuple):
    """Sizes of a call."""

    full: tuple[int, ...]
    state: tuple[int, ...]
    by_time: tuple[int, ...]
    """[time, *state]"""
    sizes: tuple[int, int, int]
    """samples, time, units"""


def _shape(x: Tensor, time_dim: int) -> _Shape:
    full = tuple(x.shape)
    state = full[:time_dim] + full[time_dim + 1 :]
    return _Shape(full, state, (full[time_dim], *state), (prod(state[:-1]), full[time_dim], full[-1]))


def _row(t: Tensor, time_dim: int) -> Row | None:
    """How the kernels walk a sequence; None if they cannot."""
    sizes, strides = t.shape, t.stride()
    outer = [(n, s) for i, (n, s) in enumerate(zip(sizes, strides, strict=True)) if i not in (time_dim, t.dim() - 1)]
    outer = [(n, s) for n, s in outer if n != 1]
    if (sizes[-1] != 1 and strides[-1] != 1) or t.is_neg():
        return None
    for (_, s), (n, next_s) in pairwise(outer):
        if s != n * next_s:
            return None
    sample = outer[-1][1] if outer else sizes[-1]
    return (t.data_ptr(), sample, strides[time_dim], 1)


def _walkable(t: Tensor, time_dim: int) -> tuple[Tensor, Row]:
    """`t`, copied if need be, and how the kernels walk it."""
    row = _row(t, time_dim)
    if row is None:
        t = t.resolve_neg().contiguous()
        row = _row(t, time_dim)
        assert row is not None
    return t, row


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _fresh(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")


class _Arguments:
    """What both directions hand over; keeps alive what it points to."""

    def __init__(self, call: Loop, shape: _Shape, connection: Connection, params: Sequence[Tensor]) -> None:
        self.static = static_of(call.neuron, call.config, torch.float32)
        samples, _, units = self.sizes = shape.sizes
        self.shape = shape
        layout = contiguous_layout((samples, units), STEP)
        self.views = [None if p.numel() == 1 else Parameter(p, layout) for p in params]
        given = [(p.data_ptr(), 0, 0) if v is None else v.argument for p, v in zip(params, self.views, strict=True)]
        names, slots = call.neuron.params(call.config), self.static.slots
        heard = names.index("recurrent") if "recurrent" in names else None
        self.slot = -1 if heard is None else slots.index(heard)
        at = {name: i for i, name in enumerate(n for n in names if n != "recurrent")}
        self.slots = [None if i is None or i == heard else at[names[i]] for i in slots]
        self.params = tuple([None if i is None else given[i] for i in self.slots])
        self.tensors = [None if t is None else t.contiguous() for t in connection]

    def connection(self, heard: Tensor | None) -> tuple[int, ...]:
        return (self.slot, *[_address(t) for t in self.tensors], _address(heard))

    def rows(self, records: Sequence[Tensor]) -> tuple[Row, ...]:
        """Records of states, [time, samples, units]."""
        samples, _, units = self.sizes
        return tuple([(r.data_ptr(), units, samples * units, 1) for r in records])


def forward(
    call: Loop,
    x: Tensor,
    connection: Connection,
    first: Sequence[Tensor],
    params: Sequence[Tensor],
    *,
    keep: bool,
    record: bool,
    hear: bool,
) -> Run:
    """See `RecurrentKernels.recurrent_forward`."""
    shape = _shape(x, call.time_dim)
    with_ = _Arguments(call, shape, connection, params)
    x, x_row = _walkable(x, call.time_dim)
    out = empty(shape.full)
    kept = empty(shape.full) if keep else None
    records = tuple([empty(shape.by_time) for _ in first]) if record else ()
    heard = empty(shape.by_time) if hear else None
    last = tuple([_fresh(shape.state) for _ in first])
    first = [s.contiguous() for s in first]
    _C.recurrent_forward(
        with_.static.variant,
        (
            shape.sizes,
            with_.static.flags,
            with_.params,
            x_row,
            None if kept is None else _walkable(kept, call.time_dim)[1],
            tuple([s.data_ptr() for s in first]),
            _walkable(out, call.time_dim)[1],
            with_.rows(records),
            tuple([s.data_ptr() for s in last]),
        ),
        with_.connection(heard),
        torch.get_num_threads(),
    )
    return Run(out, last, kept, records, heard)


def backward(call: Loop, held: Held, connection: Connection, grads: Grads, wanted: Wants) -> Back:
    """See `RecurrentKernels.recurrent_backward`."""
    time_dim = call.time_dim
    shape = _shape(held.kept, time_dim)
    with_ = _Arguments(call, shape, connection, held.params)
    alive: list[Tensor] = []

    def row(t: Tensor | None, dim: int = time_dim) -> Row | None:
        if t is None:
            return None
        t, strides = _walkable(t, dim)
        alive.append(t)
        return strides

    def dense(t: Tensor | None) -> int:
        if t is None:
            return 0
        alive.append(t.resolve_neg().contiguous())
        return alive[-1].data_ptr()

    g_x = empty(shape.full)
    g_first = tuple(
        [torch.empty(shape.state, dtype=torch.float32, device="cpu") if want else None for want in wanted.first]
    )
    g_weight, g_bias, g_spikes = (
        _fresh(t.shape) if want and t is not None else None
        for t, want in zip(connection, (wanted.weight, wanted.bias, wanted.spikes), strict=True)
    )
    g_params = [
        None if not want else torch.empty_like(p) if v is None else v.gradient()
        for p, v, want in zip(held.params, with_.views, wanted.params, strict=True)
    ]
    targets: list[tuple[int, int, int] | None] = [None] * len(with_.slots)
    for slot, i in enumerate(with_.slots):
        if i is not None and (g := g_params[i]) is not None:
            v = with_.views[i]
            targets[slot] = (g.data_ptr(), 0, 0) if v is None else (g.data_ptr(), int(v.by_outer), int(v.by_inner))
    _C.recurrent_backward(
        with_.static.variant,
        (
            shape.sizes,
            with_.static.flags,
            with_.params,
            row(held.x),
            row(held.kept),
            tuple([dense(s) for s in held.first]),
            row(held.out),
            with_.rows(held.records),
            (),
        ),
        with_.connection(held.heard),
        call.config.packed_surrogate,
        (
            row(grads.out),
            row(grads.kept),
            tuple([row(g, 0) for g in grads.records]),
            tuple([dense(g) for g in grads.last]),
        ),
        (
            row(g_x),
            tuple([_address(g) for g in g_first]),
            tuple(targets),
            _address(g_spikes),
            _address(g_weight),
            _address(g_bias),
        ),
        torch.get_num_threads(),
    )
    summed = [
        g if g is None or v is None or g.shape == v.target else g.sum_to_size(v.target)
        for g, v in zip(g_params, with_.views, strict=True)
    ]
    return Back(g_x, g_weight, g_bias, g_spikes, g_first, tuple(summed))
