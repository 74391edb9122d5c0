"""From a kernel's source to a cubin, by NVRTC: no CUDA toolkit, and no GPU either."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from io import StringIO
from typing import Any, NamedTuple

import torch

from plugin_accel.backends import cuda_cache, cuda_source
from plugin_accel.errors import BackendError

_OPTIONS: dict[str, Any] = {
    "std": "c++17",
    "fma": False,  # a fused multiply-add flips spikes
    "ftz": False,
    "prec_div": True,
    "device_as_default_execution_space": True,  # step headers have functions that only the compiler calls
    "ptxas_options": ["-v"],  # registers and spills
}
_DEVICE = '#include "cuda/device.h"\n'


def remedy() -> str:
    """The command that installs what NVRTC needs, fitting the CUDA version of torch."""
    if (torch.version.cuda or "").startswith("12."):
        return "pip install 'plugin-accel[cuda12]'"
    return "pip install 'plugin-accel[cuda]'"


def missing() -> str | None:
    """Which of the packages that compile kernels is missing, with the command that mends it; None if none is."""
    for package, module in (("cuda-pathfinder", "cuda.pathfinder"), ("cuda-bindings", "cuda.bindings")):
        if _absent(module):
            return f"{package} is not installed: {remedy()}"
    if _absent("cuda.core"):
        return f"cuda-core is not installed: {remedy()}"
    try:
        version()
    except Exception as error:
        return f"NVRTC cannot be loaded ({_first_line(error)}): {remedy()}"
    return None


def _absent(module: str) -> bool:
    try:
        return find_spec(module) is None
    except ModuleNotFoundError:  # its parent is missing too
        return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@lru_cache(maxsize=1)
def version() -> str:
    """NVRTC's version, and what calls it.

    Raises:
        Exception: whatever the CUDA packages raise where the library is missing.
    """
    import cuda.bindings
    import cuda.core
    from cuda.bindings import nvrtc

    code, major, minor = nvrtc.nvrtcVersion()
    if int(code):
        raise BackendError(f"NVRTC: expected a version, got {code}")
    return f"NVRTC {major}.{minor}, cuda-core {cuda.core.__version__}, cuda-bindings {cuda.bindings.__version__}"


@lru_cache(maxsize=1)
def architectures() -> frozenset[int]:
    """Compute capabilities that NVRTC compiles for, 90 for sm_90."""
    from cuda.bindings import nvrtc

    _, count = nvrtc.nvrtcGetNumSupportedArchs()
    _, found = nvrtc.nvrtcGetSupportedArchs()
    return frozenset(found[:count])


class Compiled(NamedTuple):
    """A cubin, and what the assembler says about it."""

    image: bytes
    log: str

    @property
    def spills(self) -> bool:
        """Whether registers are kept in memory; False of an NVRTC that does not say."""
        return any(int(n) for n in _SPILLS.findall(self.log))


_SPILLS = re.compile(r"(\d+) bytes (?:stack frame|spill stores|spill loads)")


def compile_source(source: cuda_source.Source, arch: str) -> Compiled:
    """Compile for an architecture ("sm_90"), with as many blocks per multiprocessor as there are registers for.

    Raises:
        BackendError: NVRTC rejects the source or the architecture.
    """
    for blocks in range(source.blocks, 0, -1):
        compiled = compile_text(source.body, source.text(blocks), arch)
        if not compiled.spills:
            break
    return compiled


def compile_text(name: str, text: str, arch: str) -> Compiled:
    """Compile what may hold several kernels; `name` is what errors call it.

    Raises:
        BackendError: NVRTC rejects the source or the architecture.
    """
    from cuda.core import Program, ProgramOptions

    log = StringIO()
    options = ProgramOptions(name=name, arch=arch, include_path=list(cuda_source.include_paths()), **_OPTIONS)
    try:
        compiled = Program(_DEVICE + text, "c++", options).compile("cubin", logs=log)
    except Exception as error:
        raise BackendError(f"CUDA kernel {name}: expected to compile for {arch}, got:\n{error}") from error
    return Compiled(bytes(compiled.code), log.getvalue())


def cubin(source: cuda_source.Source, arch: str) -> bytes:
    """`compile_source` by way of the cache on disk."""
    options, text = repr(sorted(_OPTIONS.items())), source.text(source.blocks)
    key = cuda_cache.key(text, arch, options, version(), cuda_source.headers_digest())
    found = cuda_cache.load(key)
    if found is None:
        found = compile_source(source, arch).image
        cuda_cache.store(key, found)
    return found
