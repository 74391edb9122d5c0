"""The GPU as the backend sees it: what is missing, how large it is, and how a kernel is loaded and launched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from plugin_accel import _C
from plugin_accel.backends import cuda_cache, cuda_compile
from plugin_accel.backends.cuda_call import Memory, Packed
from plugin_accel.backends.cuda_source import KERNEL, Source
from plugin_accel.errors import BackendError


class Launch(Protocol):
    """Launches a kernel on the current stream of the device it was loaded for."""

    def __call__(self, addresses: tuple[int, ...]) -> None:
        """With the addresses of its argument."""
        ...


Where = tuple[tuple[int, int], ...]
"""Addresses of a launch in a program: which tensor, counted over those given and those made, and bytes behind it."""

Program = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
"""Launches one after the other: given tensors, it makes others, launches, and gives back those that it made."""


class Loaded(Protocol):
    """A kernel on one device."""

    def bind(self, grid: tuple[int, int], block: int, argument: Packed) -> Launch:
        """A launch of this grid with this many threads in a block."""
        ...


OLDEST = (7, 5)


class Device(Protocol):
    """What runs kernels: a GPU, or what the tests put in its place."""

    type: str
    """Of torch's devices."""

    def unavailable(self) -> str | None:
        """Why there is none; None if there is one."""
        ...

    def refuses(self, device: torch.device) -> str | None:
        """Why kernels cannot run on one of them."""
        ...

    def holds_data(self, device: torch.device) -> bool:
        """Whether a small call can be tried on it now."""
        ...

    def details(self) -> str:
        """One line about it."""
        ...

    def threads(self, index: int) -> int:
        """How many threads fill it."""
        ...

    def load(self, source: Source, index: int) -> Loaded:
        """A kernel that is ready to be launched.

        Raises:
            BackendError: it cannot be compiled or loaded.
        """
        ...

    def program(self, launches: Sequence[tuple[Launch, Where]], memories: tuple[Memory, ...], index: int) -> Program:
        """One call for all of these launches; `memories`: of the tensors that it makes."""
        ...


class Gpu:
    """torch's CUDA devices, by NVRTC and the driver. Nothing here waits for the GPU."""

    type = "cuda"

    def __init__(self) -> None:
        self._usable = False

    def unavailable(self) -> str | None:
        """Why there is no GPU that kernels can be compiled for."""
        if self._usable:
            return None
        if torch.version.cuda is None:
            return f"torch {torch.__version__} is built without CUDA: install a CUDA build, see https://pytorch.org"
        missing = cuda_compile.missing()
        if missing is not None:
            return missing
        if not torch.cuda.is_available():
            return "torch.cuda.is_available() is False: nvidia-smi must list a GPU, with a driver for this torch"
        self._usable = True  # it costs a tenth of a millisecond to find out, and may be asked at every call
        return None

    def refuses(self, device: torch.device) -> str | None:
        """Why kernels cannot run on this device, as far as that is known before one is compiled."""
        index = _index(device)
        capability = torch.cuda.get_device_capability(index)
        name = f"{torch.cuda.get_device_name(index)} (sm_{_number(capability)})"
        if capability < OLDEST:
            return f"{name} is older than sm_{_number(OLDEST)}"
        if _number(capability) not in cuda_compile.architectures():
            return f"{cuda_compile.version()} does not compile for {name}; update it: {cuda_compile.remedy()}"
        return _driver_too_old()

    def holds_data(self, device: torch.device) -> bool:
        """Not while a graph is captured: what is compared has to come back to the CPU."""
        return not torch.cuda.is_current_stream_capturing()

    def details(self) -> str:
        """NVRTC and the GPUs."""
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        gpus = ", ".join(f"{p.name} (sm_{p.major}{p.minor})" for p in found)
        return f"{gpus}; {cuda_compile.version()}; kernels in {cuda_cache.folder() or 'memory alone'}"

    def threads(self, index: int) -> int:
        """Four blocks of 128 for every multiprocessor."""
        return _multiprocessors(index) * 512

    def load(self, source: Source, index: int) -> Loaded:
        """Compile or fetch a kernel, and load it; the library is not bound to a context, nor to one device."""
        from cuda.bindings import driver

        capability = torch.cuda.get_device_capability(index)
        image = cuda_compile.cubin(source, f"sm_{_number(capability)}")
        with torch.cuda.device(index):
            _bind_context(index)
            # while a graph is captured, too: loading is no part of it
            _, mode = driver.cuThreadExchangeStreamCaptureMode(
                driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
            )
            try:
                library = _checked(driver.cuLibraryLoadData(image, [], [], 0, [], [], 0), source)
                kernel = _checked(driver.cuLibraryGetKernel(library, KERNEL.encode()), source)
                function = _checked(driver.cuKernelGetFunction(kernel), source)
            finally:
                driver.cuThreadExchangeStreamCaptureMode(mode)
        return _Kernel(int(function), library, index, source)

    def program(self, launches: Sequence[tuple[Launch, Where]], memories: tuple[Memory, ...], index: int) -> Program:
        """See `Device`."""
        bound = [(launch, where) for launch, where in launches if isinstance(launch, _Bound)]
        what = bound[0][0]
        return _C.program(
            tuple([(launch.launch, where) for launch, where in bound]),
            memories,
            index,
            _current_device(),
            _stream_of(),
            partial(_otherwise, index, what),
        )


def _otherwise(index: int, what: _Bound, anywhere: Program, code: int | None, tensors: Sequence[Tensor]) -> Any:
    """A program on another device than the current one, in a thread that has no context yet, or one that failed."""
    if code is None:
        with torch.cuda.device(index):
            return anywhere(tensors)
    return anywhere(tensors) if code == _INVALID_CONTEXT and _bind_context(index) else what.fail(code)


def _current_device() -> Callable[[], int]:
    # torch.cuda.current_device asks first whether CUDA has been initialised, as it has where there is a kernel
    found: Callable[[], int] = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)
    return found


def _stream_of() -> Callable[[int], int]:
    found: Callable[[int], int] = torch._C._cuda_getCurrentRawStream
    return found


class _Kernel:
    """See `Loaded`."""

    def __init__(self, function: int, library: Any, index: int, source: Source) -> None:
        self._function, self._library, self._index, self._source = function, library, index, source

    def bind(self, grid: tuple[int, int], block: int, argument: Packed) -> Launch:
        """See `Loaded`."""
        launch = _C.Launch(_entry(), self._function, *grid, block, argument.call, argument.words)
        return _Bound(launch, self._index, f"{self._source.body}: expected a launch of {grid[0]} x {grid[1]} blocks")


class _Bound:
    """See `Launch`."""

    def __init__(self, launch: _C.Launch, index: int, what: str) -> None:
        self.launch, self._index, self._what = launch, index, what
        self._current, self._stream_of = _current_device(), _stream_of()

    def __call__(self, addresses: tuple[int, ...]) -> None:
        """See `Launch`."""
        if self._current() != self._index:
            with torch.cuda.device(self._index):
                self._start(addresses)
        else:
            self._start(addresses)

    def _start(self, addresses: tuple[int, ...]) -> None:
        stream = self._stream_of(self._index)
        code = self.launch.run(stream, addresses)
        if code == _INVALID_CONTEXT and _bind_context(self._index):
            code = self.launch.run(stream, addresses)
        if code:
            self.fail(code)

    def fail(self, code: int) -> NoReturn:
        """Says what did."""
        from cuda.bindings import driver

        raise BackendError(
            f"CUDA kernel {self._what}, got {driver.CUresult(code)!s}; an earlier kernel may have failed: set "
            "CUDA_LAUNCH_BLOCKING=1 to find it"
        )


_INVALID_CONTEXT = 201


def _bind_context(index: int) -> bool:
    """Makes torch's context the one of this thread, if it has none: a thread that torch has not used CUDA in.

    Torch's own guards leave such a thread alone where the device is the first, which the runtime takes to be current.
    """
    from cuda.bindings import driver

    code, context = driver.cuCtxGetCurrent()
    if int(code) or int(context):
        return False
    code, device = driver.cuDeviceGet(index)
    if not int(code):
        code, context = driver.cuDevicePrimaryCtxRetain(device)
    return not int(code) and not int(driver.cuCtxSetCurrent(context)[0])


@lru_cache(maxsize=1)
def _entry() -> int:
    """Address of the driver's cuLaunchKernel: a call by way of Python's bindings takes several times as long."""
    from cuda.bindings import driver

    code, address, *_ = driver.cuGetProcAddress(b"cuLaunchKernel", 12000, 0)
    if int(code) or not address:
        raise BackendError(f"the NVIDIA driver: expected its cuLaunchKernel, got {code!s}; update the driver")
    return int(address)


def _checked(result: tuple[Any, ...], source: Source) -> Any:
    code, *values = result
    if int(code):
        raise BackendError(
            f"CUDA kernel {source.body}: expected the driver to load it, got {code!s}; update the NVIDIA driver, or "
            f"install an NVRTC that fits it: {cuda_compile.remedy()}"
        )
    return values[0]


def _index(device: torch.device) -> int:
    given: int | None = device.index
    return torch.cuda.current_device() if given is None else given


def _number(capability: tuple[int, int]) -> int:
    return capability[0] * 10 + capability[1]


@lru_cache(maxsize=64)
def _multiprocessors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


@lru_cache(maxsize=1)
def _driver_too_old() -> str | None:
    """A cubin is loaded by drivers of its own CUDA major version and later."""
    from cuda.bindings import driver, nvrtc

    code, version = driver.cuDriverGetVersion()
    if int(code):
        return f"the NVIDIA driver answers {code!s}"
    major = nvrtc.nvrtcVersion()[1]
    if version // 1000 < major:
        return (
            f"the NVIDIA driver is for CUDA {version // 1000}, NVRTC is {major}: update the driver, or "
            "pip install 'plugin-accel[cuda12]'"
        )
    return None
