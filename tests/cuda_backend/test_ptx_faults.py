"""Kernels with faults, each of which the machine that runs PTX has to name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from plugin_accel.backends import cuda_call, cuda_compile, cuda_source
from plugin_accel.backends.cuda import CudaBackend

from . import ptx_device
from .cases import CASES, LIF
from .emulated import COMPILER
from .ptx_device import Fault, PtxDevice
from .test_emulated import compare

MISSING = cuda_compile.missing() or (None if COMPILER else "no C++ compiler")

pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.usefixtures("baseline")]

ALIF = CASES[4]

KERNEL = """
struct Call {{ const float* x; float* y; int64_t n; }};
extern "C" __global__ void __launch_bounds__(128) kernel(const __grid_constant__ Call call) {{
  const float* x = call.x;
  float* y = call.y;
  const int64_t n = call.n, i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  {body}
}}
"""

SOUND = {
    "a copy": "if (i < n) y[i] = x[i];",
    "a copy of four": "reinterpret_cast<float4*>(y)[i / 4] = reinterpret_cast<const float4*>(x)[i / 4 * (i % 4 == 0)];"
    .replace("y)[i / 4]", "y)[i]").replace("x)[i / 4 * (i % 4 == 0)]", "x)[i]").join(("if (i < n / 4) ", "")),
    "by way of shared memory": "__shared__ float s[128]; s[threadIdx.x] = x[i]; __syncthreads();"
    "y[i] = s[blockDim.x - 1 - threadIdx.x];",
}  # fmt: skip

FAULTY = {
    "beyond the end": ("y[i] = x[i + 1];", "outside of every tensor"),
    "before the beginning": ("y[i] = x[i - 1];", "outside of every tensor"),
    "written beyond the end": ("y[i + 1] = x[i];", "outside of every tensor"),
    "no address": ("reinterpret_cast<float*>(n)[i] = x[i];", "outside of every tensor"),
    "four at an odd address": (
        "if (4 * i + 4 >= n) return; const float4 v = reinterpret_cast<const float4*>(x + 1)[i];"
        "y[i] = v.x + v.y * v.z - v.w;",
        "misaligned",
    ),
    "two at an odd address": (
        "if (2 * i + 2 < n) *reinterpret_cast<float2*>(y + 1 + 2 * i) = float2{x[i], x[i]};",
        "misaligned",
    ),
    "no barrier": (
        "__shared__ float s[128]; s[threadIdx.x] = x[i]; y[i] = s[blockDim.x - 1 - threadIdx.x];",
        "(that nobody|another thread) ",
    ),
    "no barrier before the next write": (
        "__shared__ float s[128]; s[threadIdx.x] = x[i]; __syncthreads(); float v = s[blockDim.x - 1 - threadIdx.x];"
        "s[threadIdx.x] = v; __syncthreads(); y[i] = s[0];",
        "another thread",
    ),
    "a barrier for some": (
        "__shared__ float s[128]; s[threadIdx.x] = x[i]; if (threadIdx.x < 32) __syncthreads(); y[i] = s[threadIdx.x];",
        "does not reach this barrier",
    ),
    "a barrier behind a return": (
        "__shared__ float s[128]; if (i == 63) return; s[threadIdx.x] = x[i]; __syncthreads(); y[i] = s[0];",
        "does not reach this barrier",
    ),
    "shared memory that nobody wrote": (
        "__shared__ float s[128]; if (threadIdx.x) s[threadIdx.x] = x[i]; __syncthreads(); y[i] = s[0];",
        "nobody has written",
    ),
    "shared memory beyond its end": (
        "__shared__ float s[64]; s[threadIdx.x + 1] = x[i]; __syncthreads(); y[i] = s[1];",
        "outside of shared memory",
    ),
    "one address, two threads": ("y[i / 2] = x[i];", "a second thread"),
    "read while it is written": ("y[i] = x[i]; if (i % 2) y[i] += y[i - 1];", "another thread writes"),
    "memory that nobody wrote": ("y[i] += x[i];", "nobody has written"),
    "no end": ('for (;;) asm volatile("");', "does not end"),
    "local memory": ("float s[64]; for (int k = 0; k < n; ++k) s[k] = x[k]; y[i] = s[(int)x[i] & 63];", "local"),
    "atomics": ("atomicAdd(y, x[i]);", "atom|red"),
    "approximate": ("y[i] = __expf(x[i]);", "ex2.approx"),
    "fused by hand": ("y[i] = fmaf(x[i], x[i], x[i]);", "fma"),
}


@pytest.fixture(params=["compute_90", "compute_100"])
def device(request: pytest.FixtureRequest, folder: Path) -> Iterator[PtxDevice]:
    made = PtxDevice(folder, request.param)
    with made.watch():
        yield made


def launch(device: PtxDevice, body: str, x: torch.Tensor, threads: int = 64) -> torch.Tensor:
    """The kernel's y, of as many elements as x has."""
    fields = cuda_call.Fields().address(True, True).add(x.numel())
    y = torch.empty(x.numel())
    blocks = -(-x.numel() // threads)
    run = device.text("planted", KERNEL.format(body=body)).bind((blocks, 1), threads, fields.packed())
    run((x.data_ptr(), y.data_ptr()))
    return y


@pytest.mark.parametrize("body", SOUND.values(), ids=SOUND)
def test_a_sound_kernel_passes(device: PtxDevice, body: str) -> None:
    x = torch.randn(64)
    assert launch(device, body, x).equal(x.flip(0) if "shared" in body else x)


@pytest.mark.parametrize(("body", "names"), FAULTY.values(), ids=FAULTY)
def test_a_fault_is_named(device: PtxDevice, body: str, names: str) -> None:
    with pytest.raises((Fault, ValueError), match=names):
        launch(device, body, torch.randn(64))


def test_between_the_elements_of_a_view(device: PtxDevice) -> None:
    x = torch.randn(64, 2)[:, 0]
    assert launch(device, "y[i] = x[2 * i];", x).equal(x)
    with pytest.raises(Fault, match="outside of the tensor's elements"):
        launch(device, "y[i] = x[i];", x)


def test_a_launch_that_no_gpu_would_take(device: PtxDevice) -> None:
    with pytest.raises(Fault, match="cannot be launched"):
        launch(device, SOUND["a copy"], torch.randn(256), threads=256)


OPTIONS = {
    "fused": ("fma", True, r"(add|mul)\.f"),
    "flushed": ("ftz", True, "ftz"),
    "divided": ("prec_div", False, "div"),
}


@pytest.mark.parametrize(("option", "value", "names"), OPTIONS.values(), ids=OPTIONS)
def test_an_option_of_the_compiler(option: str, value: bool, names: str, folder: Path) -> None:
    device = PtxDevice(folder, "compute_90", **{option: value})
    with device.watch(), pytest.raises(Fault, match=rf"must not have.*{names}"):
        compare(CudaBackend(device), LIF, (2, 20, 6))


def changed(folder: Path, file: str, old: str, new: str) -> tuple[str, str]:
    """Where the headers are of which one says something else."""
    shutil.copytree(cuda_source.folder(), folder / "csrc")
    path = folder / "csrc" / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return (str(folder / "csrc"), str(folder / "csrc" / "cuda" / "std"))


def test_what_is_fused_differs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "kept = p[AlphaMem] * s[V] + p[Gain] * i;", "kept = fma(p[AlphaMem], s[V], p[Gain] * i);"
    device = PtxDevice(folder, "compute_90", include_path=changed(tmp_path, "neurons/sinabs_lif.h", old, new))
    monkeypatch.setattr(ptx_device, "forbidden", lambda _: [])
    with device.watch(), pytest.raises(AssertionError, match="not equal"):
        compare(CudaBackend(device), LIF, (2, 20, 60))


CHANGES = {
    "threads without a column go on": (
        "cuda/forward.h", "c.inner, real && where.active", "c.inner, real", "a second thread|outside",
    ),
    "loads beyond the last step": (
        "cuda/io.h", "load_if(from, word, u < count", "load_if(from, word, true", "outside of every tensor",
    ),
    "no barrier in a block's sum": (
        "cuda/call.h", "part[i] = mine;\n  __syncthreads();", "part[i] = mine;", "nobody|another thread",
    ),
    "no barrier in the tree of a block's sum": (
        "cuda/call.h", "part[i + n];\n    __syncthreads();", "part[i + n];", "another thread",
    ),
    "all threads write a block's sum": (
        "cuda/forward.h", "if (threadIdx.x == 0) c.sum", "c.sum", "a second thread",
    ),
    "the states before the first chunk": (
        "cuda/backward.h", "(chunk - 1) * Step::kStates", "chunk * Step::kStates", "nobody|outside",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "names"), CHANGES.values(), ids=CHANGES)
def test_a_fault_in_the_kernels(file: str, old: str, new: str, names: str, folder: Path, tmp_path: Path) -> None:
    device = PtxDevice(folder, "compute_90", include_path=changed(tmp_path, file, old, new))
    with device.watch(), pytest.raises(Fault, match=names):
        compare(CudaBackend(device), ALIF, (1, 17, 33))


def test_four_columns_where_memory_is_not_aligned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_call, "fits", lambda *_: True)
    device = PtxDevice(folder, "compute_90", threads=1)
    with device.watch(), pytest.raises(Fault, match="misaligned"):
        compare(CudaBackend(device), LIF, (2, 5, 8), x=torch.randn(2, 5, 10)[:, :, :8])
