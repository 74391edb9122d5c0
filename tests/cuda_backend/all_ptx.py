"""Runs every kernel of every step as PTX on the host, against the `cpu` backend, without a GPU.

    python -m tests.cuda_backend.all_ptx [--architectures compute_90 ...] [--only norse_lif]

Kernels are those of `kernel_table`: all dtypes, one and four columns per thread, without gradients of parameters, with
those of the first two, with all. What differs, and what `ptx_device.Fault` says, is printed; the exit status counts it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from plugin_accel import _C
from plugin_accel.backends import cpu
from plugin_accel.backends.cuda import CudaBackend
from plugin_accel.neurons import SINABS_LIF, Config, Neuron, SinabsConfig

from .cases import SURROGATES, Case
from .comparison import assert_same, param, results
from .kernel_table import BF16, F16, F32, F64, steps
from .ptx_device import PtxDevice
from .test_emulated import compare

ARCHITECTURES = ("compute_90", "compute_100")
"""NVRTC has one compiler up to sm_90 and another from sm_100 on."""

NARROW = ((3, 19, 31), (2, 8, 8))
WIDE = ((2, 21, 32), (1, 34, 132))


def every() -> Iterator[tuple[Neuron, Config]]:
    """The steps, and one with every surrogate."""
    yield from steps()
    for surrogate in SURROGATES:
        yield SINABS_LIF, SinabsConfig(surrogate=surrogate)


def compare_low(
    backend: CudaBackend, case: Case, size: tuple[int, int, int], low: torch.dtype, learn: bool | tuple[str, ...] = True
) -> None:
    """With an input of 16 bits: what the `cpu` backend makes of it in fp32, its gradient rounded once."""
    outer, time_, inner = size
    torch.manual_seed(outer * 1000 + time_ * 10 + inner)
    neuron, config = case.neuron, case.config
    shape, batch, inside = size, [outer], [inner]
    if not config.time_dim:
        shape, batch, inside = (time_, outer, inner), [], [outer, inner]
    x = (torch.randn(shape) * 1.5 + 0.3).to(low)
    first = [torch.randn(*batch, *inside) for _ in neuron.states(config)]
    first = [s.abs() if n == "b" else s for n, s in zip(neuron.states(config), first, strict=True)]
    params = [param(n, None, batch, inside, F32) for n in neuron.params(config)]
    options: dict[str, Any] = {"record": True, "learn": learn, "summed": False}
    wanted = results(neuron, cpu.BACKEND, config, x.float(), first, params, **options)
    got = results(neuron, backend, config, x, first, params, **options)
    if wanted["g x"] is not None:
        wanted["g x"] = wanted["g x"].to(low)
    assert_same(got, wanted, [f"g {n}" for n in neuron.params(config)] + ["mean"] * (config.surrogate is None))


def variants(neuron: Neuron, config: Config) -> Iterator[tuple[Config, torch.dtype, bool, bool | tuple[str, ...]]]:
    """(options, dtype of the input, four columns per thread, gradients of parameters) of every kernel of a step."""
    few = neuron.params(config)[:2]
    bounded = dataclasses.replace(config, clamp=True) if isinstance(config, SinabsConfig) else config
    for dtype in (F32, F16, BF16, F64):
        for wide in (False, True) if dtype is not F64 else (False,):
            for options, learn in ((config, False), (config, tuple(few)), (bounded, True)):
                yield options, dtype, wide, learn


def check(device: PtxDevice, backend: CudaBackend, neuron: Neuron, variant: Any) -> None:
    """One variant on all sizes.

    Raises:
        AssertionError: numbers differ.
        Fault: a kernel did what no GPU would let pass.
    """
    config, dtype, wide, learn = variant
    case = Case(neuron.name, neuron, config)
    device.fill = 1 if wide else 1 << 20
    for size in WIDE if wide else NARROW:
        with device.watch():
            if dtype in (F32, F64):
                compare(backend, case, size, dtype=dtype, learn=learn)
            else:
                compare_low(backend, case, size, dtype, learn)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--only", default="", help="neurons whose name contains this")
    options = parser.parse_args()
    _C.set_isa("baseline")
    failed, start, folder = 0, time.monotonic(), Path(tempfile.mkdtemp())
    for arch in options.architectures:
        for neuron, config in every():
            if options.only not in neuron.name:
                continue
            device = PtxDevice(folder, arch)
            backend = CudaBackend(device)
            for variant in variants(neuron, config):
                try:
                    check(device, backend, neuron, variant)
                except Exception as error:
                    failed += 1
                    print(f"{arch} {neuron.name} {variant}: {error}", flush=True)
            print(
                f"{arch} {neuron.name} {config.packed_variant}: {len(device.loaded)} kernels, "
                f"{device.launches} launches, {time.monotonic() - start:.0f} s",
                flush=True,
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
