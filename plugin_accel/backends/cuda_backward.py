"""The backward call of the `cuda` backend: all that shapes, strides and dtypes decide, made ready once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from plugin_accel.backends import cuda_call as cc
from plugin_accel.backends.cuda_device import Launch, Program, Where
from plugin_accel.backends.cuda_forward import LOW
from plugin_accel.backends.cuda_run import Runner, static
from plugin_accel.backends.cuda_source import (
    FROM_INPUT,
    FROM_KEPT,
    NO_REPLAY,
    ON_CHIP,
    ROOM,
    Backward,
    ahead,
    columns_of,
)
from plugin_accel.neurons import Config, Gradients, Incoming, Neuron, Saved, Wanted
from plugin_accel.neurons.layout import layout_of

_NO_SURROGATE = (0.0,) * 5


def streams_of(saved: Saved, grads: Incoming, dspike_dv: Tensor | None) -> list[Tensor | None]:
    """What a call reads as sequences, in the kernels' order."""
    return [saved.x, saved.kept, dspike_dv, grads.out, grads.kept, *grads.records]


class _Way(NamedTuple):
    """The launches with so many columns per thread; None where there is nothing to compute."""

    run: Launch | None
    sums: cc.Memory | None
    scratch: cc.Memory | None
    each: int
    """Sums of one parameter, in bytes."""
    reductions: list[tuple[Launch, list[int]]]
    """Second passes, and the numbers of the sums that each takes."""


class BackwardPlan:
    """A call that is ready for tensors of these shapes, strides and dtypes, wherever they lie."""

    def __init__(
        self,
        runner: Runner,
        neuron: Neuron,
        config: Config,
        saved: Saved,
        grads: Incoming,
        wanted: Wanted,
        dspike_dv: Tensor | None,
    ) -> None:
        self._runner, self._config, self._wanted = runner, config, wanted
        like = saved.like
        dtype, device = torch.float32 if like.dtype in LOW else like.dtype, like.device
        self._dtype, self._device, self._index = dtype, device, runner.index(device)
        fixed = self._fixed = static(neuron, config, dtype)
        layout = self._layout = layout_of(like, config.time_dim)
        self._x_dtype = dtype if saved.x is None else saved.x.dtype
        self._surrogate = config.surrogate if dspike_dv is None and config.spiking else None
        # what is read
        dtypes = [self._x_dtype, dtype, dtype, fixed.out, dtype, *[dtype for _ in grads.records]]
        streams = streams_of(saved, grads, dspike_dv)
        self._dtypes = [of for t, of in zip(streams, dtypes, strict=True) if t is not None]
        found = [t if t is None else (cc.rows(layout, t, of),) for t, of in zip(streams, dtypes, strict=True)]
        self._copies_stream = [f[0] is None for f in found if f is not None]
        self._rows = [f if f is None else f[0] or layout.dense_rows for f in found]
        states = (*saved.first, *grads.last)
        self._there = [s is not None for s in states]
        self._copies_state = [not cc.is_state(layout, s, dtype) for s in states if s is not None]
        self._mean_copies = grads.mean is not None and grads.mean.dtype is not fixed.out
        self._has_mean, self._states = grads.mean is not None, len(saved.first)
        self._params = [cc.Parameter(p, layout) for p in saved.params]
        self._order = [i for i in fixed.slots if i is not None]
        self._copies_params = any(p.copies for p in self._params)
        # what is written
        names = neuron.params(config)
        self._alike = [want and n in neuron.summed_inputs for n, want in zip(names, wanted.params, strict=True)]
        summed = [want and not same for want, same in zip(wanted.params, self._alike, strict=True)]
        self._slots = [(slot, i) for slot, i in enumerate(fixed.slots) if i is not None and summed[i]]
        time = layout.sizes[1]
        if saved.kept is None:
            # with one state, the membrane says what it was before the step
            alone = not neuron.replays(config) and (not self._slots or len(saved.first) == 1)
            chip = alone and time <= ROOM and dtype is torch.float32
            self._replay = ON_CHIP if chip else FROM_INPUT
        else:
            self._replay = FROM_KEPT if neuron.replays(config) or neuron.reads_input(config, summed) else NO_REPLAY
        self._by_column = any(want and not p.single for p, want in zip(self._params, summed, strict=True))
        self._g_x: cc.Memory | None = None
        if wanted.summed:
            self._g_x = cc.states(layout, self._x_dtype, device)
        elif wanted.x or any(self._alike):
            self._g_x = cc.sequences(layout, self._x_dtype, device)
        self._g_state = cc.states(layout, dtype, device)
        self._seldom = any(row is not None for row in self._rows[4:])  # of the kept membrane or of records
        # several columns per thread
        width = columns_of(self._replay, self._x_dtype, len(saved.first), self._seldom)
        if self._replay == ON_CHIP and width * time > ROOM:
            width = 1
        self._width = width
        self._masks = [width * of.itemsize - 1 for of in self._dtypes]
        self._state_mask = width * dtype.itemsize - 1
        self._wide = (
            width > 1
            and all(p.single for p in self._params)
            and not wanted.summed
            and runner.fills(layout, width, self._index)
            and all(cc.fits(row, width) for row in self._rows if row is not None)
        )
        self._ways: dict[int, _Way] = {}
        self._copies = True in (*self._copies_stream, *self._copies_state, self._copies_params, self._mean_copies)
        self._program: Program | None = None
        """Where every call goes the same way, and its tensors can be taken as they are."""
        self._inputs = 2 - (None in (saved.x, saved.kept))
        self._firsts = sum(self._there[: self._states])

    def _way(self, width: int) -> _Way:
        runner, layout, fixed, index = self._runner, self._layout, self._fixed, self._index
        outer, time, inner = layout.sizes
        columns = outer * inner
        block = runner.block(columns, width, index)
        blocks = -(-columns // (width * block))
        each = columns if self._by_column else blocks
        slots, wanted, device = self._slots, self._wanted, self._device
        sums = cc.Memory((len(slots), each), (each, 1), torch.float64, device) if slots else None
        chunks = -(-time // ahead(width, fixed.step, self._replay))
        left = max(chunks - 1, 0) * self._states * columns if self._replay in (FROM_KEPT, FROM_INPUT) else 0
        scratch = cc.Memory((left,), (1,), self._dtype, device) if left else None
        run = None
        if blocks:
            surrogate, summed = self._surrogate, {slot for slot, _ in slots}
            x, kept, dspike, g_out, g_kept, *g_records = self._rows
            source = Backward(
                fixed.step,
                self._x_dtype,
                fixed.out,
                width,
                surrogate.name if surrogate else None,
                sum(1 << slot for slot in summed),
                fixed.bounded,
                self._seldom,
                self._replay,
                -(-time // 8) * 8 if self._replay == ON_CHIP else 0,
            )
            fields = cc.Fields().add(*layout.sizes, *cc.flags(self._config))
            for i in fixed.slots:
                fields.address(i is not None).add(*((0, 0) if i is None else self._params[i].strides))
            fields.stream(x).stream(kept).address(*self._there[: self._states])
            fields.add(*map(float, self._config.packed_surrogate[1:] if surrogate else _NO_SURROGATE))
            for row in (dspike, g_out, g_kept, *(g_records or [None] * self._states)):
                fields.stream(row)
            fields.address(*self._there[self._states :], self._has_mean).add(int(wanted.summed))
            fields.address(self._g_x is not None, *wanted.first).add(int(self._by_column))
            fields.address(*[slot in summed for slot in range(len(fixed.slots))], scratch is not None)
            run = runner.kernel(source, index).bind((blocks, 1), block, fields.packed())
        made = _Way(run, sums, scratch, each * torch.float64.itemsize, self._reductions(blocks))
        if run and not (self._wide or self._copies):
            self._program = self._programmed(run, made)
        return self._ways.setdefault(width, made)

    def _programmed(self, run: Launch, way: _Way) -> Program:
        """All launches as one call, given what the kernel reads in its order; the sums' gradients are made first."""
        given = len(self._order) + len(self._dtypes) + sum(self._there) + self._has_mean
        memories = [self._params[i].memory(self._dtype, self._device) for _, i in self._slots]
        written = [*([self._g_x] if self._g_x else []), *[self._g_state for want in self._wanted.first if want]]
        memories += [*written, *([way.scratch] if way.scratch else []), *([way.sums] if way.sums else [])]
        slots = len(self._slots)
        behind = given + slots + len(written)
        sums = [(behind + bool(way.scratch), n * way.each) for n in range(slots)]
        scratch = cc.whole([behind] if way.scratch else [])
        where = (*cc.whole((*range(given), *range(given + slots, behind))), *sums, *scratch)
        launches: list[tuple[Launch, Where]] = [(run, where)]
        for launch, numbers in way.reductions:
            launches.append((launch, (*[sums[n] for n in numbers], *cc.whole([given + n for n in numbers]))))
        return self._runner.device.program(launches, tuple(memories), self._index)

    def _reductions(self, blocks: int) -> list[tuple[Launch, list[int]]]:
        """Second passes: sums of columns or blocks to gradients of parameters."""
        outer, _, inner = self._layout.sizes
        passes: dict[tuple[str, int, int], list[int]] = {}
        for n, (_, i) in enumerate(self._slots):
            shape = self._params[i].reduction(outer, inner) if self._by_column else ("rows", 1, blocks)
            passes.setdefault(shape, []).append(n)
        made = []
        for (kind, rows, n), numbers in passes.items():
            launch = self._runner.reduce(kind, rows, n, 1.0, len(numbers), self._dtype, self._index)
            if launch is not None:
                made.append((launch, numbers))
        return made

    def _run_program(self, program: Program, saved: Saved, grads: Incoming, dspike_dv: Tensor | None) -> Gradients:
        given = [saved.params[i] for i in self._order]
        given += [t for t in (saved.x, saved.kept) if t is not None]
        later = (dspike_dv, grads.out, grads.kept, *grads.records, *grads.last, grads.mean)
        given += [t for t in (*saved.first, *later) if t is not None]
        found = program(given)
        made = iter(found[len(self._slots) :])
        g_x = None if self._g_x is None else next(made)
        g_first = tuple([next(made) if want else None for want in self._wanted.first])
        return Gradients(g_x, g_first, self._of_params(g_x, found))

    def _of_params(self, g_x: Tensor | None, g_slots: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = [g_x if same else None for same in self._alike]
        for (_, i), g in zip(self._slots, g_slots, strict=False):
            found[i] = self._params[i].finished(g)
        return tuple(found)

    def run(self, saved: Saved, grads: Incoming, dspike_dv: Tensor | None) -> Gradients:
        """See `Kernels.backward`."""
        if self._program is not None:
            return self._run_program(self._program, saved, grads, dspike_dv)
        layout, dtype, wanted = self._layout, self._dtype, self._wanted
        streams = [t for t in streams_of(saved, grads, dspike_dv) if t is not None]
        if True in self._copies_stream:
            streams = [
                cc.copied(layout, t, of) if copies else t
                for t, of, copies in zip(streams, self._dtypes, self._copies_stream, strict=True)
            ]
        states = [s for s in chain(saved.first, grads.last) if s is not None]
        if True in self._copies_state:
            states = [
                cc.copied_state(layout, s, dtype) if copies else s
                for s, copies in zip(states, self._copies_state, strict=True)
            ]
        given = saved.params
        if self._copies_params:
            given = tuple([how.readable(p) for how, p in zip(self._params, given, strict=True)])
        mean = grads.mean.to(self._fixed.out) if self._mean_copies and grads.mean is not None else grads.mean
        at_streams, at_states = [t.data_ptr() for t in streams], [s.data_ptr() for s in states]
        width = 1
        if self._wide and not any(a & mask for a, mask in zip(at_streams, self._masks, strict=True)):
            width = 1 if any(a & self._state_mask for a in at_states) else self._width
        run, sums, scratch, each, reductions = self._ways.get(width) or self._way(width)

        g_x = None if self._g_x is None else self._g_x.make()
        g_first = tuple([self._g_state.make() if want else None for want in wanted.first])
        held = None if scratch is None else scratch.make()
        partial = None if sums is None else sums.make()
        base = 0 if partial is None else partial.data_ptr()
        g_slots = [self._params[i].gradient(saved.params[i]) for _, i in self._slots]
        if run is not None:
            firsts, inputs = self._firsts, self._inputs
            addresses = [given[i].data_ptr() for i in self._order]
            addresses += (*at_streams[:inputs], *at_states[:firsts], *at_streams[inputs:], *at_states[firsts:])
            if mean is not None:
                addresses.append(mean.data_ptr())
            if g_x is not None:
                addresses.append(g_x.data_ptr())
            addresses += [g.data_ptr() for g in g_first if g is not None]
            addresses += [base + n * each for n in range(len(g_slots))]
            if held is not None:
                addresses.append(held.data_ptr())
            run(tuple(addresses))
        for launch, numbers in reductions:
            launch((*[base + n * each for n in numbers], *[g_slots[n].data_ptr() for n in numbers]))
        return Gradients(g_x, g_first, self._of_params(g_x, g_slots))


def shape_of(saved: Saved, grads: Incoming, dspike_dv: Tensor | None) -> Sequence[object]:
    """All that a plan depends on, beside neuron, configuration and what is wanted."""
    like = saved.like
    return (
        like.shape,
        like.get_device(),
        *[cc.signature(t) for t in streams_of(saved, grads, dspike_dv)],
        *[cc.signature(s) for s in saved.first],
        *[cc.signature(s) for s in grads.last],
        cc.signature(grads.mean),
        cc.shapes(saved.params),
    )
