"""Surrogates of snnTorch's layers that no kernel knows: the kernels make the states, the callable itself the spikes.

A layer's `spike_grad` says when a neuron fires and what gradient that has. One that fires as the kernels do, at
z = membrane - threshold > 0, is called on the membranes that they found, one step at a time as snnTorch calls it, and
autograd goes through it whatever it does there: clip gradients, learn a slope, draw numbers. Any other decides about
the reset, and with that about the states themselves: such a layer is left to snnTorch's own forward, unless it has no
reset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from snntorch import surrogate
from torch import Tensor

from plugin_accel.hosts.known import Known
from plugin_accel.hosts.sequences import Refused
from plugin_accel.neurons.layout import STEP, steps
from plugin_accel.surrogates import trial

conclusions: list[Known[Any]] = []
"""What follows from the behaviour of callables."""


class Behaviour(NamedTuple):
    """What a callable does with a few values.

    Attributes:
        refusal: Why the kernels cannot make the reset that goes with its spikes; None if they can.
        unknown: Why they cannot even make the membrane of a layer without a reset; None if they can.
        narrow: Its spikes are fp32 for fp64 membranes too, as the kernels' are.
        draws: It takes numbers from torch's generator in backward.
    """

    refusal: str | None
    unknown: str | None = None
    narrow: bool = True
    draws: bool = False


@Known
def behaviour(spike_grad: Callable[..., Any]) -> Behaviour:
    """Looks at what a callable does, leaving torch's generator as it was."""
    before = torch.random.get_rng_state()
    try:
        with trial():
            return _looked_at(spike_grad, before)
    except Exception as error:
        why = f"cannot be tried out ({type(error).__name__}: {error})"
        return Behaviour(why, why)
    finally:
        torch.random.set_rng_state(before)


def _looked_at(spike_grad: Callable[..., Any], before: Tensor) -> Behaviour:
    sizes = torch.cat([torch.logspace(-38, 6, 397), torch.linspace(0, 4, 401)])
    values = torch.cat([sizes, -sizes]).to("cpu", torch.float32).reshape(2, -1)
    try:
        narrow = spike_grad(values.double().requires_grad_()).dtype is torch.float32
    except Exception:
        narrow = False
    z = values.requires_grad_()
    spikes = spike_grad(z)
    if not torch.equal(torch.random.get_rng_state(), before):
        why = "draws random numbers in forward, which snnTorch has it do for the reset too"
        return Behaviour(why, why)
    fires = spikes.dtype is torch.float32 and torch.equal(spikes, (z > 0).float())
    if spikes.requires_grad:
        torch.autograd.grad(spikes.sum(), z, allow_unused=True)
    draws = not torch.equal(torch.random.get_rng_state(), before)
    refusal = None if fires else "does not give 1 where membrane > threshold, and 0 elsewhere"
    return Behaviour(refusal, None, narrow, draws)


def spikes_by(
    spike_grad: Callable[..., Any],
    membranes: Tensor,
    threshold: Tensor,
    graded: Tensor,
    fired: Tensor | None,
    time_dim: int,
) -> Tensor:
    """The spikes that the callable gives, differentiably, and with them the gradients of threshold and factor.

    Args:
        spike_grad: The callable, one of no `refusal`.
        membranes: Of the step, or of every step.
        threshold: As the layer holds it.
        graded: The factor of the spikes, as the layer holds it.
        fired: What the kernels made of the same membranes, times `graded`; None where no reset depends on it.
        time_dim: Position of time.

    Raises:
        Refused: the callable fires otherwise, so that the kernels' reset was not that of snnTorch. Looked at on the
            CPU alone: elsewhere the answer would have to be waited for.
    """
    called = [spike_grad(z) for z in steps(membranes - threshold, time_dim)]
    spikes: Tensor = called[0] if time_dim == STEP else torch.stack(called, time_dim)
    if torch.compiler.is_compiling() or not _is_one(graded):
        spikes = spikes * graded
    if fired is None or torch.compiler.is_compiling() or not fired.is_cpu:
        return spikes
    if getattr(spike_grad, "__module__", None) == surrogate.__name__:
        return spikes
    if spikes.dtype is not fired.dtype or not torch.equal(spikes, fired):
        deviates(spike_grad)
        raise Refused("spike_grad did not fire at membrane > threshold")
    return spikes


def _is_one(p: Tensor) -> bool:
    return p.is_cpu and p.dim() == 0 and not p.requires_grad and p.dtype is torch.float32 and p.item() == 1


def deviates(spike_grad: Callable[..., Any]) -> None:
    """Remembers that a callable is not to be combined with the kernels."""
    behaviour.put(spike_grad, behaviour(spike_grad)._replace(refusal="did not fire at membrane > threshold"))
    for conclusion in conclusions:
        conclusion.forget(spike_grad)
