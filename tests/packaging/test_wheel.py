"""What is in the sdist and in the wheel, and what the library needs to run."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.packaging.conftest import Environment

pytestmark = pytest.mark.slow


def files_below(root: Path, *folders: str) -> set[str]:
    return {
        path.relative_to(root).as_posix()
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.is_file() and path.suffix in {".py", ".typed", ".pyi", ".h", ".cpp", ".pth"}
    }


def test_sdist_holds_all_sources(sources: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "setup.py", "LICENSE", "README.md"} <= names
    assert files_below(sources, "csrc", "plugin_accel", "namespaces") <= names


def test_wheel_holds_the_package_and_nothing_else(sources: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        dist_info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        entry_points = archive.read(f"{dist_info}/entry_points.txt").decode()
        metadata = archive.read(f"{dist_info}/METADATA").decode()
    (library,) = (name for name in names if name.startswith("plugin_accel/_C.") and not name.endswith(".pyi"))
    namespaces = {
        name.replace("namespaces", "plugin_accel_namespaces", 1)
        for name in files_below(sources, "namespaces")
        if name.endswith(".py")
    }
    metadata_files = {name for name in names if name.startswith(dist_info)}
    folders = ("csrc", "csrc/neurons", "csrc/cuda")  # what is compiled where there is a GPU
    headers = (n for n in files_below(sources, "csrc") if n.endswith(".h"))
    kernels = {f"plugin_accel/{n}" for n in headers if n.rpartition("/")[0] in folders}
    kernels |= {f"plugin_accel/csrc/{n}" for n in ("cuda/std/cstdint", "egru/problem.h", "egru/unit.h")}
    expected = {library, "plugin_accel_namespaces.pth"} | files_below(sources, "plugin_accel") | namespaces | kernels
    assert names - metadata_files == expected
    assert any(name.endswith("LICENSE") for name in metadata_files)
    assert "plugin-accel = plugin_accel.cli:main" in entry_points
    assert "License-Expression: Apache-2.0" in metadata


@pytest.mark.skipif(shutil.which("readelf") is None, reason="reads ELF headers with readelf")
def test_library_links_neither_torch_nor_a_host(regular: Environment) -> None:
    (library,) = (regular.site_packages / "plugin_accel").glob("_C.*.so")
    header = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    needed = [line.rpartition("[")[2].rstrip("]") for line in header.splitlines() if "(NEEDED)" in line]
    assert needed
    assert not [name for name in needed if name.startswith(("libtorch", "libc10", "libcu", "libpython"))]


def test_library_loads_without_torch(hostless: Environment) -> None:
    code = "import json, plugin_accel._C as library; print(json.dumps([library.isa(), library.isas()]))"
    isa, isas = hostless.ask(code)
    assert isa in isas
    assert "baseline" in isas


def test_command_line_tool_runs(regular: Environment) -> None:
    tool = regular.python.with_name("plugin-accel")
    shown = subprocess.run([tool, "info"], capture_output=True, text=True, check=True, cwd=regular.folder).stdout
    version = regular.ask("import json, plugin_accel; print(json.dumps(plugin_accel.__version__))")
    for word in ("cpu", "reference", "sinabs", version):
        assert word in shown
