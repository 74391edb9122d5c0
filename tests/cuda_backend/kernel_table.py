"""Every kernel that a call can ask for, and what the compiler says about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch

from plugin_accel.backends.cuda_compile import compile_source
from plugin_accel.backends.cuda_run import static
from plugin_accel.backends.cuda_source import (
    FROM_INPUT,
    FROM_KEPT,
    KERNEL,
    NO_REPLAY,
    ON_CHIP,
    ROOM,
    Backward,
    Egru,
    Forward,
    Reduce,
    Source,
    columns_of,
)
from plugin_accel.neurons import (
    ALL,
    SINABS_ALIF,
    SINABS_LIF,
    SNNTORCH_ALPHA,
    SNNTORCH_DELTA,
    SNNTORCH_LAPICQUE,
    SNNTORCH_LEAKY,
    SNNTORCH_PARALLEL,
    SNNTORCH_SYNAPTIC,
    Config,
    Neuron,
    NorseConfig,
    SinabsConfig,
    SnnTorchConfig,
)
from plugin_accel.neurons.norse_config import KINDS
from plugin_accel.surrogates import Surrogate

from .cases import ATAN, EXPONENTIAL, SUPER_SPIKE, SURROGATES

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


def steps() -> Iterator[tuple[Neuron, Config]]:
    """Every neuron with every combination of its options that has a step."""
    for neuron in (SINABS_LIF, SINABS_ALIF):
        for synapse in (False, True):
            for spike in ("single", "multi"):
                for reset in ("subtract_threshold", "subtract", "value"):
                    yield neuron, SinabsConfig(synapse=synapse, spike=spike, reset=reset, surrogate=EXPONENTIAL)
    yield SINABS_LIF, SinabsConfig(spike="none")
    both, later = (True, False), (True,)
    for neuron, resets, delays in (
        (SNNTORCH_LEAKY, ("subtract", "zero", "zero_after"), both),
        (SNNTORCH_LAPICQUE, ("subtract", "zero_after"), later),
        (SNNTORCH_SYNAPTIC, ("subtract", "zero_after"), both),
        (SNNTORCH_ALPHA, ("subtract", "zero_after"), later),
    ):
        for reset in resets:
            for delay in delays:
                yield neuron, SnnTorchConfig(reset=reset, delay=delay, surrogate=ATAN)
        yield neuron, SnnTorchConfig(reset="none", surrogate=ATAN)
    yield SNNTORCH_PARALLEL, SnnTorchConfig(reset="none", surrogate=ATAN)
    yield SNNTORCH_DELTA, SnnTorchConfig(reset="none", surrogate=ATAN)
    for name, kinds in KINDS.items():
        for kind in kinds:
            spikes = kind not in ("li", "li_box")
            yield ALL[name], NorseConfig(kind=kind, surrogate=SUPER_SPIKE if spikes else None)


def kernels(neuron: Neuron, config: Config, surrogate: Surrogate | None = None) -> Iterator[Source]:
    """The kernels of one step: dtypes, columns per thread, no gradients of parameters, those of the decays, all.

    fp32 has all combinations, the other dtypes those which need most: most of what they have is the same.
    """
    name = None if config.surrogate is None else (surrogate or config.surrogate).name
    present = [i for i, p in enumerate(neuron.kernel_params) if p in neuron.params(config) or p == "min_v_mem"]
    present = [i for i in present if neuron.kernel_params[i] not in neuron.summed_inputs]
    few, every = sum(1 << i for i in present[:2]), sum(1 << i for i in present)
    for dtype, x in ((F32, F32), (F32, F16), (F32, BF16), (F64, F64)):
        fixed = static(neuron, config, dtype)
        if surrogate is None:
            for width in (1,) if x is F64 else (1, 4) if x is F32 else (4,):
                yield Forward(fixed.step, x, fixed.out, width == 1, width == 1, width)
        for mask in (0, few, every) if x in (F32, F16) else (0, every) if x is F64 else (every,):
            wanted = [bool(mask >> i & 1) for i, p in enumerate(neuron.kernel_params) if p in neuron.params(config)]
            reads = neuron.replays(config) or neuron.reads_input(config, wanted)
            ways = [FROM_KEPT if reads else NO_REPLAY, *([FROM_INPUT] if reads or x.itemsize == 2 else [])]
            if x in (F32, F16) and not neuron.replays(config) and (not mask or fixed.step.states == 1):
                for width in (1, 2):  # the membrane says all that backward needs
                    yield Backward(
                        fixed.step, x, fixed.out, width, name, mask, mask == every, False, ON_CHIP, ROOM // width
                    )
            for replay in ways if x in (F32, F64) else ways[-1:]:
                seldom = mask == every and x is not F16
                most = columns_of(replay, x, fixed.step.states, seldom)
                for width in (1, most) if most > 1 and x is F32 else (most,):
                    yield Backward(fixed.step, x, fixed.out, width, name, mask, mask == every, seldom, replay)


def others() -> Iterator[Source]:
    """Second passes, layers, and the surrogates that are no step's default."""
    for kind in ("rows", "columns"):
        for to in (F32, F64):
            yield Reduce(None, kind, to)
    for way in ("forward", "backward"):
        for fp64 in (False, True):
            yield Egru(None, way, fp64)
    for surrogate in SURROGATES:
        yield from kernels(SINABS_LIF, SinabsConfig(surrogate=EXPONENTIAL), surrogate)


def heaviest(neuron: Neuron, config: Config, dtype: torch.dtype = F32) -> Source:
    """The backward kernel of a step with all that it can be asked for at once."""
    return [k for k in kernels(neuron, config) if isinstance(k, Backward) and k.x is dtype][-1]


class Needs(NamedTuple):
    """What the assembler says that a kernel needs; bytes."""

    registers: int
    spilled: int
    stack: int
    ptxas_ms: float


_ENTRY = re.compile(r"Compiling entry function '(\w+)'")


def needs(log: str) -> dict[str, Needs]:
    """Of every kernel of a compilation, by name."""
    parts = _ENTRY.split(log)
    return {name: _needs(part) for name, part in zip(parts[1::2], parts[2::2], strict=True)}


def _needs(log: str) -> Needs:
    def number(pattern: str) -> float:
        found = re.search(pattern, log)
        assert found, f"no {pattern!r} in\n{log}"
        return float(found.group(1))

    spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    return Needs(
        int(number(r"Used (\d+) registers")),
        int(spilled),
        int(number(r"(\d+) bytes stack frame")),
        number(r"Compile time = ([\d.]+)"),
    )


def needs_of(source: Source, arch: str) -> Needs:
    """Of the kernel that a GPU of this architecture is given."""
    return needs(compile_source(source, arch).log)[KERNEL]
