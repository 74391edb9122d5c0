"""EGRU on the `cuda` backend: per step one product of torch and one fused kernel each way, without waiting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plugin_accel.backends.cuda_call import Fields
from plugin_accel.backends.cuda_device import Launch
from plugin_accel.backends.cuda_run import Runner
from plugin_accel.backends.cuda_source import BLOCK, Egru
from plugin_accel.layers.egru_call import SEQUENCES, Inputs, Options, Result, result_shapes


class _Call:
    """What forward and backward hand over alike; holds the copies whose addresses are in use."""

    def __init__(self, inputs: Inputs, options: Options) -> None:
        self.inputs = Inputs(*(t.detach().contiguous() for t in inputs))
        x = self.inputs.x
        self.steps, self.batch, self.features = x.shape
        self.hidden = self.inputs.thr.shape[0]
        self.units = self.batch * self.hidden
        self.dampening, self.support = (t.contiguous() for t in (options.dampening, options.support))
        self.mask = None if options.mask is None else options.mask.contiguous()
        # from memory of the CPU, which is copied before the call returns: no wait for what runs on the GPU
        self.lengths = None if options.lengths is None else options.lengths.to(x.device, non_blocking=True)
        self.keep = float(options.keep)

    def flat(self, t: Tensor) -> Tensor:
        """Steps and samples as one dimension."""
        return t.view(self.steps * self.batch, t.shape[-1])

    def padded(self, x: Tensor) -> Tensor:
        """The input with zeros after the last step of each sample, whatever stands there."""
        if self.lengths is None:
            return x
        inside = torch.arange(self.steps, device=x.device)[:, None] < self.lengths[None]
        return torch.where(inside[..., None], x, 0.0)

    def bind(self, runner: Runner, source: Egru, fields: Fields) -> Launch:
        """One thread for every unit."""
        x = self.inputs.x
        return runner.kernel(source, runner.index(x.device)).bind((-(-self.units // BLOCK), 1), BLOCK, fields.packed())


def _there(tensors: Sequence[Tensor | None]) -> list[bool]:
    return [t is not None for t in tensors]


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [t.data_ptr() for t in tensors if t is not None]


def _gate_first(weight: Tensor, hidden: int) -> Tensor:
    """Columns z | r | q_g in the kernels' order q_g | z | r."""
    return torch.cat((weight[:, 2 * hidden :], weight[:, : 2 * hidden]), 1)


class CudaEgru:
    """Kernels compiled for the GPU at hand; sums of their own are deterministic, the products are cuBLAS's."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def forward(self, inputs: Inputs, options: Options, *, record: bool, save: bool) -> Result:
        """See `EgruKernels.forward`."""
        call = _Call(inputs, options)
        x, kernel, recurrent, bias, recurrent_bias, thr, *first = call.inputs
        drive = torch.addmm(bias, call.flat(x), kernel)
        q = x.new_empty(call.batch, 3 * call.hidden)
        y, h, trace = (t.clone() for t in first)
        out = [x.new_empty(shape) for shape in result_shapes(inputs, record)[:SEQUENCES]]
        saved = x.new_empty((call.steps, call.batch, 5, call.hidden) if save else (0,))
        counts = torch.zeros(call.units, 2, dtype=torch.int64, device=x.device)
        written = [out[0], *(out[1:] if record else [None] * 3), saved if save else None]
        given = [drive, q, thr, call.support, call.mask, call.lengths, y, h, trace, *written, counts]
        if call.units and call.steps:
            fields = Fields().address(True).add(call.batch, call.hidden, call.keep).address(*_there(given))
            launch = call.bind(self._runner, Egru(None, "forward", x.dtype is torch.float64), fields)
            addresses = _addresses(given)
            for step in range(call.steps):
                torch.addmm(recurrent_bias, y, recurrent, out=q)
                launch((step, *addresses))
        total = counts.sum(0).to(torch.float64)
        return Result(*out, y, h, trace, total, saved)  # type: ignore[call-arg]

    def backward(
        self,
        inputs: Inputs,
        options: Options,
        saved: Tensor,
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """See `EgruKernels.backward`."""
        call, want = _Call(inputs, options), Inputs(*wanted)  # type: ignore[arg-type]
        x, kernel, recurrent, _, _, thr, y0, h0, _ = call.inputs
        n, saved = call.hidden, saved.contiguous()
        given = [None if g is None else g.contiguous() for g in grads]
        *g_sequences, g_y_n, g_h_n, g_trace_n = given
        dh, dtrace = (torch.zeros_like(h0) if g is None else g.clone() for g in (g_h_n, g_trace_n))
        dy = torch.zeros_like(y0) if g_y_n is None else g_y_n.clone()
        gates = x.new_empty(call.steps, call.batch, 4 * n)
        before = x.new_empty(call.steps, call.batch, n) if want.recurrent_kernel else None
        g_thr = torch.zeros(call.batch, n, dtype=torch.float64, device=x.device) if want.thr else None
        if call.units and call.steps:
            read = [thr, call.dampening, call.support, call.mask, call.lengths, saved, h0, y0, *g_sequences, g_y_n]
            every = [*read, dy, dh, dtrace, gates, before, g_thr]
            fields = Fields().address(True).add(call.steps, call.batch, n, call.keep).address(*_there(every))
            launch = call.bind(self._runner, Egru(None, "backward", x.dtype is torch.float64), fields)
            addresses, back = _addresses(every), _gate_first(recurrent, n).t()
            for step in range(call.steps - 1, -1, -1):
                launch((step, *addresses))
                if step or want.y:
                    torch.mm(gates[step, :, : 3 * n], back, out=dy)
        to_q, to_drive = call.flat(gates)[:, : 3 * n], call.flat(gates)[:, n:]
        found: dict[str, Tensor] = {"y": dy, "h": dh, "trace": dtrace}
        if want.x:
            found["x"] = torch.mm(to_drive, kernel.t()).view(x.shape)
        if want.kernel:
            found["kernel"] = torch.mm(call.flat(call.padded(x)).t(), to_drive)
        if before is not None:
            g = torch.mm(call.flat(before).t(), to_q)
            found["recurrent_kernel"] = torch.cat((g[:, n:], g[:, :n]), 1)
        if want.bias or want.recurrent_bias:
            sums = call.flat(gates).sum(0)
            found["bias"], found["recurrent_bias"] = sums[n:], torch.cat((sums[n : 3 * n], sums[:n]))
        if g_thr is not None:
            found["thr"] = g_thr.sum(0).to(x.dtype)
        return [found[name] if asked else None for name, asked in zip(Inputs._fields, wanted, strict=True)]
