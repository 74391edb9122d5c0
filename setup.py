"""Builds the C++ library ``plugin_accel._C`` and installs the host namespaces; the rest stands in pyproject.toml.

Environment variables:
    CXX, CC: The compiler, as for any extension.
    PLUGIN_ACCEL_OPENMP: ``0`` builds without OpenMP; by default it is used where the compiler has it.
    PLUGIN_ACCEL_SANITIZE: Sanitizers to build with, e.g. ``address,undefined`` (gcc and clang).
    PLUGIN_ACCEL_JOBS: Number of sources compiled at the same time; by default one per core, at most 8.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import ClassVar

import pybind11
from pybind11.setup_helpers import ParallelCompile
from setuptools import Command, Extension, find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError, PlatformError

ROOT = Path(__file__).parent
CSRC = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("csrc/**/*") if path.is_file())
STARTUP_FILE = "namespaces/plugin_accel_namespaces.pth"

# The numbers must not depend on the machine that built the library: no -march=native and no contraction, since a fused
# multiply-add flips spikes. The sources choose the instruction set themselves, at run time.
UNIX_FLAGS = ["-O2", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
# Not -I, which is for includes in angle brackets too: csrc has a math.h, and Python's headers want the system's.
HEADERS_FLAGS = ["-iquote", "csrc"]
# Of what GCC's -O3 has beyond -O2, the vectoriser's eagerness; the rest would take a fifth of the compile time.
EAGER_FLAG = "-fvect-cost-model=dynamic"
MSVC_FLAGS = ["/O2", "/std:c++17", "/fp:precise", "/EHsc", "/bigobj"]

PROBE = "#include <Python.h>\n#include <optional>\nint main() { return std::optional<int>(0).value(); }\n"
OPENMP_PROBE = "#include <omp.h>\nint main() { return omp_get_max_threads() > 0 ? 0 : 1; }\n"
EMPTY_PROBE = "int main() { return 0; }\n"

NO_COMPILER = """\
plugin-accel: expected a working C++17 compiler and Python's headers, got: {error}
Install a compiler, then run the same command again:
    Debian, Ubuntu   apt install g++ python3-dev
    Fedora, RHEL     dnf install gcc-c++ python3-devel
    macOS            xcode-select --install
    Windows          Visual Studio Build Tools with "Desktop development with C++"
    conda            conda install -c conda-forge cxx-compiler
To use a compiler that is not the default one, name it: CC=clang CXX=clang++ pip install ..."""


class BuildLibrary(build_ext):
    """Finds out what the compiler can do, then builds with it."""

    def probe(self, source: str, *flags: str) -> None:
        """Compiles and links a small library.

        Raises:
            CompileError, LinkError: If the compiler cannot.
            PlatformError: If there is no compiler; this is how setuptools says that it found no Visual C++.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.cpp")
            path.write_text(source)
            arguments = {"extra_postargs": [*flags], "output_dir": folder}
            objects = self.compiler.compile([str(path)], **arguments)
            self.compiler.link_shared_object(objects, "probe.out", target_lang="c++", **arguments)

    def takes(self, source: str, flag: str) -> bool:
        """Whether the compiler builds the source with this flag."""
        try:
            self.probe(source, flag)
        except (CompileError, LinkError):
            return False
        return True

    def openmp_flags(self) -> list[str]:
        """The best the compiler offers: threads and SIMD, SIMD alone, or nothing."""
        if os.environ.get("PLUGIN_ACCEL_OPENMP", "1") != "0" and self.takes(OPENMP_PROBE, "-fopenmp"):
            return ["-fopenmp"]
        return ["-fopenmp-simd"] if self.takes(EMPTY_PROBE, "-fopenmp-simd") else []

    def flags(self) -> tuple[list[str], list[str]]:
        """Flags for compiling and for linking."""
        if self.compiler.compiler_type == "msvc":
            return ["/Icsrc", *MSVC_FLAGS], []
        eager = ["-ftree-vectorize", EAGER_FLAG] if self.takes(EMPTY_PROBE, EAGER_FLAG) else []
        common = [*HEADERS_FLAGS, *UNIX_FLAGS, *eager]
        openmp = self.openmp_flags()
        self.announce(f"plugin-accel: OpenMP flags {openmp}", level=2)
        sanitize = os.environ.get("PLUGIN_ACCEL_SANITIZE", "")
        if not sanitize:
            # Python's own flags often ask for debug symbols, which make the library five times as large.
            debug = [] if "-g" in os.environ.get("CFLAGS", "") else ["-g0"]
            return [*common, *openmp, *debug], openmp
        # Python's own flags let integers wrap, which would hide their overflow.
        checks = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-wrapv"]
        return [*common, *openmp, *checks, "-fno-omit-frame-pointer", "-g1", "-O1"], [*openmp, *checks]

    def build_extensions(self) -> None:
        """Checks the compiler first: its absence should read as an instruction, not as a stack trace."""
        # The same sources give another library when the compiler or a variable above has changed.
        self.force = True
        try:
            self.probe(PROBE, "/std:c++17" if self.compiler.compiler_type == "msvc" else "-std=c++17")
        except (CompileError, LinkError, PlatformError) as error:
            raise CompileError(NO_COMPILER.format(error=error)) from error
        compile_args, link_args = self.flags()
        for extension in self.extensions:
            extension.extra_compile_args = compile_args
            extension.extra_link_args = link_args
        with ParallelCompile("PLUGIN_ACCEL_JOBS", max=8):
            super().build_extensions()


class BuildStartupFile(Command):
    """Puts the ``.pth`` file that installs the namespaces beside the packages, in editable installs too."""

    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        """Declares the attributes that setuptools sets on parts of a build."""
        self.editable_mode = False
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        """Takes the folder of the build."""
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        """Copies the file to where it ends up at the top of the wheel."""
        # An editable wheel leaves out what is built and holds what is installed directly.
        target = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        self.mkpath(target)
        self.copy_file(STARTUP_FILE, target)

    def get_source_files(self) -> list[str]:
        """What an sdist has to hold."""
        return [STARTUP_FILE]

    def get_outputs(self) -> list[str]:
        """What the build made."""
        return [] if self.editable_mode else [str(Path(self.build_lib or "", Path(STARTUP_FILE).name))]

    def get_output_mapping(self) -> dict[str, str]:
        """The file is read in the source folder by no editable install."""
        return {}


class Build(build):
    """A build with all its parts."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_startup_file", None)]


setup(
    packages=[
        *find_packages(include=["plugin_accel", "plugin_accel.*"]),
        "plugin_accel.csrc",
        "plugin_accel_namespaces",
    ],
    package_dir={"plugin_accel.csrc": "csrc", "plugin_accel_namespaces": "namespaces"},
    package_data={
        "plugin_accel": ["py.typed", "*.pyi"],
        # compiled where there is a GPU
        "plugin_accel.csrc": ["*.h", "neurons/*.h", "egru/problem.h", "egru/unit.h", "cuda/*.h", "cuda/std/*"],
        "plugin_accel_namespaces": ["**/*.py"],
    },
    ext_modules=[
        Extension(
            "plugin_accel._C",
            sources=[path for path in CSRC if path.startswith("csrc/cpu/") and path.endswith(".cpp")],
            depends=["setup.py", *CSRC],
            include_dirs=[pybind11.get_include()],
            language="c++",
        )
    ],
    cmdclass={"build": Build, "build_ext": BuildLibrary, "build_startup_file": BuildStartupFile},
)
