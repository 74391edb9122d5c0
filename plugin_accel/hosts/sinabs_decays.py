"""The decays of a sinabs layer, alpha = exp(-1 / tau): sinabs's values by its own operations, without a graph of them.

The few operations between a time constant and its decay cost more in torch's autograd than a short sequence costs in
the kernels. So the kernels' autograd function takes the time constants too, and finishes their gradients itself:
d alpha / d tau = alpha / tau^2. Whatever is not plain (a decay that is a parameter, a user's own property, a compiled
program) keeps torch's graph.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import sinabs.layers as sl
import torch
from torch import Tensor, nn

from plugin_accel.hosts.constants import constant
from plugin_accel.modes import is_traced

_PLAIN = (Tensor, nn.Parameter)


class Kind(NamedTuple):
    """One of the decays that a layer may have."""

    tau: str
    alpha: str
    properties: tuple[object, ...]
    """sinabs's own ways from `tau` to `alpha`."""

    @classmethod
    def of(cls, name: str) -> Kind:
        """The decay of `tau_{name}`."""
        alpha = f"alpha_{name}_calculated"
        return cls(f"tau_{name}", alpha, tuple(getattr(host, alpha, None) for host in (sl.LIF, sl.ALIF)))


MEM, SYN, ADAPT = Kind.of("mem"), Kind.of("syn"), Kind.of("adapt")


_NO_DECAY = tuple([host.alpha_mem_calculated for host in (sl.IAF, sl.IAFRecurrent)])
_ONE, _ZERO = torch.ones((), device="cpu"), torch.zeros((), device="cpu")


class Decay(NamedTuple):
    """A decay as the kernels take it; `tau` and `slope` only where a gradient is wanted that torch's graph lacks."""

    alpha: Tensor
    rest: Tensor | None
    """1 - alpha, where it is asked for."""
    tau: Tensor | None = None
    slope: Tensor | None = None
    """d alpha / d tau"""


def parameter(layer: Any, name: str) -> Any:
    """`getattr` that finds a plain parameter without nn.Module's detours."""
    p = layer._parameters.get(name)
    return getattr(layer, name) if p is None else p


@torch.no_grad()
def _computed(tau: Tensor, rest: bool = True, slope: bool = True) -> tuple[Tensor, Tensor | None, Tensor | None]:
    # -1.0 / tau, for which torch takes two operations: 1 / tau, and that times -1, which rounds nothing
    alpha = torch.exp(torch.div(constant(-1.0, tau.dtype, tau.device), tau))
    return alpha, 1 - alpha if rest else None, alpha / (tau * tau) if slope else None


@lru_cache(maxsize=256)
def _of_number(tau: float, dtype: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor | None]:
    with torch.inference_mode(False):  # what is kept here must do for training too
        return _computed(torch.tensor(tau, dtype=dtype, device="cpu"))


def never_decays(layer: Any) -> bool:
    """Whether the membrane of such a layer keeps what it has."""
    if torch.compiler.is_compiling():  # where properties do not compare
        return isinstance(layer, (sl.IAF, sl.IAFRecurrent))
    return getattr(type(layer), MEM.alpha) in _NO_DECAY


def values(tau: Tensor, rest: bool) -> tuple[Tensor, Tensor | None]:
    """(alpha, and 1 - alpha if it is asked for) of a time constant of one value, without a graph."""
    if tau.is_cpu:
        value = tau.item()
        alpha, one_minus, _ = _of_number(value, tau.dtype) if value else _of_number.__wrapped__(value, tau.dtype)
        return alpha, one_minus if rest else None
    tau = tau.detach()
    alpha = torch.exp(torch.div(constant(-1.0, tau.dtype, tau.device), tau))
    return alpha, 1 - alpha if rest else None


def slope(alpha: Tensor, tau: Tensor) -> Tensor:
    """The derivative d alpha / d tau."""
    if tau.is_cpu and (value := tau.item()):
        found = _of_number(value, tau.dtype)[2]
        assert found is not None
        return found
    tau = tau.detach()
    return alpha / (tau * tau)


def decay(layer: Any, kind: Kind, *, rest: bool, in_torch: bool = False) -> Decay | None:
    """A decay of a layer as it is now; None without that synapse.

    Args:
        layer: A sinabs layer.
        kind: Which one.
        rest: Whether 1 - alpha is needed too.
        in_torch: Leave the gradient of the time constant to torch's graph.
    """
    parameters = layer._parameters
    if kind is MEM and never_decays(layer) and not is_traced():
        return Decay(_ONE, _ZERO if rest else None)
    own = (
        kind.tau in parameters
        and not layer.train_alphas
        and getattr(type(layer), kind.alpha) in kind.properties
        and not is_traced()
    )
    tau = parameters[kind.tau] if own else None
    if own and tau is None and kind is SYN:
        return None
    if tau is None or in_torch or type(tau) not in _PLAIN:
        alpha = getattr(layer, kind.alpha)
        return None if alpha is None else Decay(alpha, 1 - alpha if rest else None)
    learns = tau.requires_grad and torch.is_grad_enabled()
    if tau.dim() or not tau.is_cpu:
        found = _computed(tau, rest, learns)
    else:
        value = tau.item()
        # 0.0 == -0.0, which have other decays
        found = _of_number(value, tau.dtype) if value else _of_number.__wrapped__(value, tau.dtype)
    alpha, one_minus, slope = found
    if learns:
        return Decay(alpha, one_minus if rest else None, tau, slope)
    return Decay(alpha, one_minus if rest else None)
