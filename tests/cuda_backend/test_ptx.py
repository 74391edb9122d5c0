"""What NVRTC makes of the kernels, run on the host and watched: the numbers of the `cpu` backend, and no faults.

Bit for bit: exponentials are the kernels' own (csrc/math.h), so that nothing of PTX's approximate instructions is among
what NVRTC makes, and everything is IEEE's. `make ptx` runs all kernels; here is a sample of every neuron.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plugin_accel import plugins
from plugin_accel.backends import cpu, cuda_compile, cuda_step
from plugin_accel.backends.cuda import CudaBackend
from plugin_accel.backends.cuda_source import FROM_INPUT, FROM_KEPT, NO_REPLAY, ON_CHIP, Backward
from plugin_accel.layers.egru_call import Inputs
from plugin_accel.neurons.layout import STEP
from plugin_accel.surrogates import Surrogate

from .all_ptx import ARCHITECTURES
from .cases import CASES, LIF, SURROGATES, Case
from .comparison import BOTH, INNER, OUTER, assert_same, param, results
from .egru_shared import CASES as EGRU
from .egru_shared import RESULTS, case, differentiate
from .emulated import COMPILER, EmulatedDevice
from .fake import Plugin
from .kernel_table import ARCHITECTURES as EVERY
from .kernel_table import heaviest, kernels, steps
from .ptx import forbidden, programs, ptx
from .ptx_device import PtxDevice
from .test_emulated import compare

MISSING = cuda_compile.missing() or (None if COMPILER else "no C++ compiler")

pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.usefixtures("baseline")]

SIZES = [(3, 37, 31), (1, 7, 1), (2, 0, 5), (70, 9, 2), (0, 4, 3), (2, 32, 8)]
WIDE = [(2, 37, 32), (1, 4, 4), (1, 9, 130)]


@pytest.fixture(params=ARCHITECTURES)
def device(request: pytest.FixtureRequest, folder: Path) -> Iterator[PtxDevice]:
    """Of both of NVRTC's compilers."""
    made = PtxDevice(folder, request.param)
    with made.watch():
        yield made


@pytest.mark.parametrize("number", range(len(CASES)), ids=[c.name for c in CASES])
def test_every_neuron(number: int, folder: Path) -> None:
    """One column per thread by one compiler, four by the other, and in turns."""
    for wide, sizes in enumerate((SIZES, WIDE)):
        device = PtxDevice(folder, ARCHITECTURES[(number + wide) % 2], threads=1 if wide else 1 << 20)
        backend = CudaBackend(device)
        for size in sizes:
            if size[1] or CASES[number].config.time_dim:
                with device.watch():
                    compare(backend, CASES[number], size, learn=not wide)
    assert device.launches


@pytest.mark.parametrize("per", [OUTER, INNER, BOTH])
def test_parameters_that_vary(device: PtxDevice, per: str) -> None:
    for size in ((3, 11, 5), (40, 3, 3)):
        compare(CudaBackend(device), CASES[1], size, per=per)


def test_strides(device: PtxDevice) -> None:
    """What lies between the elements of a view is not touched; memory that is not aligned is read one by one."""
    device.fill = 1
    backend = CudaBackend(device)
    for x in (
        torch.randn(2, 5, 10)[:, :, :8],
        torch.randn(2 * 5 * 8 + 1)[1:].view(2, 5, 8),
        torch.randn(2, 8, 5).transpose(1, 2),
        torch.randn(2, 1, 8).expand(2, 5, 8),
    ):
        compare(backend, LIF, (2, 5, 8), x=x)


def test_double(device: PtxDevice) -> None:
    for of in (CASES[2], CASES[5], CASES[8]):
        compare(CudaBackend(device), of, (3, 37, 31), dtype=torch.float64)


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_input_of_16_bits(device: PtxDevice, low: torch.dtype) -> None:
    """With the membranes kept, had again on the chip, and had again from states in scratch memory."""
    backend = CudaBackend(device)
    for of, threads in ((LIF, 1), (CASES[1], 1 << 20), (CASES[6], 1)):
        device.fill = threads
        for size, learn, record in (((3, 19, 16), True, True), ((2, 21, 8), False, False), ((1, 85, 8), True, False)):
            shape = size if of.config.time_dim else (size[1], size[0], size[2])
            compare(backend, of, size, x=torch.randn(shape).mul(1.5).to(low), learn=learn, record=record)
    assert {s.replay for s in device.loaded if isinstance(s, Backward)} == {NO_REPLAY, FROM_KEPT, FROM_INPUT, ON_CHIP}


@pytest.mark.parametrize("time", [1, 40, 41, 80])
def test_large_sequences_of_few_steps(time: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left in shared memory is read by the thread that wrote it, and fits."""
    monkeypatch.setattr(cuda_step, "LARGE", 0)
    device = PtxDevice(folder, ARCHITECTURES[time % 2], threads=1)
    with device.watch():
        compare(CudaBackend(device), LIF, (2, time, 64), learn=False, record=False)
    (back,) = (s for s in device.loaded if isinstance(s, Backward))
    assert (back.replay, back.width) == (ON_CHIP, 2 if time <= 40 else 1)


def _with(surrogate: Surrogate | None) -> Case:
    return LIF._replace(config=dataclasses.replace(LIF.config, surrogate=surrogate))  # type: ignore[type-var]


def test_every_surrogate(folder: Path) -> None:
    for number, surrogate in enumerate(SURROGATES):
        device = PtxDevice(folder, ARCHITECTURES[number % 2])
        with device.watch():
            compare(CudaBackend(device), _with(surrogate), (2, 21, 16), learn=False)


def test_any_callable_as_surrogate(device: PtxDevice) -> None:
    def slope(v: Tensor, threshold: Tensor) -> Tensor:
        return torch.exp(-((v - threshold) ** 2))

    compare(CudaBackend(device), _with(None), (2, 21, 6), surrogate_fn=slope, learn=("gain_mem",))


def test_single_steps(device: PtxDevice) -> None:
    """As recurrent layers take them, with what comes back from the step before."""
    recurrent = dataclasses.replace(CASES[6].config, recurrent=True)  # type: ignore[type-var]
    for of in (LIF, CASES[6]._replace(config=recurrent)):
        neuron, config = of.neuron, dataclasses.replace(of.config, time_dim=STEP)  # type: ignore[type-var]
        x, first = torch.randn(7, 5), [torch.randn(7, 5) for _ in neuron.states(config)]
        params = [param(n, BOTH if n == "recurrent" else None, (7,), (5,), x.dtype) for n in neuron.params(config)]
        wanted, got = (
            results(neuron, backend, config, x, first, params, record=False, learn=True, summed=False)
            for backend in (cpu.BACKEND, CudaBackend(device))
        )
        assert_same(got, wanted, [f"g {n}" for n, p in zip(neuron.params(config), params, strict=True) if not p.dim()])


@contextmanager
def _named(name: str, device: Any) -> Iterator[str]:
    """A backend that layers can ask for."""
    backend = CudaBackend(device)
    backend.name = name
    plugin = Plugin(backend)
    plugins.manager().register(plugin)
    try:
        yield name
    finally:
        plugins.manager().unregister(plugin)


@pytest.mark.parametrize("options", EGRU.values(), ids=EGRU)
def test_egru(device: PtxDevice, options: dict[str, Any]) -> None:
    inputs, rest = case(9, 5, 1, 50, **options)
    want, want_grads = differentiate(inputs, rest, "reference")
    with _named("ptx", device) as name:
        got, grads = differentiate(inputs, rest, name)
    assert device.launches
    assert got.o.equal(want.o)
    for field in RESULTS:
        torch.testing.assert_close(getattr(got, field), getattr(want, field), rtol=1e-11, atol=1e-12)
    for field, g, w in zip(Inputs._fields, grads, want_grads, strict=True):
        assert float((g - w).abs().max() / w.abs().max()) < 1e-10, field


def test_egru_in_fp32_is_what_the_sources_say(device: PtxDevice, folder: Path) -> None:
    """Against the kernels' sources compiled by g++, whose numbers test_egru.py has: bit for bit."""
    inputs, rest = case(9, 5, 4, 50, dtype=torch.float32, zoneout=0.2, lengths=[9, 1, 4, 7, 9])
    with _named("ptx", device) as name, _named("sources", EmulatedDevice(folder)) as sources:
        (got, grads), (want, want_grads) = (differentiate(inputs, rest, backend) for backend in (name, sources))
    assert device.launches >= 2 * 9
    for g, w in zip((*got[:7], *grads), (*want[:7], *want_grads), strict=True):
        assert g.equal(w)


def test_one_program_for_many_architectures() -> None:
    """What ran here is what the others are given, too: the same text but for the name of the target."""
    for source in (heaviest(LIF.neuron, LIF.config), list(kernels(CASES[11].neuron, CASES[11].config))[11]):
        made: dict[bool, set[str]] = {}
        for arch in EVERY:
            text = ptx(source.text(source.blocks), arch.replace("sm", "compute"))
            assert f".target {arch}" in text
            made.setdefault(int(arch[3:]) >= 100, set()).add(text.replace(arch, ""))
        assert [len(texts) for texts in made.values()] == [1, 1]


def test_nothing_that_rounds_otherwise() -> None:
    """Of a sample of the steps: nothing fused, approximate or flushed to zero, no atomics, no local memory."""
    for number, step in enumerate(list(steps())[::4]):
        source = heaviest(*step)
        (program,) = programs(ptx(source.text(source.blocks), ARCHITECTURES[number % 2]))
        assert len(program.lines) > 300
        assert not forbidden(program), source
