"""Whether the snnTorch at hand computes what the kernels compute: its layers are asked, not its version.

Each class runs a few steps with its own forward and with the accelerated one, once per process, before it is offered.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn

_RESETS = ("subtract", "zero", "none")
# Options that snnTorch's releases might come to treat otherwise; none that draws random numbers.
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "Leaky": [{"beta": 0.8, "reset_delay": delay, "graded_spikes_factor": 2.0} for delay in (True, False)],
    "Lapicque": [{"R": 2.0, "C": 1.5}],
    "Synaptic": [{"alpha": 0.6, "beta": 0.8, "reset_delay": delay} for delay in (True, False)],
    "Alpha": [{"alpha": 0.8, "beta": 0.6}],
    "RLeaky": [{"beta": 0.8, "all_to_all": False, "V": 0.3}],
    "DeltaLeaky": [{"beta": 1.1, "delta_threshold": 0.4, "init_hidden": True}],
    "RSynaptic": [{"alpha": 0.6, "beta": 0.8, "all_to_all": False, "V": 0.3}],
}


@cache
def host_class(name: str) -> Any:
    """A class of snnTorch's; in a release before it, one of which there are no layers."""
    return getattr(snn, name, None) or type(name, (nn.Module,), {})


def _states(layer: Any, x: Tensor) -> list[Tensor]:
    """What a layer gives for some steps, states included, and its buffers after them."""
    found: list[Tensor] = []
    for x_t in x.unbind(0):
        for made in layer(x_t):
            found += made if isinstance(made, tuple) else (made,)  # DeltaLeaky's states are a tuple
    return [*found, *(layer._buffers[name] for name in ("mem", "syn", "spk", "syn_exc") if name in layer._buffers)]


def _build(cls: Any, options: Mapping[str, Any]) -> Any:
    """A layer that the host's registry does not know."""
    layer = cls(**options)
    snn.SpikingNeuron.instances[:] = [known for known in snn.SpikingNeuron.instances if known is not layer]
    return layer


def differs(cls: type[nn.Module], accelerated: type[nn.Module]) -> str | None:
    """What is different in the snnTorch at hand; None if nothing is."""
    x = torch.linspace(-0.5, 2.5, 24, device="cpu").reshape(4, 6).roll(1, 0)
    for options in _OPTIONS.get(cls.__name__, []):
        for reset in _RESETS:
            given = {**options, "reset_mechanism": reset}
            try:
                with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
                    warnings.simplefilter("ignore")
                    plain, fast = _build(cls, given), _build(cls, given)
                    object.__setattr__(fast, "__class__", accelerated)
                    pairs = list(zip(_states(plain, x), _states(fast, x), strict=True))
            except (TypeError, AttributeError, ValueError, RuntimeError) as error:
                return f"this snnTorch's {cls.__name__} cannot be used as 1.0.0's ({type(error).__name__}: {error})"
            if not all(a.dtype is b.dtype and torch.equal(a, b) for a, b in pairs):
                return f"this snnTorch's {cls.__name__} with {given} computes otherwise than 1.0.0's does"
    return None
