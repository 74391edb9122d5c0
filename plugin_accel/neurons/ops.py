"""Every neuron as a pair of `torch.library` ops, for `torch.compile`, `torch.export` and whoever wants an op.

    plugin_accel::<neuron>(Tensor x, Tensor[] first, Tensor[] params, str config, bool keep, bool record, str backend)
        -> Tensor[]: out, mean, *last, kept (size 0 unless `keep`), *records (if `record`)
    plugin_accel::<neuron>_backward(...) -> Tensor[]: g_x, *g_first, *g_params (size 0 where not wanted)

`config` is `Config.encoded`; `backend` a name, or "" for the one in force when the op runs. Eager code calls the
kernels through `neurons.run` instead, which costs half as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.errors import InputError
from plugin_accel.neurons.checks import check_backward, check_call, check_saved
from plugin_accel.neurons.config import Config, decode
from plugin_accel.neurons.layout import Layout, contiguous_strides, layout_of, symbolic_layout_of
from plugin_accel.neurons.neuron import Incoming, Kernels, Neuron, Result, Saved, Wanted

Resolver = Callable[[str, torch.device, torch.dtype, str], Kernels]

_resolver: list[Resolver] = []


def set_resolver(resolver: Resolver) -> None:
    """Told by the backends how an op finds its kernels: (neuron, device, dtype, backend name or "")."""
    _resolver[:] = [resolver]


def _strided(t: Tensor, strides: tuple[int, ...]) -> Tensor:
    """`t` with the strides that the fakes promise; a backend may give others."""
    return t if t.stride() == strides else t.new_empty_strided(t.shape, strides).copy_(t)


def _flatten(result: Result, keep: bool, layout: Layout) -> list[Tensor]:
    kept = _strided(result.kept, layout.strides) if keep and result.kept is not None else result.out.new_empty(0)
    last = [_strided(s, layout.state_strides) for s in result.last]
    return [
        _strided(result.out, layout.strides),
        result.out.new_empty(0) if result.mean is None else result.mean,
        *last,
        kept,
        *(_strided(r, layout.strides) for r in result.records),
    ]


def _shapes(
    layout: Layout, first: Sequence[Tensor], params: Sequence[Tensor]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shape and strides of each gradient."""
    yield layout.shape, layout.strides
    for _ in first:
        yield layout.state_shape, layout.state_strides
    for p in params:
        yield tuple(p.shape), contiguous_strides(tuple(p.shape))


_LIBRARY = torch.library.Library("plugin_accel", "DEF")
_ARGUMENTS = "Tensor x, Tensor[] first, Tensor[] params, str config, bool keep, bool record, str backend"
_BACKWARD_ARGUMENTS = (
    "Tensor? x, Tensor kept, Tensor[] first, Tensor[] params, Tensor?[] grads, bool[] wanted, str config, str backend"
)


def register(neuron: Neuron) -> None:
    """Define the two ops of a neuron, their fakes and their autograd formula."""
    name = neuron.name

    def forward(
        x: Tensor,
        first: Sequence[Tensor],
        params: Sequence[Tensor],
        config: str,
        keep: bool,
        record: bool,
        backend: str,
    ) -> list[Tensor]:
        decoded = decode(config)
        check_call(neuron, decoded, x, first, params)
        kernels = _resolver[0](name, x.device, x.dtype, backend)
        result = kernels.forward(neuron, decoded, x, first, params, keep=keep, record=record)
        return _flatten(result, keep, layout_of(x, decoded.time_dim))

    def forward_fake(
        x: Tensor,
        first: Sequence[Tensor],
        params: Sequence[Tensor],
        config: str,
        keep: bool,
        record: bool,
        backend: str,
    ) -> list[Tensor]:
        decoded = decode(config)
        check_call(neuron, decoded, x, first, params)
        layout = symbolic_layout_of(x, decoded.time_dim)
        spikes = torch.float32 if decoded.narrows else x.dtype
        mean = x.new_empty(() if neuron.gives_mean(decoded) else 0, dtype=spikes)

        def full(dtype: torch.dtype) -> Tensor:
            return x.new_empty_strided(layout.shape, layout.strides, dtype=dtype)

        last = [x.new_empty_strided(layout.state_shape, layout.state_strides) for _ in first]
        kept = full(x.dtype) if keep else x.new_empty(0, dtype=spikes)
        records = [full(x.dtype) for _ in first] if record else []
        return [full(spikes), mean, *last, kept, *records]

    def backward(
        x: Tensor | None,
        kept: Tensor,
        first: Sequence[Tensor],
        params: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
        config: str,
        backend: str,
    ) -> list[Tensor]:
        decoded, states = decode(config), len(first)
        check_backward(neuron, decoded, x, kept, first, params, grads, wanted)
        kernels = _resolver[0](name, kept.device, kept.dtype, backend)
        if kernels.saves_input:
            check_saved(x)
        saved = Saved(x, kept, tuple(first), tuple(params))
        mean = grads[1] if neuron.gives_mean(decoded) else None
        incoming = Incoming(grads[0], mean, tuple(grads[2 : 2 + states]), grads[2 + states], tuple(grads[3 + states :]))
        want = Wanted(wanted[0], tuple(wanted[1 : 1 + states]), tuple(wanted[1 + states :]))
        g = kernels.backward(neuron, decoded, saved, incoming, want, None)
        layout = layout_of(kept, decoded.time_dim)
        found = []
        for t, needed, (shape, strides) in zip(
            (g.x, *g.first, *g.params), wanted, _shapes(layout, first, params), strict=True
        ):
            if not needed:
                found.append(kept.new_empty(0))
            elif t is None:
                found.append(kept.new_empty_strided(shape, strides).zero_())
            else:
                found.append(_strided(t, strides))
        return found

    def backward_fake(
        x: Tensor | None,
        kept: Tensor,
        first: Sequence[Tensor],
        params: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
        config: str,
        backend: str,
    ) -> list[Tensor]:
        decoded = decode(config)
        check_backward(neuron, decoded, x, kept, first, params, grads, wanted)
        layout = symbolic_layout_of(kept, decoded.time_dim)
        return [
            kept.new_empty_strided(shape, strides) if want else kept.new_empty(0)
            for (shape, strides), want in zip(_shapes(layout, first, params), wanted, strict=True)
        ]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        x, first, params, config, _keep, _record, backend = inputs
        states = len(first)
        ctx.config, ctx.backend, ctx.states = config, backend, states
        ctx.wanted = [t.requires_grad for t in (x, *first, *params)]
        reads_input = neuron.reads_input(decode(config), ctx.wanted[1 + states :])
        if not reads_input:
            reads_input = _resolver[0](name, x.device, x.dtype, backend).saves_input
        ctx.save_for_backward(x if reads_input else None, output[2 + states], *first, *params)
        ctx.set_materialize_grads(False)

    def autograd(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
        x, kept, *rest = ctx.saved_tensors
        states = ctx.states
        if kept.shape == (0,) and grads[0] is not None and grads[0].shape != (0,):
            raise InputError(
                f"plugin_accel::{name}: expected keep=True for a call that is differentiated, got False; "
                "pass keep=True, or call it under torch.no_grad()"
            )
        g = backward_op(x, kept, rest[:states], rest[states:], list(grads), ctx.wanted, ctx.config, ctx.backend)
        got = [t if want else None for t, want in zip(g, ctx.wanted, strict=True)]
        return got[0], got[1 : 1 + states], got[1 + states :], None, None, None, None

    _LIBRARY.define(f"{name}({_ARGUMENTS}) -> Tensor[]")
    _LIBRARY.define(f"{name}_backward({_BACKWARD_ARGUMENTS}) -> Tensor[]")
    backward_op = getattr(torch.ops.plugin_accel, f"{name}_backward").default
    # one implementation for every device: the resolver finds the kernels
    _LIBRARY.impl(name, forward, "CompositeExplicitAutograd")
    _LIBRARY.impl(f"{name}_backward", backward, "CompositeExplicitAutograd")
    torch.library.register_fake(f"plugin_accel::{name}", forward_fake, lib=_LIBRARY)
    torch.library.register_fake(f"plugin_accel::{name}_backward", backward_fake, lib=_LIBRARY)
    torch.library.register_autograd(f"plugin_accel::{name}", autograd, setup_context=setup_context, lib=_LIBRARY)


def call(
    neuron: Neuron,
    config: Config,
    x: Tensor,
    first: Sequence[Tensor],
    params: Sequence[Tensor],
    *,
    keep: bool = False,
    record: bool = False,
    backend: str = "",
) -> Result:
    """`neurons.run` by way of the op: what a compiled program does."""
    differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *first, *params))
    op = getattr(torch.ops.plugin_accel, neuron.name)
    flat = op(x, list(first), list(params), config.encoded, keep or differentiated, record, backend)
    states = len(first)
    return Result(
        flat[0],
        flat[1] if neuron.gives_mean(config) else None,
        tuple(flat[2 : 2 + states]),
        flat[2 + states] if keep else None,
        tuple(flat[3 + states :]),
    )
