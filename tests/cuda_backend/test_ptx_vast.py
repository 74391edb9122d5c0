"""More elements than 32 bits count, without the memory: tensors of pages that nobody has touched, and a few blocks.

The kernels' PTX runs as on any tensor (see test_ptx.py). The columns of the blocks that run are compared with the `cpu`
backend on these columns alone.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plugin_accel.backends import Backend, cpu, cuda_compile
from plugin_accel.backends.cuda import CudaBackend
from plugin_accel.neurons import Incoming, Saved, Wanted

from .cases import CASES, LIF, Case
from .comparison import VALUES
from .emulated import COMPILER
from .ptx_device import Fault, PtxDevice
from .test_ptx_faults import SOUND, changed, launch

MISSING = cuda_compile.missing() or (None if COMPILER else "no C++ compiler")
if MISSING is None and (
    not sys.platform.startswith("linux") or Path("/proc/sys/vm/overcommit_memory").read_text()[0] == "2"
):
    MISSING = "memory cannot be asked for and not used here"

pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.usefixtures("baseline")]

MAP_NORESERVE = 0x4000


def vast(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros, whose pages cost memory once they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    try:
        held = mmap.mmap(-1, prod(shape) * dtype.itemsize, flags=flags)
    except OSError as error:
        pytest.skip(f"addresses alone are too many here: {error}")
    return torch.frombuffer(held, dtype=dtype).view(*shape)


@pytest.fixture(autouse=True)
def vast_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What kernels write and torch could not allocate."""
    make = torch.empty_strided

    def empty_strided(shape: Sequence[int], strides: Sequence[int], **options: Any) -> Tensor:
        if prod(shape) < 1 << 28:
            return make(shape, strides, **options)
        made = vast(shape, options["dtype"])
        assert made.stride() == tuple(strides)
        return made

    monkeypatch.setattr(torch, "empty_strided", empty_strided)


def results(
    backend: Backend,
    case: Case,
    x: Tensor,
    first: list[Tensor],
    params: list[Tensor],
    g: Tensor,
    learn: bool,
    alone: bool = False,
) -> Any:
    """Forward with a record, and backward, without autograd; `alone`: the input is all that backward is given."""
    neuron, config = case.neuron, case.config
    made = backend.forward(neuron, config, x, first, params, keep=True, record=True)
    assert made.kept is not None
    names = neuron.params(config)
    wanted = Wanted(True, (True,) * len(first), (learn,) * len(names))
    reads = alone or neuron.replays(config) or neuron.reads_input(config, [learn] * len(names))
    saved = Saved(x if reads else None, None if alone else made.kept, tuple(first), tuple(params))
    incoming = Incoming(g, None, made.last, made.kept, ())
    grads = backend.backward(neuron, config, saved, incoming, wanted, None)
    return [made.out, made.kept, *made.records, grads.x], [*made.last, *grads.first, *grads.params]


WHERE = {
    # columns that 32 bits do not count; less, but more elements; and with several samples, in between
    "columns": (1, 3, (1 << 32) + 260),
    "elements": (2, 40, 1 << 28),
    "samples": (3, 9, (1 << 30) + 4),
}


def columns_of(sizes: tuple[int, int, int], width: int) -> Tensor:
    """All columns of the first, some, and the last block."""
    outer, time, inner = sizes
    columns, per = outer * inner, 128 * width
    passed = [1 << 31, 1 << 32, (1 << 31) // time, (1 << 32) // time, inner, columns // 2]
    blocks = {0, (columns - 1) // per} | {c // per for c in passed if c < columns}
    return torch.cat([torch.arange(b * per, min((b + 1) * per, columns)) for b in sorted(blocks)])


@pytest.mark.parametrize("sizes", WHERE.values(), ids=WHERE)
@pytest.mark.parametrize(
    ("case", "widths", "learn", "alone"),
    [
        (LIF, {4}, False, False),
        (LIF, {4, 2}, False, True),
        (CASES[1], {1}, True, False),
        (CASES[1], {1}, True, True),
        (CASES[6], {1}, True, False),
        (CASES[15], {1}, False, False),
    ],
    ids=["four columns", "on the chip", "parameters per column", "from the input", "steps first", "replayed"],
)
def test_vast_tensors(
    case: Case, widths: set[int], learn: bool, alone: bool, sizes: tuple[int, int, int], folder: Path
) -> None:
    outer, time, inner = sizes
    if case.config.time_dim == 0:
        outer, inner = 1, outer * inner
    arch = ("compute_90", "compute_100")[list(WHERE.values()).index(sizes) % 2]
    device = PtxDevice(folder, arch, threads=1 if 4 in widths else outer * inner // 3)
    compare(device, case, (outer, time, inner), widths, learn, alone)


def compare(
    device: PtxDevice, case: Case, sizes: tuple[int, int, int], widths: set[int], learn: bool, alone: bool = False
) -> None:
    neuron, config = case.neuron, case.config
    outer, time, inner = sizes
    time_first = config.time_dim == 0
    chosen = columns_of(sizes, max(widths))
    o, i = chosen // inner, chosen % inner
    generator = torch.Generator().manual_seed(3)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def placed(small: Tensor) -> Tensor:
        """[time, columns] or [columns] within zeros."""
        if small.dim() == 1:
            held = vast((inner,) if time_first else (outer, inner))
            held.view(-1)[chosen] = small
            return held
        held = vast((time, inner) if time_first else (outer, time, inner))
        held.view(outer, time, inner)[o, :, i] = small.T
        return held

    def found(t: Tensor) -> Tensor:
        if t.numel() == outer * inner:
            return t.view(-1)[chosen]
        return t.view(outer, time, inner)[o, :, i].T

    def parameter(name: str) -> Tensor:
        low, high = VALUES[name]
        return torch.rand(len(chosen) if learn else (), generator=generator) * (high - low) + low

    x, g = values(time, len(chosen)) * 1.5 + 0.3, values(time, len(chosen))
    first = [values(len(chosen)) for _ in neuron.states(config)]
    params = [parameter(n) for n in neuron.params(config)]
    own = (lambda t: t) if time_first else (lambda t: t.unsqueeze(0))
    wanted = results(
        cpu.BACKEND, case, own(x), [own(s) for s in first], [own(p) if learn else p for p in params], own(g), learn
    )

    def blocks(grid: int) -> Sequence[int]:
        if grid == 1:
            return ()  # the mean's second pass, which would read what all blocks leave
        (per,) = (128 * w for w in (1, 2, 4) if grid == -(-outer * inner // (128 * w)))
        return sorted({int(c) // per for c in chosen})

    device.blocks = blocks
    with device.watch():
        backend = CudaBackend(device)
        got = results(
            backend,
            case,
            placed(x),
            [placed(s) for s in first],
            [placed(p) if learn else p for p in params],
            placed(g),
            learn,
            alone,
        )
        for those, others in zip(got, wanted, strict=True):
            for a, b in zip(those, others, strict=True):
                if b is not None:
                    torch.testing.assert_close(found(a), b.view(found(a).shape), rtol=0, atol=0)
    assert {s.width for s in device.loaded if hasattr(s, "width")} == widths


def test_offsets_of_32_bits_are_found(folder: Path, tmp_path: Path) -> None:
    old, new = (
        "(static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V",
        "(blockIdx.x * blockDim.x + threadIdx.x) * V",
    )
    device = PtxDevice(folder, "compute_90", threads=1 << 31, include_path=changed(tmp_path, "cuda/io.h", old, new))
    with pytest.raises(Fault, match="a second thread"):
        compare(device, CASES[6], WHERE["columns"], {1}, False)


def test_another_offset_of_32_bits(folder: Path) -> None:
    device = PtxDevice(folder, "compute_100")
    n = (1 << 32) + 64
    device.blocks = lambda grid: [0, grid - 1]
    with device.watch():
        x = vast((n,))
        x[-64:] = torch.randn(64)
        assert launch(device, SOUND["a copy"], x)[-64:].equal(x[-64:])
        with pytest.raises(Fault, match="a second thread"):
            launch(device, "const int k = static_cast<int>(i / 2); if (i < n) y[k * 2] = x[k * 2];", x)
