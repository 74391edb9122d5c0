"""What reaches the driver, by a libcuda that launches nothing: names, grids, streams, the packed argument."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plugin_accel.backends import cuda_compile
from plugin_accel.backends.cuda_source import Reduce

STUB = Path(__file__).with_name("driver.c")
COMPILER = shutil.which(os.environ.get("CC", "gcc"))
MISSING = cuda_compile.missing()

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="needs a C compiler on Linux"),
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.skipif(torch.version.cuda is not None, reason="the driver's own library is loaded by torch"),
]

SCRIPT = """
import ctypes, contextlib, torch
torch.cuda.get_device_capability = lambda i=None: (9, 0)
torch.cuda.get_device_name = lambda i=None: "stub"
torch.cuda.current_device = lambda: 0
entered = []
torch.cuda.device = lambda i: (entered.append(i), contextlib.nullcontext())[1]
torch._C._cuda_getCurrentRawStream = lambda i: 0x77 + i
stub = ctypes.CDLL("libcuda.so.1")
from plugin_accel.backends import cuda_call
from plugin_accel.backends.cuda_device import Gpu, _driver_too_old
from plugin_accel.backends.cuda_source import Reduce
from plugin_accel.errors import BackendError
source, gpu = Reduce(None, "rows", torch.float32), Gpu()
print(gpu.refuses(torch.device("cuda", 0)))
for index in (0, 1):
    kernel = gpu.load(source, index)
    kernel((5, 2), 128, cuda_call.pack_reduce(3, 7, 2.5, [(1, 2)]))
print(entered)
stub.stub_set(13000, 222)
for call in (lambda: gpu.load(source, 0), lambda: kernel((1, 1), 32, bytes(280))):
    try:
        call()
    except BackendError as error:
        print("BackendError:", error)
stub.stub_set(12080, 0)
_driver_too_old.cache_clear()
print(gpu.refuses(torch.device("cuda", 0)))
"""


def test_the_driver_is_told_what_the_backend_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libcuda.so.1"
    command = [COMPILER or "gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(STUB)]
    subprocess.run([*command, "-ldl"], check=True)
    cuda_compile.cubin(Reduce(None, "rows", torch.float32), "sm_90")  # into the cache: the stub cannot serve a compiler
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    made = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    lines = made.stdout.splitlines()
    loaded = ["load 7fELF 0 0", "kernel 0x10 plugin_accel_kernel"]
    assert lines[:7] == [
        "None",
        *loaded,
        "launch 0x30 5 2 1 128 1 1 0 0x77 3 7 2.5 (nil)",
        *loaded,
        "launch 0x30 5 2 1 128 1 1 0 0x78 3 7 2.5 (nil)",
    ]
    assert lines[7] == "[0, 1, 1]"  # loaded on each; launched under a guard where the current device is another
    assert "expected the driver to load it" in made.stdout
    assert "expected a launch of 1 x 1 blocks" in made.stdout
    assert "the NVIDIA driver is for CUDA 12" in lines[-1]
