"""Building with other compilers and options, and without a compiler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.packaging.conftest import Environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
needs_clang = pytest.mark.skipif(shutil.which("clang++") is None, reason="needs clang++ on PATH")
CLANG = {"CC": "clang", "CXX": "clang++"}

# Everything that is differentiable and every state, so that one flipped spike or reordered sum shows.
RUN_A_LAYER = """
import hashlib, json, torch
import sinabs.layers as sl
import plugin_accel, plugin_accel._C as library

def digest(*tensors):
    return hashlib.sha256(b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)).hexdigest()

results = {}
for name, make in {
    "LIF": lambda: sl.LIF(tau_mem=torch.linspace(5.0, 40.0, 33), tau_syn=7.0, min_v_mem=-0.5),
    "IAF": lambda: sl.IAF(),
    "ALIF": lambda: sl.ALIF(tau_mem=20.0, tau_adapt=30.0, tau_syn=5.0),
}.items():
    layer = plugin_accel.convert(make())
    x = torch.randn(3, 50, 33, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for _ in range(2):
        out = layer(x)
    out.square().sum().backward()
    gradients = [p.grad for p in layer.parameters() if p.grad is not None]
    results[name] = [digest(out), digest(*layer.buffers()), digest(x.grad, *gradients)]
print(json.dumps([library.__file__, library.openmp(), library.compiler(), results]))
"""


def test_without_a_compiler_the_message_says_what_to_install(tiny_sources: Path) -> None:
    missing = {"CC": str(tiny_sources / "no-cc"), "CXX": str(tiny_sources / "no-cxx")}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tiny_sources, env=os.environ | missing, capture_output=True, text=True)
    assert done.returncode != 0
    assert "expected a working C++17 compiler" in done.stderr
    assert missing["CXX"] in done.stderr
    for remedy in (
        "apt install g++",
        "dnf install gcc-c++",
        "xcode-select --install",
        "Visual Studio",
        "conda install",
    ):
        assert remedy in done.stderr
    assert "Traceback" not in done.stderr


class Facts(NamedTuple):
    """What the small library says of itself."""

    answer: int
    threads: int
    compiler: str


def load(library: Path) -> Facts:
    code = "import _C, json; print(json.dumps(_C.facts()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=library.parent, capture_output=True, text=True, check=True)
    return Facts(*json.loads(done.stdout))


@pytest.mark.parametrize(
    "compiler", [pytest.param({}, id="default"), pytest.param(CLANG, id="clang", marks=needs_clang)]
)
def test_openmp_is_used_where_it_works_and_can_be_turned_off(
    tiny_sources: Path, build_library: Callable[..., Path], compiler: dict[str, str]
) -> None:
    without = load(build_library(tiny_sources, "without", PLUGIN_ACCEL_OPENMP="0", **compiler))
    usual = load(build_library(tiny_sources, "usual", **compiler))
    assert without.threads == 0
    # A compiler without OpenMP is no error: that is what the probe is for.
    assert (usual.threads > 0) is has_openmp(compiler.get("CXX", "c++"), tiny_sources)
    if compiler:
        assert without.compiler == usual.compiler == "clang"


def has_openmp(compiler: str, folder: Path) -> bool:
    (folder / "probe.cpp").write_text("#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n")
    command = [compiler, "-fopenmp", "probe.cpp", "-o", "probe.out"]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


def test_a_changed_header_is_compiled_in(tiny_sources: Path, build_library: Callable[..., Path]) -> None:
    assert load(build_library(tiny_sources, "same")).answer == 1
    (tiny_sources / "csrc/answer.h").write_text("constexpr int kAnswer = 2;\n")
    assert load(build_library(tiny_sources, "same")).answer == 2


@needs_clang
@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_clang_takes_all_kernels(isa: str) -> None:
    command = ["clang++", "-fsyntax-only", "-std=c++17", "-fopenmp-simd", f"csrc/cpu/kernels_{isa}.cpp"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_clang
def test_clang_without_openmp_gives_the_same_numbers(
    sinabs_sources: Path, regular: Environment, build_library: Callable[..., Path], tmp_path: Path
) -> None:
    """The numbers depend neither on the compiler nor on how the work is spread over threads."""
    file, _, _, numbers = regular.ask(RUN_A_LAYER)
    library = build_library(sinabs_sources, "clang", PLUGIN_ACCEL_OPENMP="0", **CLANG)
    shutil.copytree(ROOT / "plugin_accel", tmp_path / "plugin_accel", ignore=shutil.ignore_patterns("_C.*.so"))
    shutil.copy(library, tmp_path / "plugin_accel" / library.name)
    other_file, openmp, compiler, other_numbers = regular.ask(RUN_A_LAYER, PYTHONPATH=str(tmp_path))
    assert other_file != file
    assert not openmp
    assert "clang" in compiler.lower()
    assert other_numbers == numbers
