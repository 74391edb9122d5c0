"""A device for the `cuda` backend that runs on the host the PTX which NVRTC makes of its kernels, and watches them."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from plugin_accel.backends import cuda_device
from plugin_accel.backends.cuda_call import Memory, Packed
from plugin_accel.backends.cuda_device import Launch, Loaded, Where
from plugin_accel.backends.cuda_source import Source

from .emulated import COMPILER, Patched, _Bound, program
from .ptx import SHARED_BASE, WORDS, Program, forbidden, programs, ptx

_HERE = Path(__file__).parent
_SOURCES = ("ptx_machine.cpp", "ptx_instructions.h", "ptx_machine.h", "ptx_memory.h")
_FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", "-fno-math-errno", "-fwrapv", "-fPIC", "-shared", "-w"]
_LARGE = 1 << 24
_TENSOR = -(1 << 63)  # kTensor of ptx_memory.h


class Fault(Exception):
    """A kernel did what a GPU, or one of compute-sanitizer's tools, would have complained about."""


@lru_cache(maxsize=1)
def machine(folder: Path) -> ctypes.CDLL:
    """The library that runs PTX, compiled into `folder`."""
    digest = sha256(b"".join((_HERE / name).read_bytes() for name in _SOURCES)).hexdigest()[:16]
    library = folder / f"machine-{digest}.so"
    if not library.exists():
        part = folder / f"{digest}.{os.getpid()}"
        command = [COMPILER or "g++", *_FLAGS, str(_HERE / _SOURCES[0]), "-o", str(part)]
        subprocess.run(command, check=True)
        os.replace(part, library)
    loaded = ctypes.CDLL(str(library))
    loaded.ptx_marks.restype = ctypes.c_void_p
    return loaded


class Watch:
    """The tensors whose addresses kernels may have been given, and what has become of their memory.

    Addresses reach a launch by way of `Tensor.data_ptr`, which is watched. What is asked is kept alive, so that no
    address means two tensors. Memory that torch has not initialised, and nothing has written to since, is fresh.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._at: dict[int, dict[Any, Tensor]] = {}
        self._fresh: dict[int, Tensor] = {}
        self._marks: dict[int, tuple[int, int]] = {}
        self._with_gaps: set[Any] = set()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """While this lasts, tensors are watched; at its end they are forgotten."""
        data_ptr, make = Tensor.data_ptr, self._making
        patches: list[Any] = [
            mock.patch.object(Tensor, "data_ptr", lambda t: self._asked(t, data_ptr(t))),
            mock.patch.object(Tensor, "new_empty", make(Tensor.new_empty)),
            *[mock.patch.object(torch, n, make(getattr(torch, n))) for n in ("empty", "empty_like", "empty_strided")],
        ]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()
            self.forget()

    def forget(self) -> None:
        """All tensors."""
        for marks, size in self._marks.values():
            self._library.ptx_drop_marks(ctypes.c_void_p(marks), ctypes.c_uint64(size))
        for held in (self._at, self._fresh, self._marks, self._with_gaps):
            held.clear()

    def _asked(self, t: Tensor, address: int) -> int:
        if address:
            self._at.setdefault(address, {})[t.shape, t.stride(), t.dtype] = t
        return address

    def _making(self, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, **options: Any) -> Tensor:
            t = make(*args, **options)
            if t.device.type == "cpu":
                storage = t.untyped_storage()
                self._fresh[storage.data_ptr()] = t
                if 0 < storage.nbytes() < _LARGE:
                    ctypes.memset(storage.data_ptr(), 0xFF, storage.nbytes())  # NaN: no result of an earlier call
            return t

        return made

    def windows(self, addresses: Sequence[int]) -> list[int]:
        """What a launch may touch that is given these: rows of `Window` in ptx_memory.h.

        What is the address of no tensor, like EGRU's number of the step, gives nothing to touch.
        """
        rows: list[int] = []
        for address in filter(None, addresses):
            found = self._at.get(address)
            if found is None:  # within a tensor
                every = [t for there in self._at.values() for t in there.values()]
                found = dict(enumerate(t for t in every if _begin(t) <= address < _begin(t) + _span(t)))
            for t in found.values():
                rows += self._window(t)
        return rows

    def _window(self, t: Tensor) -> list[int]:
        storage = t.untyped_storage()
        begin, size, at = storage.data_ptr(), storage.nbytes(), _begin(t)
        if begin not in self._marks:
            made = self._library.ptx_marks(ctypes.c_uint64(size))
            assert made, f"no memory for the marks of {size} bytes"
            self._marks[begin] = (made, size)
        marks = self._marks[begin][0]
        sizes = [n if s else 1 for n, s in zip(t.shape, t.stride(), strict=True)]
        gaps = torch.Size(sizes).numel() * t.itemsize < _span(t)
        if gaps and (key := (at, tuple(sizes), t.stride(), t.dtype)) not in self._with_gaps:
            self._with_gaps.add(key)
            held = torch.frombuffer((ctypes.c_int64 * size).from_address(marks), dtype=torch.int64)
            strides = [s * t.itemsize for s in t.stride()]
            held.as_strided((*sizes, t.itemsize), (*strides, 1), at - begin).bitwise_or_(_TENSOR)
        fresh = begin in self._fresh and not t.is_inference() and t._version == 0
        return [at, at + _span(t), marks + 8 * (at - begin), int(gaps), int(fresh)]


def _begin(t: Tensor) -> int:
    return t.untyped_storage().data_ptr() + int(t.storage_offset()) * t.itemsize


def _span(t: Tensor) -> int:
    if not t.numel():
        return 0
    last: int = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    return (last + 1) * t.itemsize


class _Loaded(Patched):
    """See `plugin_accel.backends.cuda_device.Loaded`."""

    def __init__(self, device: PtxDevice, what: str, program: Program) -> None:
        self._device, self._what, self._program = device, what, program
        self._code = (ctypes.c_int64 * len(program.code)).from_buffer(program.code)
        self._slots = (ctypes.c_uint64 * len(program.values))(*program.values)
        self._names = (ctypes.c_char_p * len(program.names))(*[n.encode() for n in program.names])
        unknown = [n for n in program.names if not device.library.ptx_knows(n.encode())]
        if unknown:
            raise ValueError(f"{what}: instructions that the machine does not know: {unknown}")

    def bind(self, grid: tuple[int, int], block: int, argument: Packed) -> Launch:
        return _Bound(lambda call: self._run(grid, block, call, argument.words), argument)

    def _run(self, grid: tuple[int, int], block: int, call: bytes, words: Sequence[int]) -> None:
        program, device = self._program, self._device
        if not (0 < grid[0] < 1 << 31 and 0 < grid[1] < 1 << 16 and 0 < block <= program.most):
            raise Fault(f"{self._what}: a grid of {grid} with blocks of {block} cannot be launched")
        if len(call) != program.param:
            raise Fault(f"{self._what}: its argument is {program.param} bytes, packed are {len(call)}")
        rows = device.watch.windows([struct.unpack_from("=Q", call, 8 * w)[0] for w in words])
        chosen = device.blocks(grid[0])
        device.launches += 1
        what, where = ctypes.create_string_buffer(256), (ctypes.c_int64 * 3)()
        i64, u64 = ctypes.c_int64, ctypes.c_uint64
        fine = device.library.ptx_launch(
            self._code,
            i64(len(program.lines)),
            i64(WORDS),
            self._names,
            self._slots,
            i64(len(program.values)),
            u64(SHARED_BASE),
            i64(program.shared),
            call,
            i64(len(call)),
            (u64 * len(rows))(*rows),
            i64(len(rows) // 5),
            u64(device.launches),
            u64(grid[0]),
            u64(grid[1]),
            (u64 * len(chosen))(*chosen),
            i64(len(chosen)),
            u64(block),
            what,
            i64(len(what)),
            where,
        )
        if not fine:
            line, at, thread = where
            raise Fault(
                f"{self._what}: {what.value.decode()}: {program.lines[line]!r} (instruction {line}) "
                f"in thread {thread} of block {at}"
            )


class PtxDevice:
    """See `plugin_accel.backends.cuda_device.Device`.

    Attributes:
        watch: Within it kernels can be launched.
        blocks: Which of the blocks of a grid run; all of them, unless a test sets it otherwise.
        options: Of the compiler, other than the product's.
    """

    type = "cpu"

    def __init__(self, folder: Path, arch: str = "compute_90", threads: int = 1 << 20, **options: object) -> None:
        self.library = machine(folder)
        self.watch = Watch(self.library)
        self.arch, self.fill, self.options = arch, threads, options
        self.blocks: Callable[[int], Sequence[int]] = range
        self.launches = 0
        self.loaded: list[Source] = []

    def unavailable(self) -> str | None:
        return None

    def refuses(self, device: torch.device) -> str | None:
        return None

    def holds_data(self, device: torch.device) -> bool:
        return True

    def details(self) -> str:
        return "PTX, on the host"

    def threads(self, index: int) -> int:
        return self.fill

    def load(self, source: Source, index: int) -> Loaded:
        self.loaded.append(source)
        return self.text(source.body, source.text(source.blocks))

    def program(
        self, launches: Sequence[tuple[Launch, Where]], memories: tuple[Memory, ...], index: int
    ) -> cuda_device.Program:
        return program(launches, memories)

    def text(self, what: str, text: str) -> Loaded:
        """What `load` makes, of any source with one kernel.

        Raises:
            Fault: it has instructions that a kernel must not have.
        """
        (entry,) = programs(ptx(text, self.arch, **self.options))
        found = forbidden(entry)
        if found:
            raise Fault(f"{what}: {len(found)} instructions that a kernel must not have: {found[:3]}")
        return _Loaded(self, what, entry)
