"""Puts a recorded program in the form that can be grouped: steps of a tensor as such, random draws apart from data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_accel.conversion.fusion import functions
from plugin_accel.conversion.fusion.probes import step_of
from plugin_accel.conversion.fusion.program import Meta, Node, Program, Ref, flatten

__all__ = ["rewrite"]

_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout, torch.feature_dropout}


class _Like:
    """A function that looks at the description of a tensor alone, with an empty one of that description."""

    def __init__(self, function: Callable[..., Tensor], meta: Meta) -> None:
        self._function, self._meta = function, meta
        self.__name__ = functions.name_of(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        empty = torch.empty(self._meta.shape, dtype=self._meta.dtype, device=self._meta.device)
        return self._function(empty, *args, **kwargs)


class _Mask:
    """What dropout multiplies with, drawn as dropout draws it."""

    __name__ = "dropout mask"

    def __init__(self, function: Callable[..., Tensor], meta: Meta) -> None:
        self._function, self._meta = function, meta

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        with torch.no_grad():
            ones = torch.ones(self._meta.shape, dtype=self._meta.dtype, device=self._meta.device)
            return self._function(ones, *args, **kwargs)


def rewrite(program: Program) -> Program:
    """The same program with ``select`` nodes, and with random draws that need no data."""
    result = Program([], (), program.spec, [], program.grad)
    moved: dict[Ref, Ref] = {}
    nodes = result.nodes

    def there(leaf: Any) -> Any:
        return moved[leaf] if type(leaf) is Ref else leaf

    def add(node: Node) -> Ref:
        nodes.append(node)
        if not node.result:
            node.result = tuple(Ref(len(nodes) - 1, out) for out in range(len(node.metas)))
        return Ref(len(nodes) - 1, 0)

    unused = _unused(program)
    for index, old in enumerate(program.nodes):
        if index in unused:
            continue
        leaves = tuple(map(there, old.leaves))
        picked = _selection(old, program)
        if picked is not None:
            base = leaves[0]
            for out, (dim, step) in enumerate(picked):
                key = ("select", base, dim)
                made = Node("select", (dim, step), (base,), None, (old.metas[out],), label=old.label, key=key)
                moved[Ref(index, out)] = add(made)
            continue
        if old.kind == "op" and old.random and old.target in _DROPOUTS and type(leaves[0]) is Ref:
            meta = program.nodes[old.leaves[0].node].metas[old.leaves[0].out]
            if meta.contiguous:
                mask = add(_without_data(old, _Mask(old.target, meta)))
                spec = flatten(((leaves[0], mask), {}))[1]
                product = ("mul", meta, old.grad, old.label)
                moved[Ref(index, 0)] = add(
                    Node(
                        "op", torch.mul, (leaves[0], mask), spec, old.metas, label=old.label, grad=old.grad, key=product
                    )
                )
                continue
        first = old.leaves[0] if old.leaves else None
        if old.kind == "op" and functions.plain(old.target) in functions.LIKE and type(first) is Ref:
            meta = program.nodes[first.node].metas[first.out]
            if meta.contiguous and sum(1 for _ in old.refs()) == 1:
                moved[Ref(index, 0)] = add(_without_data(old, _Like(old.target, meta)))
                continue
        ref = add(replace(old, leaves=leaves))
        for out in range(len(old.metas)):
            moved[Ref(index, out)] = Ref(ref.node, out)
        nodes[-1].result = tuple(moved[leaf] if type(leaf) is Ref else leaf for leaf in old.result)
        if old.kind == "select":
            nodes[-1].key = ("select", leaves[0], old.target[0])
    result.outputs = tuple(map(there, program.outputs))
    result.effects = [effect._replace(leaves=tuple(map(there, effect.leaves))) for effect in program.effects]
    return result


def _unused(program: Program) -> set[int]:
    """Constants that nothing takes, such as the memory that a loop has filled step by step."""
    taken = {leaf.node for leaf in program.outputs if type(leaf) is Ref}
    taken.update(ref.node for effect in program.effects for ref in effect.refs())
    taken.update(ref.node for node in program.nodes for ref in node.refs())
    made = functions.CONSTANT | functions.LIKE | {"empty"}
    return {
        index
        for index, node in enumerate(program.nodes)
        if node.kind == "op" and not node.random and index not in taken and functions.plain(node.target) in made
    }


def _without_data(old: Node, target: Any) -> Node:
    """The node without its first operand."""
    assert old.spec is not None
    args, kwargs = old.spec.unflatten(list(old.leaves))
    leaves, spec = flatten((args[1:], kwargs))
    key = ("made", old.key, old.label)
    return Node(
        "op", target, tuple(leaves), spec, old.metas, label=old.label, random=old.random, grad=old.grad, key=key
    )


def _selection(node: Node, program: Program) -> list[tuple[int, int]] | None:
    """(dimension, index) of each tensor that the node gives, if each is one step of the node's first operand."""
    if node.kind != "op" or not node.leaves or type(node.leaves[0]) is not Ref or sum(1 for _ in node.refs()) != 1:
        return None
    if node.grad is not program.grad:
        return None  # a step of a tensor, but without its gradient
    name = functions.plain(node.target)
    if name not in ("getitem", "select", "unbind"):
        return None
    assert node.spec is not None
    args, kwargs = node.spec.unflatten(list(node.leaves))
    meta = program.nodes[args[0].node].metas[args[0].out]
    if name == "unbind":
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % len(meta.shape)
        return [(dim, step) for step in range(len(node.metas))]
    if name == "select":
        if len(args) != 3 or type(args[1]) is not int or type(args[2]) is not int:
            return None
        dim = args[1] % len(meta.shape)
        return [(dim, args[2] % meta.shape[dim])]
    found = step_of(args[1], meta.shape)
    return None if found is None else [found]
