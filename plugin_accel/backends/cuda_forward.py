"""The forward call of the `cuda` backend: all that shapes, strides and dtypes decide, made ready once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plugin_accel.backends import cuda_call as cc
from plugin_accel.backends.cuda_device import Launch, Program, Where
from plugin_accel.backends.cuda_run import Runner, static
from plugin_accel.backends.cuda_source import Forward
from plugin_accel.neurons import Config, Neuron, Result
from plugin_accel.neurons.layout import layout_of

LOW = (torch.float16, torch.bfloat16)


class _Way(NamedTuple):
    """The launches with so many columns per thread; None where there is nothing to compute."""

    run: Launch | None
    sums: cc.Memory | None
    reduce: Launch | None


class ForwardPlan:
    """A call that is ready for tensors of these shapes, strides and dtypes, wherever they lie."""

    def __init__(
        self,
        runner: Runner,
        neuron: Neuron,
        config: Config,
        x: Tensor,
        first: Sequence[Tensor],
        params: Sequence[Tensor],
        keep: bool,
        record: bool,
    ) -> None:
        self._runner, self._config, device = runner, config, x.device
        self._index = runner.index(device)
        self._x_dtype, dtype = x.dtype, torch.float32 if x.dtype in LOW else x.dtype
        self._dtype = dtype
        self.shape = x.shape
        layout = self._layout = layout_of(x, config.time_dim)
        fixed = self._fixed = static(neuron, config, dtype)
        self._rows = cc.rows(layout, x, x.dtype)
        self._copies_state = [not cc.is_state(layout, s, dtype) for s in first]
        self._params = [cc.Parameter(p, layout) for p in params]
        self.order = [i for i in fixed.slots if i is not None]
        self._copies = self._rows is None or any(self._copies_state) or any(p.copies for p in self._params)
        self._out = cc.sequences(layout, fixed.out, device)
        self._kept = cc.sequences(layout, dtype, device) if keep else None
        self._records = [cc.sequences(layout, dtype, device)] * len(first) if record else []
        self._state = cc.states(layout, dtype, device)
        self._mean = cc.Memory((), (), fixed.out, device) if neuron.gives_mean(config) else None
        self._states = range(len(first))
        # what a thread may read at once has to lie at a multiple of this
        self._x_mask, self._state_mask = 4 * x.element_size() - 1, 4 * dtype.itemsize - 1
        self._wide = (
            dtype is torch.float32
            and all(p.single for p in self._params)
            and runner.fills(layout, 4, self._index)
            and cc.fits(self._rows or layout.dense_rows, 4)
        )
        self._ways: dict[int, _Way] = {}
        self.program: Program | None = None
        """Where every call goes the same way, and its tensors can be taken as they are."""

    def _way(self, width: int) -> _Way:
        runner, layout, fixed, index = self._runner, self._layout, self._fixed, self._index
        columns = layout.sizes[0] * layout.sizes[2]
        block = runner.block(columns, width, index)
        blocks = -(-columns // (width * block))
        sums = reduce = run = None
        if self._mean is not None:
            sums = cc.Memory((blocks,), (1,), torch.float64, self._out.device)
            n = float(layout.elements)  # 0 / 0 where there is nothing, as the hosts' mean
            reduce = runner.reduce("rows", 1, blocks, n, 1, fixed.out, index)
        states = [True for _ in self._states]
        fields = cc.Fields().add(*layout.sizes, *cc.flags(self._config))
        for i in fixed.slots:
            fields.address(i is not None).add(*((0, 0) if i is None else self._params[i].strides))
        fields.stream(self._rows or layout.dense_rows).address(*states)
        fields.address(True, self._kept is not None, *[bool(self._records) for _ in states], *states, sums is not None)
        if blocks:
            source = Forward(fixed.step, self._x_dtype, fixed.out, fixed.bounded, bool(self._records), width)
            run = runner.kernel(source, index).bind((blocks, 1), block, fields.packed())
        if run and not (self._wide or self._copies):
            self.program = self._programmed(run, sums, reduce)
        return self._ways.setdefault(width, _Way(run, sums, reduce))

    def _programmed(self, run: Launch, sums: cc.Memory | None, reduce: Launch | None) -> Program:
        """All launches as one call, given (*parameters in the kernel's order, x, *first)."""
        written = [
            self._out,
            *([self._kept] if self._kept else []),
            *self._records,
            *[self._state for _ in self._states],
        ]
        memories = [*written, *([sums, self._mean] if sums and self._mean else [])]
        n = len(self.order) + 1 + len(self._states)
        behind = n + len(written)  # the sums, then the mean
        launches: list[tuple[Launch, Where]] = [(run, cc.whole(range(behind + bool(sums))))]
        if reduce is not None:
            launches.append((reduce, cc.whole((behind, behind + 1))))
        return self._runner.device.program(launches, tuple(memories), self._index)

    def _run_program(self, program: Program, x: Tensor, first: Sequence[Tensor], params: Sequence[Tensor]) -> Result:
        made = program([*[params[i] for i in self.order], x, *first])
        at, states = 1 if self._kept is None else 2, len(self._states)
        kept = None if self._kept is None else made[1]
        records: tuple[Tensor, ...] = ()
        if self._records:
            records, at = made[at : at + states], at + states
        return Result(made[0], None if self._mean is None else made[-1], made[at : at + states], kept, records)

    def run(self, x: Tensor, first: Sequence[Tensor], params: Sequence[Tensor]) -> Result:
        """See `Kernels.forward`."""
        if self.program is not None:
            return self._run_program(self.program, x, first, params)
        if self._copies:
            if self._rows is None:
                x = cc.copied(self._layout, x, self._x_dtype)
            first = [
                cc.copied_state(self._layout, s, self._dtype) if copies else s
                for s, copies in zip(first, self._copies_state, strict=True)
            ]
            params = [how.readable(p) for how, p in zip(self._params, params, strict=True)]
        at, at_first = x.data_ptr(), [s.data_ptr() for s in first]
        width = 1
        if self._wide and not at & self._x_mask and not any(a & self._state_mask for a in at_first):
            width = 4
        run, sums, reduce = self._ways.get(width) or self._way(width)
        out = self._out.make()
        kept = None if self._kept is None else self._kept.make()
        records = tuple([r.make() for r in self._records])
        last = tuple([self._state.make() for _ in self._states])
        partial = None if sums is None else sums.make()
        if run is not None:
            addresses = [params[i].data_ptr() for i in self.order]
            addresses += (at, *at_first, out.data_ptr())
            if kept is not None:
                addresses.append(kept.data_ptr())
            if records:
                addresses += [r.data_ptr() for r in records]
            addresses += [s.data_ptr() for s in last]
            if partial is not None:
                addresses.append(partial.data_ptr())
            run(tuple(addresses))
        if self._mean is None:
            return Result(out, None, last, kept, records)
        mean = self._mean.make()
        if reduce is not None and partial is not None:
            reduce((partial.data_ptr(), mean.data_ptr()))
        return Result(out, mean, last, kept, records)
