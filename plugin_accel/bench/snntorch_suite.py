"""The workloads of snnTorch: a user's loop over single steps, and the same steps as one sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn

from plugin_accel import plugins
from plugin_accel.bench.workload import HOST, Mode, Workload

FRAMEWORK = "snntorch"

_NO_GOALS: Mapping[str, float] = MappingProxyType({})


class Loop(nn.Module):
    """A layer called once per step of [T, B, N] by the loop that users write, with its own states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of all steps."""
        return torch.stack([self.layer(x_t)[0] for x_t in x.unbind(0)])

    def reset_states(self) -> None:
        """States to zero, cut from the graph."""
        self.layer.reset_mem()  # type: ignore[operator]


class Whole(Loop):
    """The same, as one sequence where the layer is converted."""

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of all steps."""
        host: Any = plugins.hosts()["snntorch"]
        run = host.sequence(self.layer)
        if run is None:
            return super().forward(x)
        states = sum(hasattr(self.layer, name) for name in ("mem", "syn", "syn_exc", "syn_inh"))
        given = states + hasattr(self.layer, "spk")
        spikes: Tensor = run(self.layer, x, (None,) * given, record=(False,) * states).outputs[0]
        return spikes


class Eager(nn.Module):
    """The same mathematics in torch with nothing twice: the reset signal is the last spike."""

    def __init__(self, loop: nn.Module) -> None:
        super().__init__()
        self.layer = loop.layer
        self.states: list[Tensor] | None = None

    def reset_states(self) -> None:
        """States to zero, cut from the graph."""
        self.states = None

    def step(self, x: Tensor, spk: Tensor, states: list[Tensor]) -> list[Tensor]:
        """The states after a step; the membrane is the first."""
        layer: Any = self.layer
        mem, r = states[0], spk.detach()
        if isinstance(layer, snn.Alpha):
            _, exc, inh = states
            a, b = layer.alpha.clamp(0, 1), layer.beta.clamp(0, 1)
            tau = torch.log(a) / (torch.log(b) - torch.log(a)) + 1
            exc, inh = a * exc + x, b * inh - x
            mem = tau * (exc + inh)
            return [s - s * r for s in (mem, exc, inh)]
        beta = layer.beta.clamp(0, 1)
        if isinstance(layer, snn.Synaptic):
            syn = layer.alpha.clamp(0, 1) * states[1] + x
            return [beta * mem + syn - r * layer.threshold, syn]
        drive = beta * mem + x
        if isinstance(layer, snn.RLeaky):
            drive = drive + layer.recurrent(spk)
        return [drive - r * layer.threshold]

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of all steps."""
        layer: Any = self.layer
        zero = torch.zeros_like(x[0])
        *states, spk = self.states or [zero] * 4
        out = []
        for x_t in x.unbind(0):
            states = self.step(x_t, spk, states)
            spk = layer.spike_grad(states[0] - layer.threshold)
            out.append(spk)
        self.states = [*states, *[zero] * (3 - len(states)), spk]
        return torch.stack(out)


def workloads(quick: bool = False) -> list[Workload]:
    """The workloads, in the order of the tables.

    Args:
        quick: Tiny sizes: whether it runs at all, not how fast.
    """
    shape = (16, 100, 512)
    suite = [_make(name, "train", shape, Loop, goals={HOST: 4.0}) for name in ("leaky", "synaptic", "alpha", "rleaky")]
    suite += [_make("leaky", "infer", shape, Loop)]
    suite += [_make("leaky", "train", shape, Whole, goals={HOST: 20.0})]
    suite += [_make(name, "train", shape, Whole) for name in ("synaptic", "alpha")]
    suite += [_make("leaky", "infer", shape, Whole)]
    suite += [_make("rleaky-linear", "train", (16, 100, 256), Whole, goals={HOST: 2.5}, products=True)]
    return [replace(w, shape=_few(w.shape), goals=_NO_GOALS) for w in suite] if quick else suite


def _few(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return (2, 5, 64 if shape[2] > 256 else shape[2])  # the width of a matrix is its layer's


def _make(
    name: str,
    mode: Mode,
    shape: tuple[int, int, int],
    kind: type[Loop],
    goals: Mapping[str, float] = _NO_GOALS,
    **options: Any,
) -> Workload:
    words, layer, drive = _NEURONS[name]
    by_step = kind is Loop
    return Workload(
        name=f"{name}-{'step' if by_step else 'sequence'}-{mode}",
        group="step" if by_step else "sequence",
        neuron=f"{words}, {'step by step' if by_step else 'as a sequence'}",
        shape=shape,
        mode=mode,
        layer=lambda: kind(layer()),
        eager=Eager,
        drive=drive,
        goals=goals,
        time_first=True,
        **options,
    )


def _linear() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer: nn.Module = snn.RLeaky(beta=0.9, linear_features=256)
        return layer


# Words for tables, the host's layer, mean and standard deviation of the input.
_NEURONS: dict[str, tuple[str, Callable[[], nn.Module], tuple[float, float]]] = {
    "leaky": ("Leaky", lambda: snn.Leaky(beta=0.9), (0.1, 0.3)),
    "synaptic": ("Synaptic", lambda: snn.Synaptic(alpha=0.8, beta=0.9), (0.02, 0.1)),
    "alpha": ("Alpha", lambda: snn.Alpha(alpha=0.9, beta=0.8), (0.5, 0.5)),
    "rleaky-linear": ("RLeaky, linear", _linear, (0.0, 0.5)),
    "rleaky": ("RLeaky", lambda: snn.RLeaky(beta=0.9, all_to_all=False, V=0.2), (0.1, 0.3)),
}
