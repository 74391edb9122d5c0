"""What one call of a user's forward did: a list of calls whose operands are constants or results of earlier calls.

A program is written down while the forward runs on real data (see ``record``). Nothing in it depends on where the loop
was: time is found again afterwards from what depends on what (see ``schedule``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten

__all__ = ["Effect", "Meta", "Node", "Program", "Ref", "Unfusable", "called", "flatten", "frozen", "key_of", "meta_of"]


class Unfusable(Exception):
    """This forward is run as the user wrote it; the text says why."""


@dataclass(frozen=True, slots=True)
class Ref:
    """The tensor that a node gave at position ``out`` of its flattened result."""

    node: int
    out: int


class Effect(NamedTuple):
    """An entry of a module that the forward set: ``holder[name]`` holds a tensor, or tensors in lists and dicts."""

    holder: dict[str, Any]
    name: str
    leaves: tuple[Any, ...]
    spec: TreeSpec

    def refs(self) -> Iterator[Ref]:
        """The tensors in it."""
        return (leaf for leaf in self.leaves if type(leaf) is Ref)


class Meta(NamedTuple):
    """What a tensor looks like, but not what it holds."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool
    contiguous: bool = True


def meta_of(tensor: Tensor) -> Meta:
    """The description of a tensor."""
    return Meta(tuple(tensor.shape), tensor.dtype, tensor.device, tensor.requires_grad, _contiguous(tensor))


def _contiguous(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.is_contiguous()


def flatten(tree: Any) -> tuple[list[Any], TreeSpec]:
    """Leaves and structure of nested tuples, lists, dicts and named tuples."""
    return tree_flatten(tree)


def key_of(spec: TreeSpec) -> Any:
    """A structure as part of a key: in torch 2.6 it cannot be hashed itself."""
    return spec if _HASHED else str(spec)


try:
    _HASHED = bool(hash(flatten(((), {}))[1]) or True)
except TypeError:
    _HASHED = False


@dataclass
class Node:
    """One call.

    Attributes:
        kind: ``"input"``: a tensor from outside. ``"op"``: a torch function. ``"call"``: a layer with a state, as a
            whole. ``"host"``: a function of a host framework about its layers, such as a reset. ``"select"``: one
            step of a tensor. ``"set"``: an attribute of a module is given a tensor.
        target: What is called; for an input, its :class:`~plugin_accel.conversion.fusion.places.Place`.
        leaves: The flattened arguments: constants, and a :class:`Ref` for each tensor.
        spec: Their structure.
        metas: The tensors it gave, in the order of its flattened result.
        result: The flattened result, with the position of a tensor in ``metas``, as a :class:`Ref` to this node.
        result_spec: Its structure.
        label: Name of the module in whose forward it was called, for the reader.
        random: Whether it took numbers from a generator.
        grad: Whether gradients were recorded.
        key: Nodes with equal keys do the same to different tensors.
        after: Nodes that must have run before, beyond those whose results are needed.
    """

    kind: str
    target: Any
    leaves: tuple[Any, ...]
    spec: TreeSpec | None
    metas: tuple[Meta, ...]
    result: tuple[Any, ...] = ()
    result_spec: TreeSpec | None = None
    label: str = ""
    random: bool = False
    grad: bool = True
    key: Any = None
    after: tuple[int, ...] = ()

    def refs(self) -> Iterator[Ref]:
        """The results of other nodes it takes."""
        return (leaf for leaf in self.leaves if type(leaf) is Ref)


def called(node: Node) -> Callable[[Sequence[Any]], Any]:
    """A function that makes the node's call with these tensors in the places of its references."""
    target, leaves, spec = node.target, list(node.leaves), node.spec
    assert spec is not None
    where = [index for index, leaf in enumerate(leaves) if type(leaf) is Ref]
    args, kwargs = spec.unflatten(leaves)
    flat = not kwargs and len(args) == len(leaves) and all(a is b for a, b in zip(args, leaves, strict=True))
    if flat and where == list(range(len(where))):
        # Most calls are this plain, and unflattening costs more than they do.
        rest = tuple(leaves[len(where) :])
        return lambda values: target(*values, *rest)

    def call(values: Sequence[Any]) -> Any:
        filled = list(leaves)
        for index, value in zip(where, values, strict=True):
            filled[index] = value
        given, named = spec.unflatten(filled)
        return target(*given, **named)

    return call


@dataclass
class Program:
    """All calls of one forward, in order, and what it returned.

    Attributes:
        nodes: The calls.
        outputs: The flattened return value, with a :class:`Ref` for each tensor.
        spec: Its structure.
        effects: What the forward put into modules.
        grad: Whether gradients were recorded when it was called.
    """

    nodes: list[Node] = field(default_factory=list)
    outputs: tuple[Any, ...] = ()
    spec: TreeSpec | None = None
    effects: list[Effect] = field(default_factory=list)
    grad: bool = True

    def fingerprint(self) -> tuple[Any, ...]:
        """Two recordings of the same forward are the same program if, and only if, these are equal."""
        nodes = tuple((node.key, tuple(node.refs()), node.after) for node in self.nodes)
        effects = tuple((id(e.holder), e.name, tuple(map(frozen, e.leaves)), str(e.spec)) for e in self.effects)
        return nodes, tuple(map(frozen, self.outputs)), str(self.spec), effects


def frozen(value: Any) -> Any:
    """A constant in a form that can be hashed and compared, without taking 1, 1.0 and True for the same."""
    if isinstance(value, slice):
        return "slice", value.start, value.stop, value.step
    if isinstance(value, (int, float, str, bytes, bool, type(None), Ref)):
        return type(value).__name__, repr(value) if isinstance(value, float) else value
    if isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, type(Ellipsis))):
        return value
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(map(frozen, value))
    return type(value).__name__, id(value)
