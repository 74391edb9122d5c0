"""Builds and installs the project as a user would, from copies of its sources and without a network.

Compiling the kernels takes most of the time of these tests, so one wheel serves them all; where only the build itself
is of interest, a library of a few lines takes the kernels' place.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
LIBRARY = "_C" + str(sysconfig.get_config_var("EXT_SUFFIX"))
SOURCES = ["pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md", "csrc", "plugin_accel", "namespaces"]

# Without pybind11, which alone takes seconds to compile.
TINY_LIBRARY = """\
#include <Python.h>
#include "answer.h"
#ifdef _OPENMP
#include <omp.h>
static int threads() { return omp_get_max_threads(); }
#else
static int threads() { return 0; }
#endif
#ifdef __clang__
static const char* kCompiler = "clang";
#else
static const char* kCompiler = "not clang";
#endif
static PyObject* facts(PyObject*, PyObject*) { return Py_BuildValue("[iis]", kAnswer, threads(), kCompiler); }
static PyMethodDef methods[] = {{"facts", facts, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods};
PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
"""

# One host's neurons in place of three: what is compared runs no others, and most of the time goes to them.
STUBS = {"norse_steps.h": "norse", "snntorch_steps.h": "snn"}


def run(*command: str | Path, cwd: Path | None = None, check: bool = True, **variables: str) -> str:
    """Runs a command as from a shell of its own and gives all it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert (done.returncode == 0) == check, done.stdout
    return done.stdout


def pip(*arguments: str | Path, cwd: Path | None = None, **variables: str) -> str:
    return run(sys.executable, "-m", "pip", *arguments, cwd=cwd, PIP_NO_INDEX="1", **variables)


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def site_packages(self) -> Path:
        return Path(self.run("import sysconfig; print(sysconfig.get_path('purelib'))").strip())

    def run(self, code: str, check: bool = True, **variables: str) -> str:
        """Runs code in a fresh interpreter, away from the sources."""
        return run(self.python, "-c", code, cwd=self.folder, check=check, **variables)

    def ask(self, code: str, **variables: str) -> Any:
        """Runs code whose last line prints JSON."""
        return json.loads(self.run(code, **variables).splitlines()[-1])

    def install(self, *arguments: str | Path) -> None:
        pip("--python", self.python, "install", "--no-deps", "--no-build-isolation", *arguments)

    def uninstall(self) -> None:
        pip("--python", self.python, "uninstall", "--yes", "plugin-accel")

    def see_dependencies(self) -> None:
        """Makes torch, the hosts and the rest of the running interpreter's packages importable here."""
        names = ("torch", "sinabs", "snntorch", "norse", "pluggy")
        homes = {Path(str(importlib.util.find_spec(name).origin)).parents[1] for name in names}  # type: ignore[union-attr]
        (self.site_packages / "dependencies.pth").write_text("\n".join(map(str, sorted(homes))))


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Environment]:
    """Makes an empty environment."""

    def make(name: str) -> Environment:
        folder = tmp_path_factory.mktemp(name)
        venv.create(folder, symlinks=os.name != "nt")
        return Environment(folder)

    return make


def copy_sources(target: Path) -> Path:
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd"))
        else:
            shutil.copy(ROOT / name, target / name)
    return target


def copy_with_tiny_library(target: Path) -> Path:
    copy_sources(target)
    shutil.rmtree(target / "csrc")
    (target / "csrc/cpu").mkdir(parents=True)
    (target / "csrc/answer.h").write_text("constexpr int kAnswer = 1;\n")
    (target / "csrc/cpu/bindings.cpp").write_text(TINY_LIBRARY)
    return target


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's sources, without what builds left there."""
    return copy_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture
def tiny_sources(tmp_path: Path) -> Path:
    """The project with a library of a few lines in place of the kernels."""
    return copy_with_tiny_library(tmp_path)


@pytest.fixture
def sinabs_sources(tmp_path: Path) -> Path:
    """The project with sinabs's kernels alone."""
    (tmp_path / "sources").mkdir()
    copied = copy_sources(tmp_path / "sources")
    for name, function in STUBS.items():
        stub = f"#pragma once\ntemplate <class R> const Kernels* {function}(const Variant&) {{ return nullptr; }}\n"
        assert f"* {function}(const Variant& v)" in (copied / "csrc/cpu" / name).read_text()
        (copied / "csrc/cpu" / name).write_text(stub)
    return copied


@pytest.fixture(scope="session")
def build_library() -> Callable[..., Path]:
    """Compiles the library of some sources, with environment variables, into a folder inside them."""

    def build(sources: Path, name: str, **variables: str) -> Path:
        arguments = ["--build-lib", sources / "build" / name, "--build-temp", sources / "build" / f"{name}.tmp"]
        run(sys.executable, "setup.py", "build_ext", *arguments, cwd=sources, **variables)
        return sources / "build" / name / "plugin_accel" / LIBRARY

    return build


@pytest.fixture(scope="session")
def sdist(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-c", f"import setuptools.build_meta as b; b.build_sdist({str(target)!r})", cwd=sources)
    return next(target.iterdir())


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist with torch out of reach: once, also when tests run in several processes."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    target = shared / "wheel"
    with FileLock(shared / "wheel.lock"):
        if not target.exists():
            no_torch, unfinished = shared / "no_torch", shared / "unfinished"
            no_torch.mkdir()
            (no_torch / "torch.py").write_text("raise ImportError('the build must do without torch')\n")
            pip("wheel", "--no-deps", "--no-build-isolation", "-w", unfinished, sdist, PYTHONPATH=str(no_torch))
            unfinished.rename(target)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="session")
def regular(new_environment: Callable[[str], Environment], wheel: Path) -> Environment:
    """An environment with the wheel installed."""
    environment = new_environment("regular")
    environment.see_dependencies()
    environment.install(wheel)
    return environment


@pytest.fixture(scope="session")
def editable(
    new_environment: Callable[[str], Environment], regular: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """An environment with an editable install, which gets its kernels from the wheel to save compiling them again."""
    folder = copy_with_tiny_library(tmp_path_factory.mktemp("editable_sources"))
    environment = new_environment("editable")
    environment.see_dependencies()
    environment.install("--editable", folder)
    shutil.copy(regular.site_packages / "plugin_accel" / LIBRARY, folder / "plugin_accel")
    return environment


@pytest.fixture(scope="session")
def hostless(new_environment: Callable[[str], Environment], wheel: Path) -> Environment:
    """The wheel without any of its dependencies."""
    environment = new_environment("hostless")
    environment.install(wheel)
    return environment


@pytest.fixture(params=["regular", "editable"])
def installed(request: pytest.FixtureRequest) -> Environment:
    """Both kinds of install in turn."""
    environment = request.getfixturevalue(request.param)
    assert isinstance(environment, Environment)
    return environment
