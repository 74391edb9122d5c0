"""Accelerated snnTorch layers that are given a whole sequence, or hold an LSTM; see `plugin_accel.hosts.snntorch`.

LeakyParallel and StateLeaky compute by matrix products, convolutions and `exp` what the kernels compute step by step:
their membranes agree to rounding, not bit for bit.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import snntorch as snn
import torch
from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack

from plugin_accel import backends
from plugin_accel.hosts import snntorch_options as so
from plugin_accel.hosts.constants import one
from plugin_accel.hosts.fallbacks import refused
from plugin_accel.hosts.inputs import check_input
from plugin_accel.hosts.sequences import Refused
from plugin_accel.hosts.snntorch_call import FP32, as_param
from plugin_accel.hosts.snntorch_probe import host_class
from plugin_accel.modes import capturing
from plugin_accel.neurons import (
    SINABS_LIF,
    SNNTORCH_LEAKY,
    SNNTORCH_PARALLEL,
    Neuron,
    Result,
    SinabsConfig,
    run_unchecked,
)

_MEMBRANE = SinabsConfig(spike="none", time_dim=0)

_StateLeaky: Any = host_class("StateLeaky")
_LinearLeaky: Any = host_class("LinearLeaky")


def _options(layer: Any) -> so.Options:
    return so.without_reset(layer.spike_grad, bool(getattr(layer, "state_quant", False)))


def _check(layer: Any, x: Tensor) -> so.Options:
    options = _options(layer)
    if options.reasons:
        raise Refused("; ".join(options.reasons))
    if torch.compiler.is_compiling() or _len_torch_dispatch_stack():
        raise Refused("torch.compile or a dispatch mode is at work")
    check_input(x)
    if x.dim() != 3 or not x.shape[0]:
        raise Refused(f"input has shape {tuple(x.shape)}, not time, batch, features")
    return options


def _waits(x: Tensor) -> None:
    """Before weights are looked at, which waits for a GPU: a graph that is captured there would be lost.

    What was found cannot be kept: a write through `.data` or by the replay of a graph is not counted by torch. Nor can
    the answer come later, since a full matrix needs another computation.
    """
    if capturing(x.device):
        raise Refused("a CUDA graph is captured, in which the layer's weights cannot be looked at")


def _run(layer: Any, neuron: Neuron, x: Tensor, options: so.Options, values: dict[str, Any]) -> Result:
    """A layer without states of its own over [T, B, N], from zeros."""
    if x.dtype is not FP32:
        raise Refused(f"input is {x.dtype}")
    params = [as_param(name, p, x, FP32, x.shape[1:]) for name, p in values.items()]
    config = so.config(options, False, False, 0)
    first = [torch.zeros(x.shape[1:], dtype=FP32, device=x.device)]
    backend = backends.choose(x.device, FP32, neuron.name)
    if backend is None:
        raise Refused(f"no backend for {FP32} on {x.device}")
    result = run_unchecked(neuron, backend, config, x, first, params, keep=True)
    if options.called:
        assert result.kept is not None
        *_, threshold, graded = params
        z = layer.spike_grad(result.kept - threshold)  # of all steps at once, as here snnTorch itself
        return result._replace(out=z * graded)
    if not options.spikes_learn and not params[-1].requires_grad:
        return result._replace(out=result.out.detach())
    return result


def _leaky_membrane(x: Tensor, decay: Tensor) -> Tensor:
    """mem[t] = decay mem[t - 1] + x[t], for any decay: to look at it would be to wait for a GPU.

    The kernel is that of sinabs's leaky integrator: snnTorch's bounds its decay, and StateLeaky does not. snnTorch's
    own way to spikes follows.
    """
    if x.dtype is not FP32:
        raise Refused(f"input is {x.dtype}")
    params = [as_param("tau", decay, x, FP32, x.shape[1:]), one(FP32, x.device)]
    first = [torch.zeros(x.shape[1:], dtype=FP32, device=x.device)]
    backend = backends.choose(x.device, FP32, SINABS_LIF.name)
    if backend is None:
        raise Refused(f"no backend for {FP32} on {x.device}")
    return run_unchecked(SINABS_LIF, backend, _MEMBRANE, x, first, params).out


def _state_leaky(layer: Any, x: Tensor) -> Any:
    """StateLeaky: a causal convolution with exp(-t / tau), which is a decay by exp(-1 / tau) at each step."""
    options = _check(layer, x)
    if layer.kernel_truncation_steps is not None and layer.kernel_truncation_steps < x.shape[0]:
        raise Refused("the kernel is truncated")
    decay = torch.exp(-1 / layer.tau)
    factor = layer.graded_spikes_factor
    if not x.is_cpu:
        mem = _leaky_membrane(x, decay + 0 / layer.tau)  # the kernel of snnTorch's convolution is NaN for a tau of 0
        if layer.output:
            layer.spk = layer.fire(mem) * factor
        return (layer.spk, mem) if layer.output else mem
    if not bool(((decay >= 0) & (decay <= 1)).all()):
        raise Refused("tau is not positive")
    result = _run(
        layer, SNNTORCH_LEAKY, x, options,
        {"tau": decay, "threshold": layer.threshold, "graded_spikes_factor": factor * factor},
    )  # fmt: skip
    if not layer.output:
        return result.kept
    layer.spk = result.out
    return layer.spk, result.kept


class StateLeaky(_StateLeaky):
    __doc__ = _StateLeaky.__doc__

    def forward(self, input_: Tensor) -> Any:
        try:
            return _state_leaky(self, input_)
        except Refused as why:
            refused(self, why)
            return super().forward(input_)


class LinearLeaky(_LinearLeaky):
    __doc__ = _LinearLeaky.__doc__

    def forward(self, input_: Tensor) -> Any:
        try:
            _check(self, input_)
            made = _state_leaky(self, self.linear(input_))
        except Refused as why:
            refused(self, why)
            return super().forward(input_)
        self.mem = made[1] if self.output else made
        return made


def _own_rnn(rnn: Any) -> str | None:
    """Why an RNN is not the one that LeakyParallel makes; None if it is."""
    if type(rnn) is not nn.RNN or rnn.num_layers != 1 or rnn.bidirectional or rnn.batch_first:
        return "rnn is not the one that snnTorch makes"
    return None if rnn.mode == "RNN_RELU" else "rnn is not the one that snnTorch makes"


class LeakyParallel(snn.LeakyParallel):
    __doc__ = snn.LeakyParallel.__doc__

    def forward(self, input_: Tensor) -> Any:
        try:
            options, rnn = _check(self, input_), self.rnn
            if foreign := _own_rnn(rnn):
                raise Refused(foreign)
            _waits(input_)
            weight = rnn.weight_hh_l0
            diagonal = weight.diagonal()
            # Exact: a matrix with anything off its diagonal has more entries than that which are not zero.
            if int(torch.count_nonzero(weight)) != int(torch.count_nonzero(diagonal)):
                raise Refused("the recurrent matrix is not diagonal")
            bias = rnn.bias_hh_l0 if rnn.bias else torch.zeros((), device=input_.device)
            x = nn.functional.linear(input_, rnn.weight_ih_l0, rnn.bias_ih_l0 if rnn.bias else None)
            values = {
                "weight_hh_l0": diagonal.contiguous(),
                "bias_hh_l0": bias,
                "threshold": self.threshold,
                "graded_spikes_factor": self.graded_spikes_factor,
            }
            return _run(self, SNNTORCH_PARALLEL, x, options, values).out
        except Refused as why:
            refused(self, why)
            return super().forward(input_)


_membranes: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()


class _CellOnce(nn.Module):
    """Of an LSTM whose reset to zero would run its cell a second time for the membrane that it has."""

    def _base_state_function(self, input_: Tensor) -> Any:
        syn, mem = super()._base_state_function(input_)  # type: ignore[misc]
        layer: Any = self
        if not torch.compiler.is_compiling() and layer.state_function.__name__ == "_base_zero":
            _membranes[self] = mem
        return syn, mem

    def _base_state_reset_zero(self, input_: Tensor) -> Any:
        mem = None if torch.compiler.is_compiling() else _membranes.pop(self, None)
        return super()._base_state_reset_zero(input_) if mem is None else (0, mem.clone())  # type: ignore[misc]


class SLSTM(_CellOnce, snn.SLSTM):
    __doc__ = snn.SLSTM.__doc__


class SConv2dLSTM(_CellOnce, snn.SConv2dLSTM):
    __doc__ = snn.SConv2dLSTM.__doc__


NEURONS: dict[type[nn.Module], Neuron] = {
    StateLeaky: SNNTORCH_LEAKY,
    LinearLeaky: SNNTORCH_LEAKY,
    LeakyParallel: SNNTORCH_PARALLEL,
}
"""The classes of this file, and what backends run for them."""


def reasons(module: nn.Module) -> tuple[str, ...]:
    """Why a layer of this file, converted, runs snnTorch's own forward as it is configured now."""
    layer: Any = module
    if isinstance(module, (snn.SLSTM, snn.SConv2dLSTM)):
        if layer.state_function.__name__ == "_base_zero":
            return ()
        # measured, training: SLSTM 61 % at 128 units and 83 % at 512, SConv2dLSTM 67 % (B=8, 8 channels of 16 x 16)
        return ("60 to 85 % of its time is torch's own LSTM cell; reset_mechanism='zero' alone runs that twice",)
    found = _options(layer).reasons
    rnn = getattr(layer, "rnn", None)
    if rnn is not None and (why := _own_rnn(rnn)):
        found += (why,)
    return found
