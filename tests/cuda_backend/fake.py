"""A GPU that is none: what the `cuda` backend says and does where there is no data to compute with."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from plugin_accel import plugins
from plugin_accel.backends.cuda import CudaBackend
from plugin_accel.backends.cuda_call import Memory
from plugin_accel.backends.cuda_device import Launch, Loaded, Program, Where
from plugin_accel.backends.cuda_source import Source
from plugin_accel.errors import BackendError

from .emulated import Patched, program

META = torch.device("meta")


class FakeDevice:
    """A GPU of torch's type "meta" that fails as it is told to."""

    type = "meta"
    missing: str | None = None
    refusal: str | None = None
    failure: str | None = None

    def __init__(self) -> None:
        self.loads = 0
        self.launches = 0

    def unavailable(self) -> str | None:
        return self.missing

    def refuses(self, device: torch.device) -> str | None:
        return self.refusal

    def holds_data(self, device: torch.device) -> bool:
        return device.type != "meta"

    def details(self) -> str:
        return "fake"

    def threads(self, index: int) -> int:
        return 1024

    def load(self, source: Source, index: int) -> Loaded:
        self.loads += 1
        if self.failure:
            raise BackendError(self.failure)
        return Patched(self._launch)

    def program(self, launches: Sequence[tuple[Launch, Where]], memories: tuple[Memory, ...], index: int) -> Program:
        return program(launches, memories)

    def _launch(self, grid: tuple[int, int], block: int, call: bytes) -> None:
        self.launches += 1


class Plugin:
    """Registers a backend."""

    def __init__(self, backend: CudaBackend) -> None:
        self._backend = backend

    @plugins.hookspecs.hookimpl
    def plugin_accel_backends(self) -> list[CudaBackend]:
        return [self._backend]
