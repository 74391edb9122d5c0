"""The kernels compile for every architecture without a GPU, and none keeps registers in memory.

`make kernels` compiles all of them for all architectures and writes down what each needs; here are the heaviest of
every step, and a sample.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from plugin_accel.backends import cuda_compile
from plugin_accel.backends.cuda import NEURONS
from plugin_accel.backends.cuda_source import Backward
from plugin_accel.errors import BackendError
from plugin_accel.neurons import ALL

from .all_kernels import BEGIN, END, groups, insert, markdown, row, write
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


@pytest.mark.parametrize("name", ["sinabs_lif", "snntorch_synaptic", "norse_lif", "norse_coba"])
def test_what_replays_an_input_of_16_bits_does_not_spill(name: str) -> None:
    found = needs_of(heaviest(*[s for s in STEPS if s[0].name == name][-1], torch.float16), "sm_90")
    assert found.spilled == found.stack == 0, found


@pytest.mark.parametrize("name", ["sinabs_alif", "norse_adex", "norse_refrac"])
def test_what_replays_most_does_not_spill_in_double(name: str) -> None:
    step = [s for s in STEPS if s[0].name == name][-1]
    found = needs_of(heaviest(*step, torch.float64), "sm_90")
    assert found.spilled == found.stack == 0, found


def test_the_table_of_all_kernels(tmp_path: Path) -> None:
    """Kernels that are compiled together need what each needs alone; the table takes its place in a document."""
    every = groups()
    assert {n.name for n, _ in STEPS} | {"sums", "egru"} == {name.split()[0] for name in every}
    rows = [row(name, every[name], "sm_90") for name in ("sums", "norse_lif 1-0-0 fp64")]
    alone = [needs_of(k, "sm_90").registers for k in every["norse_lif 1-0-0 fp64"] if isinstance(k, Backward)]
    assert rows[1]["registers"]["backward"] == max(alone)
    assert [r["spilled"] for r in rows] == [0, 0]
    document = tmp_path / "document.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    insert(document, markdown(rows))
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| | kernels | sm_90 |\n|---|---|---|\n| sums | 4 | ")
    assert text.endswith(f"|\n{END}\nafter\n")
    write(tmp_path / "table.json", "a compiler", rows)
    assert json.loads((tmp_path / "table.json").read_text()) == {"compiler": "a compiler", "rows": rows}


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
