"""The `cuda` backend: the step headers compiled for the GPU at hand, launched on torch's current stream.

Every allocation is torch's own, on the current stream, and what is not handed back is used on no other: nothing has to
be recorded for the allocator. Nothing waits for the GPU, so that a call can be captured in a CUDA graph, once a call
before has compiled its kernels. What shapes, strides and dtypes decide is decided once, in a plan: a call with tensors
like those of an earlier one fills in addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel.backends import cuda_call as cc
from plugin_accel.backends import cuda_check, cuda_step
from plugin_accel.backends.cuda_backward import BackwardPlan, shape_of
from plugin_accel.backends.cuda_device import Device, Gpu
from plugin_accel.backends.cuda_forward import ForwardPlan
from plugin_accel.backends.cuda_run import Runner
from plugin_accel.backends.cuda_source import Reduce
from plugin_accel.errors import BackendError
from plugin_accel.hookspecs import hookimpl
from plugin_accel.neurons import Config, Gradients, Incoming, Neuron, Result, Saved, Wanted
from plugin_accel.neurons.prepared import PreparedStep
from plugin_accel.neurons.prepared_sequence import Derivations, PreparedSequence

NEURONS = frozenset(
    {"sinabs_lif", "sinabs_alif"}
    | {"snntorch_leaky", "snntorch_lapicque", "snntorch_synaptic", "snntorch_alpha"}
    | {"snntorch_parallel", "snntorch_delta"}
    | {"norse_lif", "norse_box", "norse_adex", "norse_lsnn", "norse_izhikevich", "norse_refrac"}
    | {"norse_adex_refrac", "norse_mc_refrac", "norse_coba"}
)
"""Those in csrc/cuda/steps.h."""

LAYERS = frozenset({"egru"})
"""Those whose kernels stand elsewhere: csrc/cuda/egru.h."""

_MOST_PLANS = 512


class CudaBackend:
    """Kernels compiled by NVRTC for the GPU at hand; deterministic, on torch's current stream."""

    name = "cuda"
    saves_input = False
    reads_low = True
    """An input of 16 bits is read as it is; its gradient has its dtype where backward reads the input too."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.runner = Runner(device)
        self._failures: dict[int, str | None] = {}
        self._forward: dict[Any, ForwardPlan] = {}
        self._backward: dict[Any, BackwardPlan] = {}
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
        if neuron not in NEURONS | LAYERS:
            return f"{neuron} has no CUDA kernels"
        index = self.runner.index(device)
        if index in self._failures:
            return self._failures[index]
        try:
            why = self._device.refuses(device)
            if why is None:
                self.runner.kernel(Reduce(None, "rows", torch.float32), index)
                if not self._device.holds_data(device):
                    return None  # tried when something can be compared
                why = cuda_check.check(self, device)
        except BackendError as error:
            why = str(error)
        self._failures[index] = why
        return why

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
        key = (
            neuron,
            config,
            x.shape,
            x.get_device(),
            cc.signature(x),
            tuple([cc.signature(s) for s in first]),
            cc.shapes(params),
            keep,
            record,
        )
        plan = self._forward.get(key)
        if plan is None:
            plan = ForwardPlan(self.runner, neuron, config, x, first, params, keep, record)
            _remember(self._forward, key, plan)
        return plan.run(x, first, params)

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
        key = (neuron, config, wanted, shape_of(saved, grads, dspike_dv))
        plan = self._backward.get(key)
        if plan is None:
            plan = BackwardPlan(self.runner, neuron, config, saved, grads, wanted, dspike_dv)
            _remember(self._backward, key, plan)
        return plan.run(saved, grads, dspike_dv)

    def drops_kept(self, config: Config, x: Tensor, reads_input: bool) -> bool:
        """See `Kernels`: the input is kept instead where backward reads it anyway, or where it takes less memory."""
        return cuda_step.drops_kept(config, x, reads_input)

    def prepare(self, neuron: Neuron, config: Config, x: Tensor, params: Sequence[Tensor]) -> PreparedStep | None:
        """A single step to be called again and again; see `neurons.prepared`."""
        return cuda_step.prepare(self, self.runner, neuron, config, x, params)

    def prepare_sequence(
        self, neuron: Neuron, config: Config, x: Tensor, params: Sequence[Tensor], derivations: Derivations | None
    ) -> PreparedSequence | None:
        """A sequence to be called again and again; see `neurons.prepared_sequence`."""
        return cuda_step.prepare_sequence(self, self.runner, neuron, config, x, params, derivations)


def _remember(plans: dict[Any, Any], key: object, plan: object) -> None:
    """Keeps a plan; all are dropped when there are too many, as where every input has another length."""
    if len(plans) >= _MOST_PLANS:
        plans.clear()
    plans[key] = plan


BACKEND = CudaBackend(Gpu())


@hookimpl
def plugin_accel_backends() -> Iterable[CudaBackend]:
    """The built-in CUDA backend."""
    return (BACKEND,)
