"""Layers of every sinabs class, a toy framework, and a model with most kinds of containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import sinabs.layers as sl
import torch
from sinabs.layers.alif import ALIFSqueeze
from torch import nn

import plugin_accel
from plugin_accel import plugins

FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "LIF": lambda: sl.LIF(tau_mem=20.0, spike_threshold=torch.tensor(0.5)),
    "LIF-synapse": lambda: sl.LIF(tau_mem=torch.tensor([5.0, 9.0, 20.0]), tau_syn=10.0, norm_input=False),
    "LIF-recording": lambda: sl.LIF(tau_mem=20.0, min_v_mem=-1.0, train_alphas=True, record_states=True),
    "IAF": sl.IAF,
    "ExpLeak": lambda: sl.ExpLeak(tau_mem=20.0),
    "LIFSqueeze": lambda: sl.LIFSqueeze(tau_mem=20.0, norm_input=False, batch_size=2),
    "IAFSqueeze": lambda: sl.IAFSqueeze(num_timesteps=5),
    "ExpLeakSqueeze": lambda: sl.ExpLeakSqueeze(tau_mem=20.0, batch_size=2),
    "ALIF": lambda: sl.ALIF(tau_mem=20.0, tau_adapt=10.0, norm_input=False),
    "ALIFSqueeze": lambda: ALIFSqueeze(tau_mem=20.0, tau_adapt=10.0, batch_size=2),
    "LIFRecurrent": lambda: sl.LIFRecurrent(tau_mem=20.0, rec_connect=nn.Linear(3, 3)),
    "IAFRecurrent": lambda: sl.IAFRecurrent(rec_connect=nn.Linear(3, 3)),
    "ALIFRecurrent": lambda: sl.ALIFRecurrent(tau_mem=20.0, tau_adapt=10.0, rec_connect=nn.Linear(3, 3)),
}


@pytest.fixture(params=FACTORIES)
def factory(request: pytest.FixtureRequest) -> Callable[[], nn.Module]:
    """Makes a layer; all sinabs classes and some options in turn."""
    return FACTORIES[request.param]


@pytest.fixture
def layer(factory: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return factory()


@pytest.fixture
def drive() -> Callable[..., torch.Tensor]:
    """Makes an input of batch 2, time 5, 3 neurons in the form a layer takes."""

    def make(layer: nn.Module, seed: int = 0) -> torch.Tensor:
        shape = (10, 3) if isinstance(layer, sl.SqueezeMixin) else (2, 5, 3)
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 3

    return make


class Residual(nn.Module):
    """Holds layers in a ModuleDict and a ModuleList, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = sl.LIF(tau_mem=10.0, norm_input=False)
        self.branches = nn.ModuleDict({"main": nn.Sequential(nn.Linear(3, 3), self.shared), "empty": nn.Identity()})
        self.tail = nn.ModuleList([sl.ExpLeak(tau_mem=5.0), None, self.shared])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail[2](self.tail[0](self.branches["main"](x)) + x)


@pytest.fixture
def model() -> nn.Module:
    """Layers: 0, 2.shared = 2.branches.main.1 = 2.tail.2, 2.tail.0 and 4."""
    torch.manual_seed(0)
    recurrent = sl.LIFRecurrent(tau_mem=9.0, rec_connect=nn.Linear(3, 3))
    return nn.Sequential(sl.IAF(), nn.Linear(3, 3), Residual(), nn.Dropout(0.2), recurrent)


class Toy(nn.Module):
    """The neuron of a framework that is none: no spikes, one state."""

    def __init__(self, gain: float = 2.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.register_buffer("state", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state = self.state + x.sum()
        return x * self.gain


class FastToy(Toy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state = self.state + x.sum()
        return self.gain * x


class RigidToy(Toy):
    """Its accelerated class has another memory layout, so Python refuses the exchange."""


class FastRigidToy(RigidToy):
    __slots__ = ("slot",)


class UnsupportedToy(nn.Module):
    """Owned by the host, but nothing accelerates it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class ToyHost:
    """A host whose answers a test can change."""

    name = "toy"

    def __init__(self) -> None:
        self.against: tuple[str, ...] = ()
        self.fallback: str | None = None
        self.runner: str | Exception | None = "toy-runner"
        self.is_loaded = True

    Toy = Toy
    FastToy = FastToy
    RigidToy = RigidToy
    UnsupportedToy = UnsupportedToy

    def loaded(self) -> bool:
        return self.is_loaded

    def classes(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        return {Toy: FastToy, RigidToy: FastRigidToy}

    def owns(self, module: nn.Module) -> bool:
        return isinstance(module, (Toy, UnsupportedToy))

    def reasons(self, module: nn.Module) -> tuple[str, ...]:
        return self.against

    def backend(self, module: nn.Module) -> str | None:
        if isinstance(self.runner, Exception):
            raise self.runner
        return self.runner

    def last_fallback(self, module: nn.Module) -> str | None:
        return self.fallback

    @plugin_accel.hookimpl
    def plugin_accel_hosts(self) -> list[Any]:
        return [self]


@pytest.fixture
def toy() -> Iterator[ToyHost]:
    """The toy host, registered for one test."""
    host = ToyHost()
    plugins.manager().register(host, name="toy")
    yield host
    plugins.manager().unregister(name="toy")
