"""EGRU as a pair of `torch.library` ops, and the choice of the backend that runs them.

    plugin_accel::egru(<Inputs>, Tensor dampening, Tensor support, Tensor? mask, Tensor? lengths, float keep,
        bool record, bool save, str backend) -> Tensor[]: the nine of `Result`
    plugin_accel::egru_backward(...) -> Tensor[]: gradients of `Inputs` (size 0 where not wanted)

`backend` is a name, or "" for the one in force when the op runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel import backends
from plugin_accel.backends.cuda import CudaBackend
from plugin_accel.errors import BackendError, InputError
from plugin_accel.layers import egru_reference
from plugin_accel.layers.egru_call import (
    DIFFERENTIABLE,
    SEQUENCES,
    EgruKernels,
    Inputs,
    Options,
    Result,
    check_lengths,
    check_shapes,
    result_shapes,
)
from plugin_accel.layers.egru_cpu import CpuEgru
from plugin_accel.layers.egru_cuda import CudaEgru

NAME = "egru"
_REFERENCE = egru_reference.ReferenceEgru()
_BUILT_IN: dict[str, EgruKernels] = {"reference": _REFERENCE, "cpu": CpuEgru()}


def kernels_of(backend: backends.Backend) -> EgruKernels | None:
    """A backend's kernels for EGRU: its attribute `egru`, or those that stand here."""
    found: EgruKernels | None = getattr(backend, NAME, None)
    if found is None and isinstance(backend, CudaBackend):
        return CudaEgru(backend.runner)
    return found or _BUILT_IN.get(backend.name)


def choose(device: torch.device, dtype: torch.dtype, backend: str = "") -> tuple[str, EgruKernels]:
    """Name and kernels of the backend that runs EGRU.

    A name wins over what is in force (`use_backend`, `PLUGIN_ACCEL_BACKEND`); the automatic choice ends with
    `reference`, since this layer has no host to fall back to.

    Raises:
        BackendError: a backend was named that cannot run it.
    """
    name = backend or backends.requested()
    if name == backends.AUTO:
        for candidate in backends.available().values():
            kernels = kernels_of(candidate)
            if candidate.name != "reference" and kernels and candidate.refuses(NAME, device, dtype) is None:
                return candidate.name, kernels
        return "reference", _REFERENCE
    named = backends.get(name)
    kernels = kernels_of(named)
    why = "it has no kernels for EGRU" if kernels is None else named.refuses(NAME, device, dtype)
    if kernels is None or why is not None:
        able = [n for n, b in backends.available().items() if kernels_of(b) and b.refuses(NAME, device, dtype) is None]
        raise BackendError(
            f"backend {name!r}: expected one that runs EGRU with {dtype} on {device}, got none ({why}); "
            f"backends that can: {able or 'none'}"
        )
    return name, kernels


_LIBRARY = torch.library.Library("plugin_accel", "FRAGMENT")
_INPUTS = ", ".join(f"Tensor {name}" for name in Inputs._fields)
_OPTIONS = "Tensor dampening, Tensor support, Tensor? mask, Tensor? lengths, float keep"
_LIBRARY.define(f"egru({_INPUTS}, {_OPTIONS}, bool record, bool save, str backend) -> Tensor[]")
_LIBRARY.define(
    f"egru_backward({_INPUTS}, {_OPTIONS}, Tensor saved, Tensor?[] grads, bool[] wanted, str backend) -> Tensor[]"
)
_N = len(Inputs._fields)
_END = _N + len(Options._fields)


def _forward(*arguments: Any) -> list[Tensor]:
    inputs, options = Inputs(*arguments[:_N]), Options(*arguments[_N:_END])
    record, save, backend = arguments[_END:]
    check_shapes(inputs, options)
    check_lengths(inputs, options)
    _, kernels = choose(inputs.x.device, inputs.x.dtype, backend)
    result = kernels.forward(inputs, options, record=record, save=save)
    return list(result)


def _forward_fake(*arguments: Any) -> list[Tensor]:
    inputs, options = Inputs(*arguments[:_N]), Options(*arguments[_N:_END])
    record, save, _ = arguments[_END:]
    check_shapes(inputs, options)
    x = inputs.x
    out = [x.new_empty(shape) for shape in result_shapes(inputs, record)]
    saved = x.new_empty((*x.shape[:2], 5, inputs.thr.shape[0]) if save else (0,))
    return [*out, x.new_empty(2, dtype=torch.float64), saved]


def _split(arguments: Sequence[Any]) -> tuple[Inputs, Options, Tensor, list[Tensor | None], list[bool], str]:
    return (Inputs(*arguments[:_N]), Options(*arguments[_N:_END]), *arguments[_END:])


def _check_backward(
    inputs: Inputs, options: Options, saved: Tensor, grads: Sequence[Tensor | None], wanted: Sequence[bool]
) -> None:
    check_shapes(inputs, options)
    shape = (*inputs.x.shape[:2], 5, inputs.thr.shape[0])
    if tuple(saved.shape) != shape or saved.dtype is not inputs.x.dtype:
        raise InputError(
            f"EGRU saved: expected {inputs.x.dtype} of shape {shape}, got {saved.dtype} of "
            f"{tuple(saved.shape)}; call the forward op with save=True, or under torch.no_grad()"
        )
    if len(grads) != DIFFERENTIABLE or len(wanted) != _N:
        raise InputError(
            f"EGRU backward: expected {DIFFERENTIABLE} gradients and {_N} flags, got {len(grads)} and {len(wanted)}"
        )
    for shape, g in zip(result_shapes(inputs, True), grads, strict=True):
        if g is not None and (tuple(g.shape) != shape or g.dtype is not inputs.x.dtype):
            raise InputError(
                f"EGRU gradient: expected {inputs.x.dtype} of shape {shape}, got {g.dtype} of {tuple(g.shape)}"
            )


def _backward(*arguments: Any) -> list[Tensor]:
    inputs, options, saved, grads, wanted, backend = _split(arguments)
    _check_backward(inputs, options, saved, grads, wanted)
    check_lengths(inputs, options)
    _, kernels = choose(inputs.x.device, inputs.x.dtype, backend)
    found = kernels.backward(inputs, options, saved, grads, wanted)
    return [
        t.new_empty(0)
        if not want
        else torch.zeros_like(t, memory_format=torch.contiguous_format)
        if g is None
        else g.contiguous()
        for t, g, want in zip(inputs, found, wanted, strict=True)
    ]


def _backward_fake(*arguments: Any) -> list[Tensor]:
    inputs, options, saved, grads, wanted, _ = _split(arguments)
    _check_backward(inputs, options, saved, grads, wanted)
    return [t.new_empty(t.shape if want else (0,)) for t, want in zip(inputs, wanted, strict=True)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    options = Options(*inputs[_N:_END])
    ctx.save_for_backward(*inputs[:_N], *options[:-1], output[-1])
    ctx.keep, ctx.backend = options.keep, inputs[-1]
    ctx.record = inputs[_END]
    ctx.wanted = [t.requires_grad for t in inputs[:_N]]
    ctx.set_materialize_grads(False)


@torch.autograd.function.once_differentiable
def _gradients(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, saved = ctx.saved_tensors
    incoming = list(grads[:DIFFERENTIABLE])
    if not ctx.record:
        incoming[1:SEQUENCES] = [None] * (SEQUENCES - 1)
    found = torch.ops.plugin_accel.egru_backward.default(*tensors, ctx.keep, saved, incoming, ctx.wanted, ctx.backend)
    return tuple(g if want else None for g, want in zip(found, ctx.wanted, strict=True))


def _autograd(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    return (*_gradients(ctx, *grads), *(None,) * (len(Options._fields) + 3))


# One implementation for every device: the choice of the backend finds the kernels.
_LIBRARY.impl("egru", _forward, "CompositeExplicitAutograd")
_LIBRARY.impl("egru_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("plugin_accel::egru", _forward_fake, lib=_LIBRARY)
torch.library.register_fake("plugin_accel::egru_backward", _backward_fake, lib=_LIBRARY)
torch.library.register_autograd("plugin_accel::egru", _autograd, setup_context=_setup_context, lib=_LIBRARY)


def run(inputs: Inputs, options: Options, *, record: bool, backend: str = "") -> Result:
    """One layer over one sequence, differentiably.

    Raises:
        BackendError: a backend was named that cannot run it.
        InputError: a tensor of another shape, dtype or device, or lengths out of range.
    """
    if not torch.compiler.is_compiling():
        # Fixed for this call and its backward. The reference is differentiated by torch itself.
        check_shapes(inputs, options)
        backend, _ = choose(inputs.x.device, inputs.x.dtype, backend)
        if backend == "reference":
            check_lengths(inputs, options)
            return egru_reference.run(inputs, options, record)
    save = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    return Result(*torch.ops.plugin_accel.egru(*inputs, *options, record, save, backend))
