"""What reaches the driver, by a libcuda that launches nothing: names, grids, streams, the packed argument."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from plugin_accel import _C
from plugin_accel.backends import cuda_compile
from plugin_accel.backends.cuda_call import Fields, Memory
from plugin_accel.backends.cuda_source import Reduce

from .emulated import Patched

STUB = Path(__file__).with_name("driver.c")
COMPILER = shutil.which(os.environ.get("CC", "gcc"))
MISSING = cuda_compile.missing()

DRIVER = pytest.mark.skipif(
    sys.platform != "linux" or COMPILER is None or MISSING is not None or torch.version.cuda is not None,
    reason=str(MISSING or "needs a C compiler on Linux, and a torch that does not load the driver's own library"),
)

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
    one = [k == 0 for k in range(16)]
    fields = cuda_call.Fields().add(3, 7, 2.5).address(*one).address(*one)
    kernel.bind((5, 2), 128, fields.packed())((1, 2))
print(entered)
print("a new thread")
stub.stub_forget_context()
kernel = gpu.load(source, 0)
launch = kernel.bind((1, 1), 32, fields.packed())
launch((1, 2))
stub.stub_forget_context()
launch((1, 2))
stub.stub_set(13000, 222)
for call in (lambda: gpu.load(source, 0), lambda: kernel.bind((1, 1), 32, fields.packed())((1, 2))):
    try:
        call()
    except BackendError as error:
        print("BackendError:", error)
stub.stub_set(12080, 0)
_driver_too_old.cache_clear()
print(gpu.refuses(torch.device("cuda", 0)))
"""

_VOID = ctypes.c_void_p
ENTRY = ctypes.CFUNCTYPE(ctypes.c_int, _VOID, *[ctypes.c_uint] * 7, _VOID, ctypes.POINTER(_VOID), _VOID)


def test_a_launch_fills_in_addresses() -> None:
    """What the library hands over is what `Patched` makes in Python; nothing of one call is left to the next."""
    found: list[tuple[object, ...]] = []

    def entry(function: int, *rest: Any) -> int:
        *grid, stream, arguments, extra = rest
        found.append((function, *grid, stream, ctypes.string_at(arguments[0], size), extra))
        return 7 if len(found) == 3 else 0

    call = Fields().add(3, -7, 2.5).address(True, False, True).stream((5, 6, 7)).stream(None).packed()
    size = len(call.call)
    assert size == 8 * (3 + 3 + 4 + 4)
    callback = ENTRY(entry)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    launch = _C.Launch(address, 0x30, 5, 2, 128, *call)  # type: ignore[arg-type]
    wanted: list[bytes] = []
    patched = Patched(lambda grid, block, filled: wanted.append(filled)).bind((5, 2), 128, call)
    for n, addresses in enumerate(((1, 2, 2**64 - 1), (2**63, 0, 4), (5, 6, 7))):
        assert launch.run(0x77, addresses) == (7 if n == 2 else 0)
        patched(addresses)
    assert [f[-2] for f in found] == wanted
    assert {f[:-2] for f in found} == {(0x30, 5, 2, 1, 128, 1, 1, 0, 0x77)}
    assert {f[-1] for f in found} == {None}
    for wrong in ((1, 2), (1, 2, -1), (1, 2, "3"), (1, 2, 2**64)):
        with pytest.raises((ValueError, OverflowError, TypeError)):
            launch.run(0, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beyond"):
        _C.Launch(address, 0, 1, 1, 32, bytes(16), (2,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4096 bytes"):
        _C.Launch(address, 0, 1, 1, 32, bytes(4104), ())  # type: ignore[arg-type]
    assert len(found) == 3


def test_a_program_makes_tensors_and_launches() -> None:
    """Addresses of what is given and of what is made, with offsets; two launches on the device's stream."""
    found: list[tuple[int, bytes]] = []
    answers: list[int] = []

    def entry(function: int, *rest: Any) -> int:
        *_, stream, arguments, _ = rest
        found.append((stream, ctypes.string_at(arguments[0], 32)))
        return answers.pop(0) if answers else 0

    callback = ENTRY(entry)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    call = Fields().address(True, False, True).add(9).packed()
    launch = _C.Launch(address, 0x30, 1, 1, 32, *call)  # type: ignore[arg-type]
    given, cpu = torch.ones(3), torch.device("cpu")
    kinds = (Memory((2, 5), (5, 1), torch.float32, cpu), Memory((4, 3), (1, 4), torch.float64, cpu))
    devices, other = [1], []

    def otherwise(again: Any, code: int | None, tensors: list[torch.Tensor]) -> Any:
        other.append(code)
        return again(tensors)

    run = _C.program(
        ((launch, ((0, 0), (1, 8))), (launch, ((2, 0), (1, 0)))), kinds, 1, lambda: devices[0], lambda i: 70 + i,
        otherwise,
    )  # fmt: skip
    made = run([given])
    assert [(t.shape, t.stride(), t.dtype, t.device) for t in made] == [*kinds]

    def expected(tensors: tuple[torch.Tensor, ...]) -> list[tuple[int, bytes]]:
        a, b, c = given.data_ptr(), tensors[0].data_ptr(), tensors[1].data_ptr()
        return [(71, struct.pack("=QQQq", a, 0, b + 8, 9)), (71, struct.pack("=QQQq", c, 0, b, 9))]

    assert found == expected(made)
    assert not other
    devices[0] = 0  # another one is current
    found.clear()
    made = run([given])
    assert found == expected(made)
    assert other == [None]
    devices[0], answers[:] = 1, [201]  # the driver does not take the first launch
    made = run([given])
    assert found[-2:] == expected(made)
    assert other == [None, 201]
    with pytest.raises(TypeError, match="tensors"):
        run([])
    with pytest.raises(ValueError, match="as many addresses"):
        _C.program(((launch, ((0, 0),)),), kinds, 1, lambda: 1, lambda i: 0, otherwise)


@DRIVER
def test_the_driver_is_told_what_the_backend_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libcuda.so.1"
    command = [COMPILER or "gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(STUB)]
    subprocess.run([*command, "-ldl"], check=True)
    cuda_compile.cubin(Reduce(None, "rows", torch.float32), "sm_90")  # into the cache: the stub cannot serve a compiler
    paths = [str(tmp_path), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths)}
    made = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    lines = made.stdout.splitlines()
    # a graph may be captured meanwhile
    loaded = ["capture mode 2", "load 7fELF 0 0", "kernel 0x10 plugin_accel_kernel", "capture mode 0"]
    launched = "launch 0x30 1 1 1 32 1 1 0 0x77 3 7 2.5 (nil)"
    assert (
        lines[:18]
        == [
            "None",
            "context 0x40",
            *loaded,
            "launch 0x30 5 2 1 128 1 1 0 0x77 3 7 2.5 (nil)",
            *loaded,
            "launch 0x30 5 2 1 128 1 1 0 0x78 3 7 2.5 (nil)",
            "[0, 1, 1]",  # loaded on each; launched under a guard where the current device is another
            "a new thread",  # has no context before it has used the runtime
            "context 0x40",
            *loaded,
        ][:18]
    )
    assert lines[18:22] == [loaded[-1], launched, "context 0x40", launched]
    assert "expected the driver to load it" in made.stdout
    assert "expected a launch of 1 x 1 blocks" in made.stdout
    assert "the NVIDIA driver is for CUDA 12" in lines[-1]
