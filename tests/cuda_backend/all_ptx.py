"""Runs every kernel of every step as PTX on the host, against the `cpu` backend, without a GPU.

    python -m tests.cuda_backend.all_ptx [--architectures compute_90 ...] [--only norse_lif]

Kernels are those that calls ask for: all dtypes, one and several columns per thread, without gradients of parameters,
with those of the first two, with all, and each way in which backward has again what was not kept. What differs, and
what `ptx_device.Fault` says, is printed; the exit status counts it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from plugin_accel import _C
from plugin_accel.backends import cuda_step
from plugin_accel.backends.cuda import CudaBackend
from plugin_accel.neurons import SINABS_LIF, Config, Neuron, SinabsConfig

from .cases import SURROGATES, Case
from .kernel_table import BF16, F16, F32, F64, steps
from .ptx_device import PtxDevice
from .test_emulated import compare

ARCHITECTURES = ("compute_90", "compute_100")
"""NVRTC has one compiler up to sm_90 and another from sm_100 on."""

NARROW = ((3, 19, 31), (1, 85, 9))
WIDE = ((2, 21, 32), (1, 45, 8), (1, 85, 132))


def every() -> Iterator[tuple[Neuron, Config]]:
    """The steps, and one with every surrogate."""
    yield from steps()
    for surrogate in SURROGATES:
        yield SINABS_LIF, SinabsConfig(surrogate=surrogate)


class Variant(NamedTuple):
    """Between them they ask for every kernel of a step.

    Attributes:
        wide: Several columns per thread.
        learn: Gradients of parameters.
        record: Membranes and states are recorded; else the input alone is kept of what is read or of 16 bits, and of
            sequences of few steps, as if they were large.
    """

    config: Config
    dtype: torch.dtype
    wide: bool
    learn: bool | tuple[str, ...]
    record: bool


def variants(neuron: Neuron, config: Config) -> Iterator[Variant]:
    """Of a step."""
    few = tuple(neuron.params(config)[:2])
    bounded = dataclasses.replace(config, clamp=True) if isinstance(config, SinabsConfig) else config
    for dtype, wide, record in product((F32, F16, BF16, F64), (False, True), (True, False)):
        if wide and dtype is F64:
            continue
        yield Variant(config, dtype, wide, False, record)
        yield Variant(config, dtype, wide, few, record)
        yield Variant(bounded, dtype, wide, True, record)


def check(device: PtxDevice, backend: CudaBackend, neuron: Neuron, of: Variant) -> None:
    """One variant on all sizes.

    Raises:
        AssertionError: numbers differ.
        Fault: a kernel did what no GPU would let pass.
    """
    device.fill = 1 if of.wide else 1 << 20
    for outer, steps_, inner in WIDE if of.wide else NARROW:
        shape = (outer, steps_, inner) if of.config.time_dim else (steps_, outer, inner)
        x = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1.5 + 0.3).to(of.dtype)
        with device.watch(), mock.patch.object(cuda_step, "LARGE", 0):
            real = F64 if of.dtype is F64 else F32
            case = Case(neuron.name, neuron, of.config)
            compare(backend, case, (outer, steps_, inner), x=x, dtype=real, learn=of.learn, record=of.record)


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
