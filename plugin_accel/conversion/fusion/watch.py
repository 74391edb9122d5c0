"""Watches the Python code that runs while a forward is recorded.

``sys.setprofile`` tells of every function entered and every builtin called. From that come the names that the forward
reads (for the guards), the calls that must not be replayed (random numbers of Python, clocks, printing, files), and the
calls that are replayed as a whole (a host's reset functions, the ``apply`` of an autograd function).
"""

from __future__ import annotations

import dis
import gc
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType
from typing import Any, Protocol

import torch
from torch import nn

from plugin_accel.conversion.fusion.guards import is_foreign
from plugin_accel.conversion.fusion.places import Cell, Place, cell_content

__all__ = ["Watch"]

_APPLY: CodeType | None = getattr(getattr(torch.autograd.Function.apply, "__func__", None), "__code__", None)
"""None where it is no Python: of torch 2.15."""
_BUILTINS = frozenset(
    [
        "abs",
        "all",
        "any",
        "ascii",
        "bin",
        "bool",
        "callable",
        "chr",
        "divmod",
        "filter",
        "format",
        "getattr",
        "hasattr",
        "hash",
        "hex",
        "id",
        "isinstance",
        "issubclass",
        "iter",
        "len",
        "map",
        "max",
        "min",
        "next",
        "oct",
        "ord",
        "pow",
        "repr",
        "reversed",
        "round",
        "setattr",
        "sorted",
        "sum",
        "vars",
        "zip",
        "delattr",
        "__build_class__",
    ]
)
_PURE_MODULES = frozenset(
    {"math", "itertools", "operator", "_operator", "_functools", "functools", "_collections", "cmath"}
)
_PLAIN_TYPES: tuple[type, ...] = (
    list,
    dict,
    tuple,
    set,
    frozenset,
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    range,
    slice,
    type(iter([])),
)
_LOOK_UP = frozenset({"getattr", "vars", "setattr", "delattr"})


class Sink(Protocol):
    """What is told of the calls."""

    paused: bool

    def refuse(self, reason: str) -> None:
        """Gives up."""

    def begin(self, kind: str, target: Any, args: Any, kwargs: Any) -> None:
        """A call that is replayed as a whole begins."""

    def end(self, result: Any) -> None:
        """It ends."""


class Watch:
    """Collects the code that runs, from :meth:`start` to :meth:`stop`.

    Args:
        sink: Is told of what happens.
        is_host: Whether a module name belongs to a host framework.
    """

    def __init__(self, sink: Sink, is_host: Callable[[str], bool]) -> None:
        self._sink, self._is_host = sink, is_host
        self._codes: dict[CodeType, tuple[str, dict[str, Any]]] = {}
        self._whole: FrameType | None = None
        self._before: Any = None
        self._collects = False
        self.computed_names = False

    def start(self) -> None:
        """Begins to watch this thread."""
        if _APPLY is None:  # what an autograd function does inside would be taken for the forward's own
            self._sink.refuse(f"the calls of autograd functions by torch {torch.__version__} cannot be watched")
        # The garbage collector calls back into Python at any moment, and what it calls is no part of the forward.
        self._collects = gc.isenabled()
        gc.disable()
        self._before = sys.getprofile()
        sys.setprofile(self._profile)

    def stop(self) -> None:
        """Ends it."""
        sys.setprofile(self._before)
        if self._collects:
            gc.enable()

    def user_code(self) -> dict[CodeType, dict[str, Any]]:
        """The code of the user that ran, with its globals."""
        return {code: space for code, (kind, space) in self._codes.items() if kind == "user"}

    def functions(self) -> list[FunctionType]:
        """The functions of the user that ran, with closures and defaults."""
        codes = [code for code, (kind, _) in self._codes.items() if kind == "user"]
        found = [holder for holder in gc.get_referrers(*codes) if isinstance(holder, FunctionType)] if codes else []
        return [function for function in found if function.__code__ in self._codes]

    def location(self) -> Any:
        """Where in the user's code we are: the same line of a loop is the same place at each step."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            kind = self._codes.get(frame.f_code)
            if kind is not None and kind[0] == "user":
                return id(frame.f_code), frame.f_lasti
            frame = frame.f_back
        return None

    def find(self, tensor: torch.Tensor) -> Place | None:
        """Looks for a tensor among the globals and closures of the user's functions that are running."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            kind = self._codes.get(frame.f_code)
            if kind is not None and kind[0] == "user":
                for name in frame.f_code.co_names:
                    if frame.f_globals.get(name) is tensor:
                        return Place(frame.f_globals, name)
                for function in gc.get_referrers(frame.f_code) if frame.f_code.co_freevars else ():
                    for cell in getattr(function, "__closure__", None) or ():
                        if cell_content(cell) is tensor:
                            return Place(Cell(cell), "")
            frame = frame.f_back
        return None

    def _kind(self, frame: FrameType) -> str:
        code = frame.f_code
        known = self._codes.get(code)
        if known is None:
            name = str(frame.f_globals.get("__name__", ""))
            top = name.partition(".")[0]
            kind = "user"
            if top in ("torch", "plugin_accel"):
                kind = "foreign"
            elif self._is_host(name):
                kind = "host"
            elif is_foreign(name):
                kind = "library"
            known = self._codes[code] = (kind, frame.f_globals)
            if kind == "user":
                self._inspect(code)
        return known[0]

    def _inspect(self, code: CodeType) -> None:
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                self._sink.refuse(f"{code.co_name} sets the global {instruction.argval!r}")
        if "__dict__" in code.co_names:
            self.computed_names = True

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            if self._sink.paused:
                return
            if frame.f_code is _APPLY:
                local = frame.f_locals
                self._whole = frame
                self._sink.begin("op", _Apply(local["cls"]), local["args"], local["kwargs"])
            elif self._kind(frame) == "host":
                target = _function_about_a_layer(frame)
                if target is not None:
                    self._whole = frame
                    self._sink.begin("host", target, *_arguments(frame))
        elif event == "return":
            if frame is self._whole:
                self._whole = None
                self._sink.end(arg)
        elif event == "c_call" and not self._sink.paused and self._kind(frame) in ("user", "library"):
            self._builtin(arg)

    def _builtin(self, function: Any) -> None:
        name, owner = getattr(function, "__name__", "?"), getattr(function, "__self__", None)
        module = getattr(function, "__module__", None) or ""
        if name in _LOOK_UP and module == "builtins":
            self.computed_names = True
        if isinstance(owner, torch.Tensor) or module.partition(".")[0] == "torch" or _of_torch(owner):
            return
        if module == "builtins" and name in _BUILTINS:
            return
        if module in _PURE_MODULES or isinstance(owner, _PLAIN_TYPES) or owner in _PLAIN_TYPES:
            return
        if type(owner).__module__ in ("collections", "_collections", "itertools", "builtins") and not _is_module(owner):
            return
        where = module or type(owner).__qualname__
        self._sink.refuse(f"calls {where}.{name}")


def _is_module(owner: Any) -> bool:
    return type(owner).__name__ == "module"


def _of_torch(owner: Any) -> bool:
    cls = owner if isinstance(owner, type) else type(owner)
    return (cls.__module__ or "").partition(".")[0] == "torch" or getattr(owner, "__name__", "").startswith("torch.")


class _Apply:
    """``cls.apply`` of an autograd function; equal for equal classes."""

    def __init__(self, cls: Any) -> None:
        self.cls = cls
        self.__name__ = f"{cls.__name__}.apply"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.cls.apply(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Apply) and other.cls is self.cls

    def __hash__(self) -> int:
        return hash(self.cls)


def _function_about_a_layer(frame: FrameType) -> Any:
    """The function that runs in ``frame``, if it is a host's about modules or classes of modules, else ``None``."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount]
    first = frame.f_locals.get(names[0]) if names else None
    if isinstance(first, nn.Module):
        method = getattr(type(first), code.co_name, None)
        if getattr(method, "__code__", None) is code:
            return method
    if isinstance(first, type) and issubclass(first, nn.Module):
        method = getattr(first, code.co_name, None)
        is_bound = isinstance(method, MethodType) and method.__func__.__code__ is code
        return method.__func__ if is_bound else None  # type: ignore[union-attr]
    function = frame.f_globals.get(code.co_name)
    if isinstance(function, (FunctionType, BuiltinFunctionType)) and getattr(function, "__code__", None) is code:
        about = any(isinstance(frame.f_locals.get(name), nn.Module) for name in names)
        return function if about else None
    return None


def _arguments(frame: FrameType) -> tuple[tuple[Any, ...], dict[str, Any]]:
    code, local = frame.f_code, frame.f_locals
    count = code.co_argcount
    args = [local[name] for name in code.co_varnames[:count]]
    names = code.co_varnames[count : count + code.co_kwonlyargcount]
    rest = count + code.co_kwonlyargcount
    if code.co_flags & 0x04:
        args += local[code.co_varnames[rest]]
        rest += 1
    kwargs = {name: local[name] for name in names}
    if code.co_flags & 0x08:
        kwargs |= local[code.co_varnames[rest]]
    return tuple(args), kwargs
