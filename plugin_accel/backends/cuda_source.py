"""The source of one CUDA kernel: which step, surrogate, dtypes and parameters' gradients, as a few lines of C++."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import torch

from plugin_accel.errors import BackendError

BLOCK = 128
"""Threads of a block at most: kBlock in csrc/cuda/call.h."""

KERNEL = "plugin_accel_kernel"
"""Name of the entry in every compiled source."""

_TYPES = {torch.float32: "float", torch.float64: "double", torch.float16: "Half", torch.bfloat16: "Bfloat"}


@lru_cache(maxsize=1)
def folder() -> Path:
    """Where the kernels' headers are: within the installed package, or in the checkout of an editable install.

    Raises:
        BackendError: in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for found in (package / "csrc", package.parent / "csrc"):
        if (found / "cuda" / "driver.h").is_file():
            return found
    raise BackendError(
        f"CUDA kernels: expected their headers in {package / 'csrc'}, got none; install plugin-accel anew"
    )


@lru_cache(maxsize=1)
def include_paths() -> tuple[str, ...]:
    """Where the sources find their headers."""
    return (str(folder()), str(folder() / "cuda" / "std"))


@lru_cache(maxsize=1)
def headers_digest() -> str:
    """Of every header that a kernel may include, so that what was compiled from others is not taken from the cache."""
    found: dict[Path, bytes] = {}
    todo = [p for p in (folder() / "cuda").rglob("*") if p.is_file()]
    while todo:
        path = todo.pop()
        if path not in found:
            found[path] = path.read_bytes()
            named = (path.parent / name.decode() for name in _INCLUDE.findall(found[path]))
            todo += [p for p in (Path(os.path.normpath(p)) for p in named) if p.is_file()]
    digest = sha256()
    for path in sorted(found):
        digest.update(path.relative_to(folder()).as_posix().encode() + b"\0" + found[path] + b"\0")
    return digest.hexdigest()


_INCLUDE = re.compile(rb'#include "([^"]+)"')


@dataclass(frozen=True)
class Step:
    """The step header's template arguments, and what Python takes them to mean."""

    neuron: int
    options: tuple[int, int, int]
    fp64: bool
    states: int
    params: int

    @property
    def real(self) -> str:
        """The type that it computes in."""
        return "double" if self.fp64 else "float"

    @property
    def lines(self) -> str:
        """Its declaration."""
        options = ", ".join(str(o) for o in self.options)
        return (
            f"using Step = StepOf<{self.neuron}, {self.real}, {options}>;\n"
            f'static_assert(Step::kStates == {self.states} && Step::kParams == {self.params}, "as Python has them");\n'
        )


@dataclass(frozen=True)
class Source:
    """A kernel to compile: equal sources are one kernel."""

    step: Step | None

    @property
    def call(self) -> str:
        """Type of its argument."""
        raise NotImplementedError

    @property
    def body(self) -> str:
        """What it calls."""
        raise NotImplementedError

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor should have room for, which bounds the registers; fewer where they spill."""
        return 4

    @property
    def head(self) -> str:
        """What stands before the entry, after the header that stands for the device."""
        return '#include "cuda/driver.h"\n' + (self.step.lines if self.step else "")

    def entry(self, name: str, blocks: int) -> str:
        """The function that is launched."""
        return (
            f'extern "C" __global__ void __launch_bounds__(kBlock, {blocks})\n'
            f"{name}(const __grid_constant__ {self.call} call) {{ {self.body}(call); }}\n"
        )

    def text(self, blocks: int) -> str:
        """The source of the kernel alone."""
        return self.head + self.entry(KERNEL, blocks)


@dataclass(frozen=True)
class Forward(Source):
    """All steps forward; dtypes of input and output, whether states are bounded and recorded, columns per thread."""

    x: torch.dtype
    out: torch.dtype
    bounded: bool
    record: bool
    width: int

    @property
    def call(self) -> str:
        """See `Source`."""
        return "ForwardCall<Step>"

    @property
    def body(self) -> str:
        """See `Source`."""
        # steps whose input is on its way at once: more where a thread has little else to wait with
        ahead = 16 if self.width == 1 else 4
        flags = f"{self.bounded}, {self.record}".lower()
        return f"forward_columns<Step, {_TYPES[self.x]}, {_TYPES[self.out]}, {flags}, {self.width}, {ahead}>"


NO_REPLAY, FROM_KEPT, FROM_INPUT, ON_CHIP = range(4)
"""What backward runs forward again: Replay in csrc/cuda/backward.h."""

ROOM = 80
"""Steps of one column of fp32 whose membranes fit into shared memory: 40 of the 48 KiB that each block may have."""


def ahead(width: int, step: Step, replay: int) -> int:
    """Steps of a chunk of the backward kernels: what is replayed of a chunk stays in registers.

    Small layers have one column per thread: what takes a step 40 ns has to be asked for 16 steps before.
    """
    if replay:
        return 8 if not step.fp64 else 4 if step.states < 4 else 2
    return 4 if width > 1 else 8 if step.fp64 else 16


def columns_of(replay: int, x: torch.dtype, states: int, seldom: bool) -> int:
    """Columns that a thread takes back at once, where they lie side by side and are enough to fill the GPU."""
    if not replay:
        return 1 if x is torch.float64 else 4
    if replay == ON_CHIP:
        return 2
    # what is replayed fills the registers
    return 2 if replay == FROM_INPUT and x.itemsize == 2 and states <= 2 and not seldom else 1


@dataclass(frozen=True)
class Backward(Source):
    """All steps back.

    Attributes:
        surrogate: Its name in `plugin_accel.surrogates`; None where d spike / d v comes as a tensor, or nothing spikes.
        mask: Bit k: the gradient of the k-th parameter of the step header is wanted.
        seldom: Gradients come of the kept membrane or of records.
        replay: What runs forward again.
        steps: How many there are at most, where their membranes are left in shared memory.
    """

    x: torch.dtype
    out: torch.dtype
    width: int
    surrogate: str | None
    mask: int
    bounded: bool
    seldom: bool
    replay: int
    steps: int = 0

    @property
    def call(self) -> str:
        """See `Source`."""
        return "BackwardCall<Step>"

    @property
    def ahead(self) -> int:
        """Steps of a chunk."""
        assert self.step is not None
        return ahead(self.width, self.step, self.replay)

    @property
    def blocks(self) -> int:
        """See `Source`."""
        assert self.step is not None
        if self.replay == ON_CHIP:
            return 3 if self.mask else 4
        return 2 if self.step.fp64 or self.mask.bit_count() > 3 or (self.width == 2 and self.mask) else 3

    @property
    def body(self) -> str:
        """See `Source`."""
        surrogate = "".join(part.title() for part in self.surrogate.split("_")) if self.surrogate else "Precomputed"
        flags = f"{self.bounded}, {self.seldom}".lower()
        return (
            f"backward_columns<Step, {surrogate}, {_TYPES[self.x]}, {_TYPES[self.out]}, {self.mask}, {flags}, "
            f"{self.replay}, {self.width}, {self.ahead}, {self.steps}>"
        )


@dataclass(frozen=True)
class Reduce(Source):
    """Second pass of a sum: over "rows" or over "columns" of the view, into a dtype."""

    kind: str
    to: torch.dtype

    @property
    def call(self) -> str:
        """See `Source`."""
        return "ReduceCall"

    @property
    def body(self) -> str:
        """See `Source`."""
        return f"reduce_{self.kind}<{_TYPES[self.to]}>"


@dataclass(frozen=True)
class Egru(Source):
    """One step of EGRU, "forward" or "backward"."""

    way: str
    fp64: bool

    @property
    def head(self) -> str:
        """See `Source`."""
        return '#include "cuda/egru.h"\n'

    @property
    def call(self) -> str:
        """See `Source`."""
        return f"Egru{self.way.title()}Call"

    @property
    def body(self) -> str:
        """See `Source`."""
        return f"egru_{self.way}<{'double' if self.fp64 else 'float'}>"
