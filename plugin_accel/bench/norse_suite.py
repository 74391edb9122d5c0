"""The workloads of Norse: sequences of every feed-forward neuron, recurrent layers, and cells in a loop.

Norse reads ``x[t]`` in its own loop, whose backward makes a full-size tensor of zeros per step and so costs O(T^2); the
peer "host + unbind" runs Norse's own step functions over ``x.unbind(0)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import norse.torch as nt
import torch
from torch import nn

from plugin_accel.bench.workload import HOST, UNBIND, Mode, Workload

FRAMEWORK = "norse"

_NO_GOALS: Mapping[str, float] = MappingProxyType({})
_UNBIND_GOAL = MappingProxyType({UNBIND: 8.0})
_RECURRENT_GOAL = MappingProxyType({HOST: 2.5})
_CELL_GOAL = MappingProxyType({HOST: 4.0})


@dataclass(frozen=True)
class TimeFirst(Workload):
    """A workload whose data is [time, batch, features]; `features` of the input, `neurons` of the output."""

    features: int = 0

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Workload.data`."""
        batch, steps, neurons = self.shape
        generator = torch.Generator().manual_seed(0)
        mean, deviation = self.drive
        x = torch.randn((steps, batch, self.features or neurons), generator=generator).mul_(deviation).add_(mean)
        gradient = torch.randn((steps, batch, neurons) if self.mode == "train" else (1,), generator=generator)
        return x.requires_grad_(self.mode == "train"), gradient


class _Output(nn.Module):
    """A layer of Norse without its state: every call is a sequence of its own."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def reset_states(self) -> None:
        """There are none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of every step."""
        out: torch.Tensor = self.layer(x)[0]
        return out


class _Loop(_Output):
    """A cell in the user's own loop."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of every step."""
        state, out = None, []
        for x_t in x.unbind(0):
            z, state = self.layer(x_t, state)
            out.append(z)
        return torch.stack(out)


class _Unbind(_Output):
    """Norse's step functions over the steps of the input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of every step."""
        layer, out = self.layer, []
        weights = (layer.input_weights, layer.recurrent_weights) if hasattr(layer, "recurrent_weights") else ()
        state = layer.state_fallback(x if hasattr(layer, "record_states") else x[0])
        for x_t in x.unbind(0):
            z, state = layer.activation(x_t, state, *weights, layer.p, layer.dt)
            out.append(z)
        return torch.stack(out)


def _unbind(layer: Any) -> nn.Module:
    # a cell with a step function of no such signature is in a loop over `unbind` already
    return layer if getattr(layer.layer, "activation", None) is None else _Unbind(layer.layer)


def workloads(quick: bool = False) -> list[Workload]:
    """The workloads, in the order of the tables.

    Args:
        quick: Tiny sizes: whether it runs at all, not how fast.
    """
    shape = (16, 500, 512)
    suite = [_make("lif", "train", shape, goals={HOST: 40.0, UNBIND: 8.0}), _make("lif", "infer", shape)]
    suite += [
        _make(neuron, "train", shape, goals=_UNBIND_GOAL)
        for neuron in ("li", "iaf", "lsnn", "lifex", "lifadex", "izhikevich")
    ]
    suite += [
        _make("lif-recurrent", "train", (16, 100, 256), "recurrent", _RECURRENT_GOAL, features=256, products=True),
        _make("lif-recurrent-512", "train", (128, 250, 512), "recurrent", _RECURRENT_GOAL, features=700, products=True),
        _make("lsnn-recurrent", "train", (16, 100, 256), "recurrent", features=256),
        _make("lifadexrefrac-recurrent", "train", (16, 100, 256), "recurrent", features=256),
    ]
    suite += [
        _make(neuron, "train", (16, 100, 512), "step", _CELL_GOAL)
        for neuron in ("lif-cell", "lifbox-cell", "lsnn-cell", "lifrefrac-cell", "lifadexrefrac-cell")
    ]
    suite += [
        _make(neuron, "train", (16, 100, 256), "step", features=256)
        for neuron in ("lif-recurrent-cell", "lifmc-cell", "lifmcrefrac-cell")
    ]
    return [_shrink(workload) for workload in suite] if quick else suite


def _make(
    neuron: str,
    mode: Mode,
    shape: tuple[int, int, int],
    group: str = "sequence",
    goals: Mapping[str, float] = _NO_GOALS,
    **options: Any,
) -> Workload:
    words, layer, drive = _NEURONS[neuron]
    return TimeFirst(
        name=f"{neuron}-T{shape[1]}-{mode}",
        group=group,
        neuron=words,
        shape=shape,
        mode=mode,
        layer=layer,
        eager=_unbind,
        drive=drive,
        goals=goals,
        **options,
    )


def _shrink(workload: Workload) -> Workload:
    batch, steps, neurons = workload.shape
    sized = isinstance(workload, TimeFirst) and workload.features  # the layer is of this size
    fewer = neurons if sized else min(neurons, 64)
    return replace(workload, shape=(min(batch, 2), min(steps, 5), fewer), goals=_NO_GOALS)


def _sequence(name: str, *args: Any) -> Callable[[], nn.Module]:
    return lambda: _Output(getattr(nt, name)(*args))


def _cell(name: str) -> Callable[[], nn.Module]:
    return lambda: _Loop(getattr(nt, name)())


def _recurrent(
    name: str, features: int = 256, neurons: int = 256, output: type[_Output] = _Output
) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return output(getattr(nt, name)(features, neurons))

    return build


def _mc_refrac() -> nn.Module:  # whose coupling is multiplied with no dt: at Norse's own scale the membranes diverge
    made: Any = _recurrent("LIFMCRefracRecurrentCell", output=_Loop)()
    with torch.no_grad():
        made.layer.g_coupling.mul_(0.001)
    loop: nn.Module = made
    return loop


def _izhikevich() -> nn.Module:
    return _Output(nt.Izhikevich(nt.functional.izhikevich.tonic_spiking))


def _iaf() -> nn.Module:  # with a reset of its own: Norse makes the shared default require a gradient
    return _Output(nt.IAF(nt.IAFParameters(v_reset=torch.zeros(()))))


# Words for tables, the host's layer, mean and standard deviation of the input.
_NEURONS: dict[str, tuple[str, Callable[[], nn.Module], tuple[float, float]]] = {
    "lif": ("LIF", _sequence("LIF"), (0.3, 1.0)),
    "li": ("LI", _sequence("LI"), (0.3, 1.0)),
    "iaf": ("IAF", _iaf, (0.1, 0.3)),
    "lsnn": ("LSNN", _sequence("LSNN"), (0.4, 1.0)),
    "lifex": ("LIFEx", _sequence("LIFEx"), (0.2, 1.0)),
    "lifadex": ("LIFAdEx", _sequence("LIFAdEx"), (0.3, 1.0)),
    "izhikevich": ("Izhikevich, tonic", _izhikevich, (20.0, 40.0)),
    "lif-recurrent": ("LIFRecurrent", _recurrent("LIFRecurrent"), (0.0, 1.0)),
    "lif-recurrent-512": ("LIFRecurrent of 700 inputs", _recurrent("LIFRecurrent", 700, 512), (0.0, 1.0)),
    "lsnn-recurrent": ("LSNNRecurrent", _recurrent("LSNNRecurrent"), (0.0, 1.0)),
    "lifadexrefrac-recurrent": ("LIFAdExRefracRecurrent", _recurrent("LIFAdExRefracRecurrent"), (0.0, 1.0)),
    "lif-recurrent-cell": ("LIFRecurrentCell in a loop", _recurrent("LIFRecurrentCell", output=_Loop), (0.0, 1.0)),
    "lifmc-cell": ("LIFMCRecurrentCell in a loop", _recurrent("LIFMCRecurrentCell", output=_Loop), (0.0, 1.0)),
    "lifmcrefrac-cell": ("LIFMCRefracRecurrentCell in a loop", _mc_refrac, (0.0, 1.0)),
    "lif-cell": ("LIFCell in a loop", _cell("LIFCell"), (0.3, 1.0)),
    "lifbox-cell": ("LIFBoxCell in a loop", _cell("LIFBoxCell"), (1.0, 3.0)),
    "lsnn-cell": ("LSNNCell in a loop", _cell("LSNNCell"), (0.4, 1.0)),
    "lifrefrac-cell": ("LIFRefracCell in a loop", _cell("LIFRefracCell"), (0.5, 1.0)),
    "lifadexrefrac-cell": ("LIFAdExRefracCell in a loop", _cell("LIFAdExRefracCell"), (0.5, 1.0)),
}
