"""How a torch function is applied to all steps at once: the functions for which that gives each step's own result.

Everything that no rule takes is called step by step, so a rule is an optimisation, and nothing depends on its being
here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from plugin_accel import plugins
from plugin_accel.conversion.fusion import functions
from plugin_accel.conversion.fusion.program import Meta, Node, Ref, called

__all__ = ["Batched", "batched"]

Batched = Callable[[Sequence[Tensor]], Tensor]


def batched(node: Node, metas: Sequence[Meta], over_time: Sequence[bool], steps: int) -> Batched | None:
    """A function of the operands that gives the results of all steps, ``[T, ...]``.

    Args:
        node: One of the calls.
        metas: Its tensor operands at one step, in the order of its leaves.
        over_time: Which of them differ from step to step; they are handed over stacked, the others as they are.
        steps: How many steps there are.

    Returns:
        The function, or ``None`` if the calls must be made one by one.
    """
    if len(node.metas) != 1 or node.kind != "op":
        return None
    name = functions.plain(node.target)
    if name in functions.ELEMENTWISE:
        return _elementwise(node, metas, over_time)
    if name in functions.RESHAPES:
        if not over_time[0] or any(isinstance(leaf, torch.dtype) for leaf in node.leaves):
            return None
        shape = node.metas[0].shape
        return lambda values: values[0].reshape(steps, *shape)
    if not over_time[0] or any(over_time[1:]):
        return _joined(node, metas, over_time, steps) if name in ("cat", "concat", "concatenate") else None
    dims = len(metas[0].shape)
    if name in ("matmul", "mm") and len(metas) == 2 and len(metas[1].shape) == 2 and dims >= 2:
        return _per_sample(node)
    batch = functions.PER_SAMPLE.get(name, getattr(node.target, "per_sample", None))
    if batch is None or type(node.leaves[0]) is not Ref:
        return None
    if name == "batch_norm" and _argument(node, 5, "training", False):
        return None
    if name == "instance_norm" and not _argument(node, 5, "use_input_stats", True):
        return None
    if name == "linear" and dims >= 2 and (product := _product(node)) is not None:
        return product
    if dims == batch or (batch <= 0 and dims >= 2):
        return _per_sample(node)
    if dims == batch - 1 or (batch == 0 and dims == 1):
        return called(node)
    return None


def _argument(node: Node, position: int, name: str, default: Any) -> Any:
    assert node.spec is not None
    args, kwargs = node.spec.unflatten(list(node.leaves))
    return args[position] if len(args) > position else kwargs.get(name, default)


def _per_sample(node: Node) -> Batched:
    call = called(node)

    def run(values: Sequence[Tensor]) -> Tensor:
        x = values[0]
        result = call([x.flatten(0, 1), *values[1:]])
        over_time: Tensor = result.unflatten(0, x.shape[:2])
        return over_time

    return run


def _product(node: Node) -> Batched | None:
    """A linear layer by a backend, whose memory for what is as long as the sequence is not fresh at each call."""
    assert node.spec is not None
    args, kwargs = node.spec.unflatten(list(node.leaves))
    if not (len(args) == 3 or (len(args) == 2 and kwargs.keys() <= {"bias"})) or type(args[1]) is not Ref:
        return None
    device = node.metas[0].device.type
    offered = (getattr(b, "linear", None) for b in plugins.backends().values() if device in b.devices)
    linear = next((found for found in offered if found is not None), None)
    if linear is None:
        return None

    def run(values: Sequence[Tensor]) -> Tensor:
        x, weight, *bias = values
        result: Tensor = linear(x, weight, bias[0] if bias else None)
        return result

    return run


def _elementwise(node: Node, metas: Sequence[Meta], over_time: Sequence[bool]) -> Batched | None:
    dims = len(node.metas[0].shape)
    shapes: list[tuple[int, ...] | None] = []
    for meta, differs in zip(metas, over_time, strict=True):
        missing = dims - len(meta.shape)
        if missing < 0:
            return None
        if differs and not meta.shape and any(other.dtype is not meta.dtype for other in metas):
            return None  # a number-like tensor does not widen its partners, one per step would
        shapes.append((1,) * missing + meta.shape if differs and missing else None)
    if any(over_time) and all(meta.shape == () for meta, differs in zip(metas, over_time, strict=True) if differs):
        scalars = {type(leaf) for leaf in node.leaves if isinstance(leaf, (int, float, complex))}
        if scalars and not metas[0].dtype.is_floating_point:
            return None
    call = called(node)
    if not any(shape is not None for shape in shapes):
        return call

    def run(values: Sequence[Tensor]) -> Tensor:
        shaped = [
            value if shape is None else value.reshape(value.shape[:1] + shape)
            for value, shape in zip(values, shapes, strict=True)
        ]
        result: Tensor = call(shaped)
        return result

    return run


def _joined(node: Node, metas: Sequence[Meta], over_time: Sequence[bool], steps: int) -> Batched | None:
    """Concatenation of what belongs to one step."""
    dim = _argument(node, 1, "dim", 0)
    if type(dim) is not int or not any(over_time) or len({len(meta.shape) for meta in metas}) != 1:
        return None
    shifted = dim if dim < 0 else dim + 1
    differs = tuple(over_time)

    def run(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([v if d else v.expand(steps, *v.shape) for v, d in zip(values, differs, strict=True)], shifted)

    return run
