from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin_accel import _C, backends, plugins
from plugin_accel.backends.cuda import CudaBackend

from .fake import FakeDevice, Plugin


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the tests' kernels out of the user's cache."""
    monkeypatch.setenv("PLUGIN_ACCEL_CACHE", str(tmp_path / "kernels"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Emulated kernels: compiled once, also when tests run in several processes."""
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "emulated"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def baseline() -> Iterator[None]:
    """The cpu kernels without fused multiply-adds in their surrogates, as the CUDA kernels are."""
    before = _C.isa()
    _C.set_isa("baseline")
    yield
    _C.set_isa(before)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    """A device for which a backend is registered under the name "fake"."""
    device = FakeDevice()
    backend = CudaBackend(device)
    backend.name = "fake"
    plugin = Plugin(backend)
    monkeypatch.setattr(backends, "_said", set())
    plugins.manager().register(plugin)
    yield device
    plugins.manager().unregister(plugin)
