"""The kernels compile for every architecture without a GPU, and none keeps registers in memory.

`make kernels` compiles all of them for all architectures and writes down what each needs; here are the heaviest of
every step, and a sample.
"""

from __future__ import annotations

import pytest

from plugin_accel.backends import cuda_compile
from plugin_accel.backends.cuda import NEURONS
from plugin_accel.errors import BackendError
from plugin_accel.neurons import ALL

from .cases import CASES
from .kernel_table import ARCHITECTURES, heaviest, kernels, needs_of, steps

MISSING = cuda_compile.missing()

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

STEPS = list(steps())


def _name(neuron: object, config: object) -> str:
    return f"{getattr(neuron, 'name', '')} {getattr(config, 'packed_variant', '')}"


@pytest.mark.parametrize("neuron, config", STEPS, ids=[_name(*s) for s in STEPS])
def test_no_step_spills(neuron: object, config: object) -> None:
    found = needs_of(heaviest(neuron, config), "sm_90")  # type: ignore[arg-type]
    assert found.spilled == found.stack == 0, found


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architectures(arch: str) -> None:
    case = CASES[ARCHITECTURES.index(arch)]
    sample = [k for k in kernels(case.neuron, case.config) if "<Step, float, float" in k.body or "Bfloat" in k.body]
    for source in (sample[0], sample[1], sample[len(sample) // 2], sample[-1]):
        found = needs_of(source, arch)
        assert found.spilled == found.stack == 0, found


def test_every_neuron_has_a_step() -> None:
    assert set(ALL) >= NEURONS
    missing = set(ALL) - NEURONS
    assert not missing, f"{missing}: expected a line each in csrc/cuda/steps.h, backends/cuda.py and kernel_table.py"
    assert {n.name for n, _ in STEPS} == NEURONS


def test_a_kernel_that_does_not_compile_says_where() -> None:
    source = heaviest(*STEPS[0])
    with pytest.raises(BackendError, match="expected to compile for sm_1"):
        cuda_compile.compile_source(source, "sm_1")
