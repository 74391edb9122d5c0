"""What the `cuda` backend says and does where something is missing, broken or stale; with a fake device."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from plugin_accel import backends, plugins
from plugin_accel.backends import cuda_cache, cuda_compile, cuda_device, cuda_source
from plugin_accel.backends.cuda import BACKEND, CudaBackend
from plugin_accel.backends.cuda_source import Reduce, Source
from plugin_accel.errors import BackendError, PluginAccelWarning
from plugin_accel.neurons import SINABS_LIF

from .fake import META, FakeDevice

SOURCE = Reduce(None, "rows", torch.float32)
NVRTC = cuda_compile.missing()


def choose(name: str | None = None) -> backends.Backend | None:
    return backends.choose(META, torch.float32, SINABS_LIF.name, name)


def test_chosen_for_its_device_after_one_trial(fake: FakeDevice) -> None:
    first, second = choose(), choose()
    assert first is second is plugins.backends()["fake"]
    assert fake.loads == 1
    assert backends.choose("cpu", torch.float32, SINABS_LIF.name).name == "cpu"  # type: ignore[union-attr]


@pytest.mark.parametrize("problem", ["missing", "refusal", "failure"])
def test_auto_falls_back_with_one_warning_and_a_name_raises(fake: FakeDevice, problem: str) -> None:
    setattr(fake, problem, "the driver is too old: update it")
    with pytest.warns(PluginAccelWarning, match="the driver is too old: update it"):
        assert choose() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose(META, torch.float64, SINABS_LIF.name) is None  # the same reason: said once
    with pytest.raises(BackendError, match="the driver is too old: update it"):
        choose("fake")


def test_a_device_that_computes_something_else_is_refused() -> None:
    idle = FakeDevice()
    idle.type = "cpu"  # whose kernels do nothing
    why = CudaBackend(idle).refuses(SINABS_LIF.name, torch.device("cpu"), torch.float32)
    assert why is not None
    assert "expected the numbers of the cpu backend on cpu, got others" in why


def test_refuses_what_it_has_no_kernels_for(fake: FakeDevice) -> None:
    backend = plugins.backends()["fake"]
    assert "not on cpu" in backend.refuses(SINABS_LIF.name, torch.device("cpu"), torch.float32)  # type: ignore[operator]
    assert "float16" in backend.refuses(SINABS_LIF.name, META, torch.float16)  # type: ignore[operator]
    assert "no CUDA kernels" in backend.refuses("another", META, torch.float32)  # type: ignore[operator]
    assert fake.loads == 0


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch has CUDA here")
def test_torch_without_cuda_is_what_is_missing() -> None:
    assert "built without CUDA" in BACKEND.unavailable()  # type: ignore[operator]


@pytest.mark.parametrize("module", ["cuda.bindings", "cuda.core"])
def test_a_missing_package_is_named_with_the_command(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_compile, "_absent", lambda name: name == module)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    why = cuda_device.Gpu().unavailable()
    assert why is not None
    assert module.replace(".", "-") in why
    assert "pip install 'plugin-accel[cuda12]'" in why


def test_nvrtc_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise OSError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.setattr(cuda_compile, "_absent", lambda name: False)
    monkeypatch.setattr(cuda_compile, "version", broken)
    assert "libnvrtc.so.13: cannot open" in cuda_compile.missing()  # type: ignore[operator]


# The cache


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Architectures that something was compiled for."""
    compiled: list[str] = []

    def compile_source(source: Source, arch: str) -> cuda_compile.Compiled:
        compiled.append(arch)
        return cuda_compile.Compiled(f"{source.body}{arch}".encode(), "")

    monkeypatch.setattr(cuda_compile, "compile_source", compile_source)
    monkeypatch.setattr(cuda_compile, "version", lambda: "NVRTC 13.5")
    return compiled


def test_compiled_once_for_each_architecture(counted: list[str]) -> None:
    once = cuda_compile.cubin(SOURCE, "sm_90")
    assert cuda_compile.cubin(SOURCE, "sm_90") == once
    assert cuda_compile.cubin(SOURCE, "sm_80") != once
    assert counted == ["sm_90", "sm_80"]


def test_compiled_anew_when_headers_or_compiler_change(counted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_compile.cubin(SOURCE, "sm_90")
    monkeypatch.setattr(cuda_compile, "version", lambda: "NVRTC 13.6")
    cuda_compile.cubin(SOURCE, "sm_90")
    monkeypatch.setattr(cuda_source, "headers_digest", lambda: "another")
    cuda_compile.cubin(SOURCE, "sm_90")
    assert len(counted) == 3


def test_a_damaged_file_is_compiled_anew(counted: list[str]) -> None:
    body = cuda_compile.cubin(SOURCE, "sm_90")
    where = cuda_cache.folder()
    assert where is not None
    (file,) = where.iterdir()
    for damaged in (file.read_bytes()[:-1], b"", file.read_bytes()[:40]):
        file.write_bytes(damaged)
        assert cuda_compile.cubin(SOURCE, "sm_90") == body
    assert len(counted) == 4


def test_a_folder_that_cannot_be_written_is_no_error(
    counted: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    monkeypatch.setenv(cuda_cache.VARIABLE, str(occupied / "below"))
    cuda_compile.cubin(SOURCE, "sm_90")
    cuda_compile.cubin(SOURCE, "sm_90")
    assert len(counted) == 2


def test_zero_keeps_nothing(counted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cuda_cache.VARIABLE, "0")
    assert cuda_cache.folder() is None
    cuda_compile.cubin(SOURCE, "sm_90")
    cuda_compile.cubin(SOURCE, "sm_90")
    assert len(counted) == 2


STORE = """
import runpy, sys
cache = runpy.run_path(sys.argv[1])
for i in range(300):
    cache["store"]("shared", sys.argv[2].encode() * (1000 + i))
    body = cache["load"]("shared")
    assert body is not None and len(set(body)) == 1, body
"""


def test_processes_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they read is what one of them wrote, whole."""
    monkeypatch.setenv(cuda_cache.VARIABLE, str(tmp_path))
    command = [sys.executable, "-S", "-c", STORE, cuda_cache.__file__]
    workers = [subprocess.Popen([*command, n]) for n in "ab"]
    assert [w.wait() for w in workers] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["shared.cubin"]


@pytest.mark.skipif(NVRTC is not None, reason=str(NVRTC))
def test_nvrtc_compiles_into_the_cache() -> None:
    image = cuda_compile.cubin(SOURCE, "sm_90")
    assert image[:4] == b"\x7fELF"
    assert cuda_compile.cubin(SOURCE, "sm_90") == image
    assert {75, 80, 86, 89, 90, 100, 120} <= cuda_compile.architectures()
