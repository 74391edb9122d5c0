"""The `cuda` backend: the step headers compiled for the GPU at hand, launched on torch's current stream.

Every allocation is torch's own, on the current stream, and what is not handed back is used on no other: nothing has to
be recorded for the allocator. Nothing waits for the GPU, so that a call can be captured in a CUDA graph, once a call
before has compiled its kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from plugin_accel.backends import cuda_backward, cuda_check
from plugin_accel.backends import cuda_call as cc
from plugin_accel.backends.cuda_device import Device, Gpu
from plugin_accel.backends.cuda_run import Runner, static
from plugin_accel.backends.cuda_source import Forward, Reduce
from plugin_accel.errors import BackendError
from plugin_accel.hookspecs import hookimpl
from plugin_accel.neurons import Config, Gradients, Incoming, Neuron, Result, Saved, Wanted
from plugin_accel.neurons.layout import layout_of

NEURONS = frozenset(
    {"sinabs_lif", "sinabs_alif"}
    | {"snntorch_leaky", "snntorch_lapicque", "snntorch_synaptic", "snntorch_alpha", "snntorch_parallel"}
    | {"norse_lif", "norse_box", "norse_adex", "norse_lsnn", "norse_izhikevich", "norse_refrac"}
    | {"norse_adex_refrac", "norse_mc_refrac", "norse_coba"}
)
"""Those in csrc/cuda/steps.h."""

_LOW = (torch.float16, torch.bfloat16)


class CudaBackend:
    """Kernels compiled by NVRTC for the GPU at hand; deterministic, on torch's current stream."""

    name = "cuda"
    saves_input = False
    reads_low = True
    """An input of 16 bits is read as it is; its gradient has its dtype where backward reads the input too."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._runner = Runner(device)
        self._failures: dict[int, str | None] = {}
        self.devices = frozenset({device.type})

    def unavailable(self) -> str | None:
        """What is missing, and the command that mends it."""
        return self._device.unavailable()

    def details(self) -> str:
        """GPUs and compiler."""
        return self._device.details()

    def refuses(self, neuron: str, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why this backend cannot run a neuron on a device with a dtype."""
        if device.type != self._device.type:
            return f"the cuda backend runs on GPUs, not on {device.type}"
        if dtype not in (torch.float32, torch.float64):
            return f"the cuda kernels compute in float32 or float64, not in {dtype}"
        if neuron not in NEURONS:
            return f"{neuron} has no CUDA kernels"
        index = self._runner.index(device)
        if index not in self._failures:
            self._failures[index] = self._device.refuses(device) or self._first_failure(device, index)
        return self._failures[index]

    def _first_failure(self, device: torch.device, index: int) -> str | None:
        """What goes wrong when a small call is compiled, launched and compared; None if nothing does."""
        try:
            self._runner.kernel(Reduce(None, "rows", torch.float32), index)
            return cuda_check.check(self, device) if self._device.holds_data(device) else None
        except BackendError as error:
            return str(error)

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
        """See `Kernels.forward`; `x` may be of 16 bits, the rest is then fp32."""
        dtype = torch.float32 if x.dtype in _LOW else x.dtype
        runner, index = self._runner, self._runner.index(x.device)
        fixed = static(neuron, config, dtype)
        layout = layout_of(x, config.time_dim)
        x, x_rows = layout.readable(x)
        first = [layout.state(s) for s in first]
        views, arguments = cc.view_params(params, layout)
        out = cc.empty(layout, x, fixed.out)
        kept = cc.empty(layout, x, dtype) if keep else None
        records = tuple([cc.empty(layout, x, dtype) for _ in first]) if record else ()
        last = tuple([cc.empty_state(layout, x, dtype) for _ in first])
        mean = torch.empty((), dtype=fixed.out, device=x.device) if neuron.averages else None
        x_row = (x.data_ptr(), *x_rows)
        width = 1
        if dtype is torch.float32 and views.count(None) == len(views) and runner.fills(layout, 4, index):
            states = [((s.data_ptr(), 0, 0, 1), dtype.itemsize) for s in first]
            width = 4 if cc.aligned([(x_row, x.element_size()), *states], 4) else 1
        columns = layout.sizes[0] * layout.sizes[2]
        block = runner.block(columns, width, index)
        blocks = -(-columns // (width * block))
        sums = torch.empty(blocks, dtype=torch.float64, device=x.device) if mean is not None else None
        call = cc.pack_forward(
            layout,
            config,
            [(0, 0, 0) if i is None else arguments[i] for i in fixed.slots],
            x_row,
            [s.data_ptr() for s in first],
            out.data_ptr(),
            cc.address(kept),
            [r.data_ptr() for r in records],
            [s.data_ptr() for s in last],
            cc.address(sums),
        )
        if blocks:
            runner.kernel(Forward(fixed.step, x.dtype, fixed.out, width), index)((blocks, 1), block, call)
        if mean is not None and sums is not None:
            n = float(out.numel())  # 0 / 0 where there is nothing, as the hosts' mean
            runner.reduce("rows", 1, blocks, n, [(sums.data_ptr(), mean.data_ptr())], fixed.out, index)
        return Result(out, mean, last, kept, records)

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
        return cuda_backward.backward(self._runner, neuron, config, saved, grads, wanted, dspike_dv)


BACKEND = CudaBackend(Gpu())


@hookimpl
def plugin_accel_backends() -> Iterable[CudaBackend]:
    """The built-in CUDA backend."""
    return (BACKEND,)
