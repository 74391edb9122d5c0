"""EGRU in plain torch: one differentiable loop with a backward linear in time; the oracle of the kernels.

    q = y R + b_r                 z = sig(a_z + q_z)       r = sig(a_r + q_r)       g = tanh(a_g + r q_g)
    c = z h + (1 - z) g           c = h + m (c - h)        o = 1[c > thr]           y = o c
    h = c - o thr                 trace = 0.9 trace + 0.1 y

with a = x W + b of all steps in one product, m the zoneout mask (or `keep`), do/dc = d max(0, 1 - s |c - thr|), d the
dampening factor, s the support. Neither reset nor event is detached. Source: Subramoney et al., ICLR 2023 (openreview
lJdOlWg8td); gate order, trace, zoneout and surrogate as in EvNN v0.2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.layers.egru_call import SEQUENCES, TRACE_DECAY, Inputs, Options, Result


class _Event(torch.autograd.Function):
    """1[v > 0] with the slope d max(0, 1 - s |v|)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, dampening: Tensor, support: Tensor) -> Tensor:
        ctx.save_for_backward(v, dampening, support)
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        v, dampening, support = ctx.saved_tensors
        return grads[0] * dampening * torch.clamp(1 - support * v.abs(), min=0), None, None


def run(inputs: Inputs, options: Options, record: bool, save: bool = False) -> Result:
    """A sequence, differentiable by torch's own autograd."""
    x, kernel, recurrent_kernel, bias, recurrent_bias, thr, y, h, trace = inputs
    steps = x.shape[0]
    valid: Sequence[Tensor | None] = [None] * steps
    if options.lengths is not None:
        inside = torch.arange(steps, device=x.device)[:, None] < options.lengths.to(x.device)[None]
        x = torch.where(inside[..., None], x, 0.0)
        valid = inside[..., None].unbind(0)
    driven = (x @ kernel + bias).unbind(0)
    masks = [None] * steps if options.mask is None else options.mask.to(x.dtype).unbind(0)
    sequences: tuple[list[Tensor], ...] = ([], [], [], [])
    counts = torch.zeros(2, dtype=torch.float64, device=x.device)
    saved = []
    for a, mask, now in zip(driven, masks, valid, strict=True):
        az, ar, ag = a.chunk(3, -1)
        qz, qr, qg = torch.addmm(recurrent_bias, y, recurrent_kernel).chunk(3, -1)
        z, r = torch.sigmoid(az + qz), torch.sigmoid(ar + qr)
        g = torch.tanh(ag + r * qg)
        c = z * h + (1 - z) * g
        if mask is not None:
            c = h + mask * (c - h)
        elif options.keep != 1.0:
            c = h + options.keep * (c - h)
        if save:
            saved.append(torch.stack((z, r, g, qg, c), 1).detach())
        v = c - thr
        o: Tensor = _Event.apply(v, options.dampening, options.support)  # type: ignore[no-untyped-call]
        y_t, h_t = o * c, c - o * thr
        out = [y_t, h_t, o, TRACE_DECAY * trace + (1 - TRACE_DECAY) * y_t]
        quiet = (o == 0) & (options.support * v.detach().abs() >= 1)
        if now is None:
            y, h, _, trace = out
        else:
            y, h, trace = (torch.where(now, new, old) for new, old in ((y_t, y), (h_t, h), (out[3], trace)))
            out = [torch.where(now, t, 0.0) for t in out]
            quiet = quiet & now
        counts += torch.stack((out[2].detach().sum(dtype=torch.float64), quiet.sum(dtype=torch.float64)))
        for sequence, t in zip(sequences[: SEQUENCES if record else 1], out, strict=False):
            sequence.append(t)
    recorded = SEQUENCES if record else 1
    if not steps:
        kept = x.new_empty((0, x.shape[1], 5, thr.shape[0]) if save else (0,))
        stacked = [x.new_empty(0, x.shape[1], thr.shape[0]) for _ in range(recorded)]
    else:
        kept = torch.stack(saved) if save else x.new_empty(0)
        stacked = [torch.stack(s) for s in sequences[:recorded]]
    stacked += [x.new_empty(0) for _ in range(SEQUENCES - recorded)]
    ys, hs, os, traces = stacked
    return Result(ys, hs, os, traces, y.clone(), h.clone(), trace.clone(), counts, kept)


class ReferenceEgru:
    """`run` behind the protocol of kernels, for the ops; eager calls differentiate `run` itself."""

    def forward(self, inputs: Inputs, options: Options, *, record: bool, save: bool) -> Result:
        """See `EgruKernels.forward`; what it saves is for other backends."""
        with torch.no_grad():
            return run(inputs, options, record, save)

    def backward(
        self,
        inputs: Inputs,
        options: Options,
        saved: Tensor,
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """See `EgruKernels.backward`: forward once more with autograd recording, then torch's own backward."""
        leaves = Inputs(*(t.detach().requires_grad_(want) for t, want in zip(inputs, wanted, strict=True)))
        with torch.enable_grad():
            result = run(leaves, options, record=any(g is not None for g in grads[1:SEQUENCES]))
        used = [(t, g) for t, g in zip(result, grads, strict=False) if g is not None and t.requires_grad]
        targets = [t for t in leaves if t.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(targets)
        if used and targets:
            found = torch.autograd.grad([t for t, _ in used], targets, [g for _, g in used], allow_unused=True)
        given = iter(found)
        return [next(given) if want else None for want in wanted]
