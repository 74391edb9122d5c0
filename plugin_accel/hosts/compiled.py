"""Accelerated layers in programs of `torch.compile`, for a torch whose compiler cannot read them.

Before torch 2.13 the compiler can neither tell one autograd function from another nor hand a module to a function that
it takes for constant; it fails where the layers do this. There they are called as they are, between the graphs that
the compiler makes of what is around them: the same kernels, a graph break for each layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

READS_LAYERS: bool = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)


def uncompiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward`, which within a compiled program is called as it is."""
    from torch._compile import _disable_dynamo

    apart: Callable[..., Any] = _disable_dynamo(forward)  # unlike torch.compiler.disable it imports no compiler

    @functools.wraps(forward)
    def whole(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return apart(self, *arguments, **options)
        return forward(self, *arguments, **options)

    return whole


def readable(classes: Iterable[type[nn.Module]]) -> None:
    """Sees to it that layers of these classes can be called within compiled programs of this torch."""
    if READS_LAYERS:
        return
    for base in {base for cls in classes for base in cls.__mro__ if base.__module__.startswith("plugin_accel.")}:
        own = vars(base).get("forward")
        if own is not None:
            setattr(base, "forward", uncompiled(own))  # noqa: B010 - of a class that mypy knows as `type`
