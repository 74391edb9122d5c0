"""What is measured: a workload, and the competitors that run it on the same input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import torch
from torch import nn

import plugin_accel
from plugin_accel import _C

HOST, UNBIND, REFERENCE, CPU = "host", "host + unbind", "reference", "cpu"
PEERS = (HOST, UNBIND, REFERENCE, CPU)
Mode = Literal["train", "infer"]


@dataclass(frozen=True)
class Workload:
    """One layer on one input.

    Attributes:
        name: What ``--only`` selects, such as ``"lif-T100-train"``.
        group: The table and the part of the figure it belongs to.
        neuron: The host's class and options, in words.
        shape: Batch, time steps, neurons.
        mode: ``"train"``: forward and backward, the input requires its gradient. ``"infer"``: under ``no_grad``.
        layer: Builds the host's layer.
        eager: Builds the same mathematics in eager torch, with a time loop over ``unbind``, from a host layer.
        drive: Mean and standard deviation of the normal input.
        streaming: The state is kept over the calls instead of being reset before each.
        bytes_per_element: Unavoidable memory traffic per neuron step, where the workload is bound by memory.
        bandwidth_goal: The fraction of the copy bandwidth the project aims at.
        goals: The speed-up over a competitor the project set itself.
        probe_memory: Measure the peak memory, each competitor in a fresh process.
        probe_call: Measure the whole call against its kernels, in a fresh process.
        products: Also measure with products that are dense whatever the number of spikes.
        time_first: The data is [time, batch, neurons].
        call_goals: The most the project allows itself: ``"ratio"`` of the whole call to its kernels, ``"overhead_s"``.
    """

    name: str
    group: str
    neuron: str
    shape: tuple[int, int, int]
    mode: Mode
    layer: Callable[[], nn.Module]
    eager: Callable[[nn.Module], nn.Module]
    drive: tuple[float, float]
    streaming: bool = False
    bytes_per_element: int | None = None
    bandwidth_goal: float | None = None
    goals: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    probe_memory: bool = False
    probe_call: bool = False
    products: bool = False
    time_first: bool = False
    call_goals: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def title(self) -> str:
        """One line for tables: neuron, mode and size."""
        batch, steps, neurons = self.shape
        what = "forward + backward" if self.mode == "train" else "inference"
        return f"{self.neuron}, {what}, T={steps}, B={batch}, N={neurons}"

    @property
    def elements(self) -> int:
        """Neuron steps of one call."""
        batch, steps, neurons = self.shape
        return batch * steps * neurons

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and upstream gradient, the same in every process; the gradient is dense and random."""
        generator = torch.Generator().manual_seed(0)
        mean, deviation = self.drive
        batch, steps, neurons = self.shape
        shape = (steps, batch, neurons) if self.time_first else self.shape
        x = torch.randn(shape, generator=generator).mul_(deviation).add_(mean)
        gradient = torch.randn(shape if self.mode == "train" else (1,), generator=generator)
        return x.requires_grad_(self.mode == "train"), gradient


@dataclass(frozen=True)
class Peer:
    """A competitor: a layer, and the context its calls need."""

    name: str
    layer: nn.Module
    mode: Mode
    streaming: bool
    x: torch.Tensor
    upstream: torch.Tensor
    context: Callable[[], AbstractContextManager[object]]

    def prepare(self) -> None:
        """Start from no state and no gradients; outside of the timed region, for every competitor alike."""
        if not self.streaming:
            self.reset()
        self.x.grad = None
        for parameter in self.layer.parameters():
            parameter.grad = None

    def reset(self) -> None:
        """Set the states to zero and cut them from the last graph, as sinabs does."""
        self.layer.reset_states()  # type: ignore[operator]

    def run(self) -> None:
        """The timed call: a fresh graph each time, given back at the end."""
        if self.mode == "train":
            self.layer(self.x).backward(self.upstream)
        else:
            with torch.no_grad():
                self.layer(self.x)


def peers(workload: Workload, names: tuple[str, ...] = PEERS) -> Iterator[Peer]:
    """Build the competitors of a workload; all share one input tensor and one upstream gradient."""
    x, upstream = workload.data()
    for name in names:
        layer = workload.layer()
        context: Callable[[], AbstractContextManager[object]] = nullcontext
        if name == UNBIND:
            layer = workload.eager(layer)
        elif name != HOST:
            layer = plugin_accel.convert(layer, strict=True)
            context = _backend(name)
        yield Peer(name, layer, workload.mode, workload.streaming, x, upstream, context)


@contextmanager
def dense_products() -> Iterator[None]:
    """The `cpu` backend, with recurrent products of all units however few are active."""
    shares = _C.recurrent_dense_above()
    _C.set_recurrent_dense_above(-1.0, -1.0)
    try:
        with plugin_accel.use_backend(CPU):
            yield
    finally:
        _C.set_recurrent_dense_above(*shares)


def _backend(name: str) -> Callable[[], AbstractContextManager[object]]:
    return lambda: plugin_accel.use_backend(name)
