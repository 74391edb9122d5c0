"""sinabs's neurons in eager torch, as one would write them with care: the peer called "host + unbind".

The same operations in the same order as sinabs 3.1.3, so that spikes, states and gradients agree bit for bit, but the
time loop runs over ``x.unbind(1)``. sinabs reads ``x[:, t]``, whose backward makes a full-size tensor of zeros per step
and so costs O(T^2). Besides, what does not change with time is computed once, and no state dict is copied per step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class _Spike(torch.autograd.Function):
    """``counts(v, threshold)`` forward, the host's surrogate backward; unlike the host's, it saves no copy of ``v``."""

    @staticmethod
    def forward(ctx: Any, v_mem: torch.Tensor, threshold: torch.Tensor, surrogate: Any, multi: bool) -> torch.Tensor:
        ctx.save_for_backward(v_mem, threshold)
        ctx.surrogate = surrogate
        if multi:
            return (v_mem > 0) * torch.div(v_mem, threshold, rounding_mode="trunc")
        return (v_mem - threshold >= 0).float()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        v_mem, threshold = ctx.saved_tensors
        return upstream * ctx.surrogate(v_mem, threshold), None, None, None


_spike: Callable[..., torch.Tensor] = _Spike.apply


class _Eager(nn.Module):
    """Keeps the host's layer for its parameters, and its own states between calls."""

    states = 1

    def __init__(self, host: Any) -> None:
        super().__init__()
        self.host = host
        self.state: tuple[torch.Tensor, ...] = ()

    def reset_states(self) -> None:
        """Forget the states."""
        self.state = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the sequence ``(batch, time, ...)`` from the states of the last call."""
        outputs: list[torch.Tensor] = []
        state = self.state or (torch.zeros_like(x[:, 0].detach()),) * self.states
        self.state = self._loop(x, state, outputs)
        return torch.stack(outputs, 1)

    def _loop(
        self, x: torch.Tensor, state: tuple[torch.Tensor, ...], outputs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        raise NotImplementedError


class LIF(_Eager):
    """``LIF`` with the default spikes, reset and surrogate, with or without ``tau_syn``."""

    states = 2

    def _loop(
        self, x: torch.Tensor, state: tuple[torch.Tensor, ...], outputs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        host = self.host
        decay, synapse, threshold = host.alpha_mem_calculated, host.alpha_syn_calculated, host.spike_threshold
        v_mem, i_syn = state
        gain = 1 - decay if host.norm_input else None
        if gain is not None and synapse is None:
            x = gain * x
        for x_t in x.unbind(1):
            current = x_t
            if synapse is not None:
                i_syn = synapse * (i_syn + x_t)
                current = i_syn if gain is None else gain * i_syn
            v_mem = decay * v_mem + current
            spikes = _spike(v_mem, threshold, host.surrogate_grad_fn, True)
            v_mem = v_mem - spikes * threshold
            outputs.append(spikes)
        return v_mem, i_syn


class IAF(_Eager):
    """``IAF`` without ``tau_syn``: no leak, so the multiplication by one is left out; it changes no bit."""

    def _loop(
        self, x: torch.Tensor, state: tuple[torch.Tensor, ...], outputs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        host = self.host
        (v_mem,) = state
        for x_t in x.unbind(1):
            v_mem = v_mem + x_t
            spikes = _spike(v_mem, host.spike_threshold, host.surrogate_grad_fn, True)
            v_mem = v_mem - spikes * host.spike_threshold
            outputs.append(spikes)
        return (v_mem,)


class ExpLeak(_Eager):
    """``ExpLeak``: the membrane is the output."""

    def _loop(
        self, x: torch.Tensor, state: tuple[torch.Tensor, ...], outputs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        decay = self.host.alpha_mem_calculated
        (v_mem,) = state
        for current in ((1 - decay) * x if self.host.norm_input else x).unbind(1):
            v_mem = decay * v_mem + current
            outputs.append(v_mem)
        return (v_mem,)


class ALIF(_Eager):
    """``ALIF`` without ``tau_syn``, with the default spikes, reset and surrogate."""

    states = 2

    def _loop(
        self, x: torch.Tensor, state: tuple[torch.Tensor, ...], outputs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        host = self.host
        decay, adapt = host.alpha_mem_calculated, host.alpha_adapt_calculated
        rise = 1 - adapt
        v_mem, raised = state
        for current in ((1 - decay) * x if host.norm_input else x).unbind(1):
            v_mem = decay * v_mem + current
            threshold = host.b0 + host.adapt_scale * raised
            spikes = _spike(v_mem, threshold, host.surrogate_grad_fn, False)
            v_mem = v_mem - spikes * threshold
            raised = adapt * raised + rise * spikes
            outputs.append(spikes)
        return v_mem, raised


class LIFRecurrent(_Eager):
    """``LIFRecurrent`` without ``tau_syn``, with the default spikes, reset and surrogate."""

    def _loop(
        self, x: torch.Tensor, state: tuple[torch.Tensor, ...], outputs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        host = self.host
        decay, threshold = host.alpha_mem_calculated, host.spike_threshold
        gain = 1 - decay
        (v_mem,), heard = state, torch.zeros_like(state[0])
        for x_t in x.unbind(1):
            v_mem = decay * v_mem + gain * (x_t + heard)
            spikes = _spike(v_mem, threshold, host.surrogate_grad_fn, True)
            v_mem = v_mem - spikes * threshold
            heard = host.rec_connect(spikes)
            outputs.append(spikes)
        return (v_mem,)
