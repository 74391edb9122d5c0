"""The `cpu` backend: the C++ kernels, called with addresses, sizes and strides."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.backends import cpu_linear, cpu_recurrent, cpu_sequence, cpu_step
from plugin_accel.backends.cpu_arguments import Parameter, alike_of, static_of
from plugin_accel.backends.cpu_memory import POOLED_BYTES, granted_bytes, pooled
from plugin_accel.hookspecs import hookimpl
from plugin_accel.neurons import Config, Gradients, Incoming, Neuron, Result, Saved, Wanted
from plugin_accel.neurons.layout import Layout, layout_of
from plugin_accel.neurons.prepared import PreparedStep
from plugin_accel.neurons.prepared_sequence import Derivations, PreparedSequence

_CPU = torch.device("cpu")  # named at every allocation: the default device of the context may be another

Row = tuple[int, int, int, int]
"""(address, outer stride, time stride, inner stride)"""


def empty_cache() -> None:
    """Give the memory that the `cpu` backend keeps for recycling back to the system.

    Outputs, gradients and saved tensors of the kernels live in recycled memory, because the page faults of fresh
    memory cost more than the kernels themselves. At most an eighth of the machine's memory is kept, or of what its
    container or batch system grants the process; the environment variable `PLUGIN_ACCEL_POOL_MB` sets another bound
    (0: keep nothing).
    """
    _C.pool_trim()


def _set_pool_limit() -> None:
    text = os.environ.get("PLUGIN_ACCEL_POOL_MB")
    if text is None:
        granted = granted_bytes()
        if granted is not None:
            _C.pool_set_limit(min(_C.pool_limit(), granted // 8))
        return
    if not text.isdecimal():
        raise ValueError(f"PLUGIN_ACCEL_POOL_MB: expected a whole number of megabytes, got {text!r}")
    _C.pool_set_limit(int(text) << 20)


_set_pool_limit()


def _sequence(layout: Layout, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory of the input's shape."""
    if layout.elements * dtype.itemsize >= POOLED_BYTES:
        return pooled(layout.shape, layout.strides, dtype)
    return torch.empty_strided(layout.shape, layout.strides, dtype=dtype, device=_CPU)


def _state(layout: Layout, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory of a state's shape."""
    if layout.elements * dtype.itemsize >= POOLED_BYTES and prod(layout.state_shape) * dtype.itemsize >= POOLED_BYTES:
        return pooled(layout.state_shape, layout.state_strides, dtype)
    return torch.empty_strided(layout.state_shape, layout.state_strides, dtype=dtype, device=_CPU)


def _row(t: Tensor, rows: tuple[int, int, int]) -> Row:
    return (t.data_ptr(), *rows)


class CpuBackend:
    """C++ kernels for baseline, AVX2 and AVX-512, chosen at run time; deterministic for any number of threads."""

    name = "cpu"
    devices = frozenset({"cpu"})
    saves_input = False

    def unavailable(self) -> str | None:
        """None: the extension is built, or importing this module would have failed."""
        return None

    def details(self) -> str:
        """Instruction set, threads and compiler."""
        threads = f"{torch.get_num_threads()} threads (OpenMP)" if _C.openmp() else "1 thread (built without OpenMP)"
        return f"{_C.isa()} of {', '.join(_C.isas())}; {threads}; {_C.compiler()}"

    def refuses(self, neuron: str, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why this backend cannot run a neuron on a device with a dtype."""
        if device.type != "cpu":
            return f"the cpu backend runs on the CPU, not on {device.type}"
        if dtype not in (torch.float32, torch.float64):
            return f"the cpu kernels compute in float32 or float64, not in {dtype}"
        return None

    def forward(
        self,
        neuron: Neuron,
        config: Config,
        x: Tensor,
        first: Sequence[Tensor],
        params: Sequence[Tensor],
        *,
        keep: bool,
        record: bool,
    ) -> Result:
        """See `Kernels.forward`."""
        dtype = x.dtype
        layout = layout_of(x, config.time_dim)
        variant, flags, slots, spikes, scalar = static_of(neuron, config, dtype)
        held: list[Tensor] = []  # copies that must outlive the call
        x, x_rows = layout.readable(x)
        first = [layout.state(s) for s in first]
        arguments = [(p.data_ptr(), 0, 0) if p.numel() == 1 else Parameter(p, layout).hold(held) for p in params]
        rows = layout.dense_rows
        out = _sequence(layout, dtype)
        kept = _sequence(layout, dtype) if keep else None
        records = tuple([_sequence(layout, dtype) for _ in first]) if record else ()
        last = tuple([_state(layout, dtype) for _ in first])
        mean = torch.empty_like(scalar) if neuron.gives_mean(config) else None
        _C.forward(
            variant,
            layout.sizes,
            flags,
            tuple([None if i is None else arguments[i] for i in slots]),
            (x.data_ptr(), *x_rows),
            None if kept is None else (kept.data_ptr(), *rows),
            tuple([s.data_ptr() for s in first]),
            (out.data_ptr(), *rows),
            tuple([(r.data_ptr(), *rows) for r in records]),
            tuple([s.data_ptr() for s in last]),
            0 if mean is None else mean.data_ptr(),
            torch.get_num_threads(),
        )
        return Result(out if spikes is dtype else out.to(spikes), mean, last, kept, records)

    def backward(
        self,
        neuron: Neuron,
        config: Config,
        saved: Saved,
        grads: Incoming,
        wanted: Wanted,
        dspike_dv: Tensor | None,
    ) -> Gradients:
        """See `Kernels.backward`."""
        assert saved.kept is not None
        kept, dtype = saved.kept, saved.kept.dtype
        layout = layout_of(kept, config.time_dim)
        rows = layout.dense_rows
        alive: list[Tensor] = []  # copies that must outlive the call

        def row(t: Tensor | None) -> Row | None:
            if t is None:
                return None
            t, strides = layout.readable(t.to(dtype))
            alive.append(t)
            return _row(t, strides)

        def state(t: Tensor | None) -> int:
            if t is None:
                return 0
            t = layout.state(t.to(dtype))
            alive.append(t)
            return t.data_ptr()

        views = [None if p.numel() == 1 else Parameter(p, layout) for p in saved.params]
        arguments = [
            (p.data_ptr(), 0, 0) if v is None else v.argument for p, v in zip(saved.params, views, strict=True)
        ]
        alike = alike_of(neuron, config, wanted.params) if neuron.summed_inputs else (False,) * len(views)
        g_x, g_rows = None, rows
        if wanted.summed:
            g_x, g_rows = _state(layout, dtype), (layout.sizes[2], 0, 1)
        elif wanted.x or any(alike):
            g_x = _sequence(layout, dtype)
        g_first = tuple([_state(layout, dtype) if want else None for want in wanted.first])
        g_params = [
            None if not want or same else torch.empty_like(p) if v is None else v.gradient()
            for p, v, want, same in zip(saved.params, views, wanted.params, alike, strict=True)
        ]
        variant, flags, slots, _, _ = static_of(neuron, config, dtype)
        targets: list[tuple[int, int, int] | None] = [None] * len(slots)
        for slot, i in enumerate(slots):
            if i is not None and (g := g_params[i]) is not None:
                v = views[i]
                targets[slot] = (g.data_ptr(), 0, 0) if v is None else (g.data_ptr(), int(v.by_outer), int(v.by_inner))
        _C.backward(
            variant,
            layout.sizes,
            flags,
            tuple([None if i is None else arguments[i] for i in slots]),
            row(saved.x),
            row(kept),
            tuple([state(s) for s in saved.first]),
            config.packed_surrogate if dspike_dv is None else (0, 0.0, 0.0, 0.0, 0.0, 0.0),
            row(dspike_dv),
            row(grads.out),
            row(grads.kept),
            tuple([row(g) for g in grads.records]),
            tuple([state(g) for g in grads.last]),
            0.0 if grads.mean is None else float(grads.mean) / max(kept.numel(), 1),
            None if g_x is None else _row(g_x, g_rows),
            tuple([0 if g is None else g.data_ptr() for g in g_first]),
            tuple(targets),
            torch.get_num_threads(),
        )
        return Gradients(
            g_x,
            g_first,
            tuple(
                [
                    g_x if same else g if g is None or v is None or g.shape == v.target else g.sum_to_size(v.target)
                    for g, v, same in zip(g_params, views, alike, strict=True)
                ]
            ),
        )

    recurrent_forward = staticmethod(cpu_recurrent.forward)
    recurrent_backward = staticmethod(cpu_recurrent.backward)

    @contextmanager
    def amid_others(self) -> Iterator[None]:
        """Around the forward calls of a network's layers: large outputs then bypass the caches, which others need.

        What a call writes is fetched into the caches before it is overwritten, unless it was there from the call
        before, as it is where one layer is called again and again, but not in a network.
        """
        before = _C.set_amid_others(True)
        try:
            yield
        finally:
            _C.set_amid_others(before)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`torch.nn.functional.linear` for many rows, differentiably; see `cpu_linear`."""
        return cpu_linear.linear(x, weight, bias)

    def prepare(self, neuron: Neuron, config: Config, x: Tensor, params: Sequence[Tensor]) -> PreparedStep | None:
        """A single step to be called again and again; see `neurons.prepared`."""
        return cpu_step.prepare(neuron, config, x, params, static_of(neuron, config, x.dtype).slots)

    def prepare_sequence(
        self, neuron: Neuron, config: Config, x: Tensor, params: Sequence[Tensor], derivations: Derivations | None
    ) -> PreparedSequence | None:
        """A short sequence to be called again and again; see `neurons.prepared_sequence`."""
        static = static_of(neuron, config, x.dtype)
        return cpu_sequence.prepare(neuron, self, config, x, params, derivations, static)


BACKEND = CpuBackend()


@hookimpl
def plugin_accel_backends() -> Iterable[CpuBackend]:
    """The built-in CPU backend."""
    return (BACKEND,)
