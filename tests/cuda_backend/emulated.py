"""A device for the `cuda` backend that runs its kernels on the host: the same sources, compiled by g++."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from plugin_accel.backends import cuda_source
from plugin_accel.backends.cuda_call import Memory, Packed
from plugin_accel.backends.cuda_device import Launch, Loaded, Program, Where
from plugin_accel.backends.cuda_source import KERNEL, Source
from plugin_accel.errors import BackendError

HEADER = Path(__file__).with_name("emulation.h")
# -O1 vectorises nothing; contraction stays off as everywhere
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared", "-w"]

COMPILER = shutil.which(os.environ.get("CXX", "g++"))


class EmulatedDevice:
    """See `plugin_accel.backends.cuda_device.Device`."""

    type = "cpu"

    def __init__(self, folder: Path, threads: int = 1 << 20) -> None:
        self.folder = folder
        self.fill = threads
        self.loaded: list[Source] = []

    def unavailable(self) -> str | None:
        return None if COMPILER else "no C++ compiler"

    def refuses(self, device: torch.device) -> str | None:
        return None

    def holds_data(self, device: torch.device) -> bool:
        return True

    def details(self) -> str:
        return "emulated on the host"

    def threads(self, index: int) -> int:
        return self.fill

    def load(self, source: Source, index: int) -> Loaded:
        self.loaded.append(source)
        entry = re.sub(r"\b__grid_constant__\b", "", source.text(1))
        text = (
            f'#include "{HEADER}"\n{entry}'
            'extern "C" void launch(int64_t x, int64_t y, unsigned block, const void* call) {\n'
            f"  using Call = {source.call};\n"
            f"  emulation::launch([](const void* p) {{ {KERNEL}(*static_cast<const Call*>(p)); }},"
            " x, y, block, call);\n}\n"
            f'extern "C" int64_t call_size() {{ return sizeof({source.call}); }}\n'
        )
        digest = sha256((text + cuda_source.headers_digest() + HEADER.read_text()).encode()).hexdigest()[:32]
        library = self.folder / f"{digest}.so"
        if not library.exists():
            mine = f"{digest}.{os.getpid()}"  # other processes compile into this folder, too
            path, part = self.folder / f"{mine}.cpp", self.folder / f"{mine}.part"
            path.write_text(text)
            includes = [f"-I{cuda_source.folder()}"]
            made = subprocess.run(
                [COMPILER or "g++", *FLAGS, *includes, str(path), "-o", str(part)],
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                raise BackendError(made.stderr)
            os.replace(part, library)
        loaded = ctypes.CDLL(str(library))
        loaded.call_size.restype = ctypes.c_int64
        size = loaded.call_size()

        def launch(grid: tuple[int, int], block: int, call: bytes) -> None:
            assert len(call) == size, f"{source.call}: {size} bytes, packed {len(call)}"
            loaded.launch(ctypes.c_int64(grid[0]), ctypes.c_int64(grid[1]), ctypes.c_uint(block), ctypes.c_char_p(call))

        return Patched(launch)

    def program(self, launches: Sequence[tuple[Launch, Where]], memories: tuple[Memory, ...], index: int) -> Program:
        return program(launches, memories)


class Patched:
    """Launches that are given a whole argument, addresses filled in: see `plugin_accel.backends.cuda_device.Loaded`."""

    def __init__(self, launch: Callable[[tuple[int, int], int, bytes], None]) -> None:
        self._launch = launch

    def bind(self, grid: tuple[int, int], block: int, argument: Packed) -> Launch:
        return _Bound(lambda call: self._launch(grid, block, call), argument)


class _Bound:
    """See `plugin_accel.backends.cuda_device.Launch`."""

    def __init__(self, launch: Callable[[bytes], None], argument: Packed) -> None:
        self._launch, self._argument = launch, argument

    def __call__(self, addresses: tuple[int, ...]) -> None:
        call = bytearray(self._argument.call)
        for word, address in zip(self._argument.words, addresses, strict=True):
            struct.pack_into("=Q", call, 8 * word, address)
        self._launch(bytes(call))


def program(launches: Sequence[tuple[Launch, Where]], memories: tuple[Memory, ...]) -> Program:
    """See `plugin_accel.backends.cuda_device.Device`."""

    def run(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        made = tuple([memory.make() for memory in memories])
        tensors = (*inputs, *made)
        for launch, where in launches:
            launch(tuple([tensors[i].data_ptr() + offset for i, offset in where]))
        return made

    return run
