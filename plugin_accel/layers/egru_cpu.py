"""EGRU on the `cpu` backend: the C++ loops, and torch's products with the input over all steps at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.backends.cpu_memory import empty
from plugin_accel.layers.egru_call import Inputs, Options, Result, result_shapes

FEW_FEATURES = 8
"""Up to here the loops form the product with the input themselves: [T, B, 3H] is then never written."""


def _address(t: Tensor | None) -> int:
    return 0 if t is None or not t.numel() else t.data_ptr()


class _Call:
    """What forward and backward hand over alike; holds the copies whose addresses are in use."""

    def __init__(self, inputs: Inputs, options: Options) -> None:
        self.inputs = Inputs(*(t.detach().contiguous() for t in inputs))
        x = self.inputs.x
        self.steps, self.batch, self.features = x.shape
        self.hidden = self.inputs.thr.shape[0]
        self.dtype = x.dtype
        self.mask = None if options.mask is None else options.mask.contiguous()
        self.lengths = None if options.lengths is None else options.lengths.to("cpu").contiguous()
        self.forms_product = self.features > FEW_FEATURES
        self.sizes = (self.steps, self.batch, self.features, self.hidden)
        self.numbers = (float(options.dampening), float(options.support), options.keep)

    def arguments(self, drive: Tensor | None) -> tuple[object, ...]:
        """The leading arguments of both entries of the library."""
        x, kernel, *rest = self.inputs
        recurrent, bias, recurrent_bias, thr, y, h, trace = rest
        first = (x, drive, kernel, recurrent, bias, recurrent_bias, thr, y, h, trace, self.mask, self.lengths)
        return (self.dtype is torch.float64, self.sizes, self.numbers, tuple(_address(t) for t in first))

    def flat(self, t: Tensor) -> Tensor:
        """Steps and samples as one dimension."""
        return t.view(self.steps * self.batch, t.shape[-1])


class CpuEgru:
    """C++ kernels for baseline, AVX2 and AVX-512; sums of their own do not depend on the number of threads."""

    def forward(self, inputs: Inputs, options: Options, *, record: bool, save: bool) -> Result:
        """See `EgruKernels.forward`."""
        call = _Call(inputs, options)
        drive = None
        if call.forms_product:
            drive = empty((call.steps, call.batch, 3 * call.hidden), call.dtype)
            torch.mm(call.flat(call.inputs.x), call.inputs.kernel, out=call.flat(drive))
        out = [empty(shape, call.dtype) for shape in result_shapes(inputs, record)]
        saved = empty((call.steps, call.batch, 5, call.hidden) if save else (0,), call.dtype)
        counts = torch.empty(2, dtype=torch.float64, device="cpu")
        _C.egru_forward(
            *call.arguments(drive), tuple(_address(t) for t in (*out, saved, counts)), torch.get_num_threads()
        )
        return Result(*out, counts, saved)  # type: ignore[call-arg]

    def backward(
        self,
        inputs: Inputs,
        options: Options,
        saved: Tensor,
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """See `EgruKernels.backward`."""
        call = _Call(inputs, options)
        want = Inputs(*wanted)  # type: ignore[arg-type]
        incoming = [None if g is None else g.contiguous() for g in grads]
        found = [empty(t.shape, call.dtype) if w else None for t, w in zip(inputs, wanted, strict=True)]
        to = Inputs(*found)  # type: ignore[arg-type]
        drive = None
        if call.forms_product and (want.x or want.kernel):
            drive = empty((call.steps, call.batch, 3 * call.hidden), call.dtype)
        # The library tells by the presence of a drive whether it forms the product; it does not read it here.
        few = not call.forms_product
        outgoing = (drive, to.x if few else None, to.y, to.h, to.trace, to.kernel if few else None, *to[2:6])
        _C.egru_backward(
            *call.arguments(saved if call.forms_product else None),
            _address(saved),
            tuple(_address(g) for g in incoming),
            tuple(_address(t) for t in outgoing),
            torch.get_num_threads(),
        )
        if drive is not None:
            flat = call.flat(drive)
            if to.kernel is not None:
                torch.mm(call.flat(call.inputs.x).t(), flat, out=to.kernel)
            if to.x is not None:
                torch.mm(flat, call.inputs.kernel.t(), out=call.flat(to.x))
        return found
