"""Writes nodes into a program: which results a call takes, which it gives, and when it is the same call again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from plugin_accel.conversion.fusion import functions
from plugin_accel.conversion.fusion.holdings import Holdings
from plugin_accel.conversion.fusion.places import Place
from plugin_accel.conversion.fusion.probes import autocast, step_of, version
from plugin_accel.conversion.fusion.program import Meta, Node, Program, Ref, Unfusable, flatten, frozen, key_of, meta_of

__all__ = ["Writer"]


class Writer:
    """A program as it grows, with the tensors that stand for its references.

    Attributes:
        program: The program.
        known: The reference of each tensor, by its id. The tensors are kept, so that no other can get their ids.
        held: The modules that take part.
        path: The names of the modules whose forward is running.
        inputs: The tensors from outside, and how often each had been edited when it was used first.
    """

    def __init__(self) -> None:
        self.program = Program(grad=torch.is_grad_enabled())
        self.known: dict[int, Ref] = {}
        self.held = Holdings()
        self.path: list[str] = []
        self.inputs: list[tuple[Tensor, int]] = []
        self._kept: list[Tensor] = []
        self._storages: dict[int, set[int]] = {}
        self._filled: dict[int, tuple[Tensor, int, dict[int, Ref]]] = {}  # by id: itself, dimension, what each step is
        self._constant: set[int] = set()
        self._amp = autocast()

    def _find(self, tensor: Tensor) -> Place | None:
        """Looks for a tensor of unknown origin."""
        raise NotImplementedError

    def _location(self) -> Any:
        """Where in the user's code we are."""
        raise NotImplementedError

    def add(
        self, kind: str, target: Any, leaves: list[Any], spec: Any, result: Any, *, random: bool, name: str
    ) -> None:
        """A call with flattened arguments and what it returned.

        Raises:
            Unfusable: It cannot be replayed.
        """
        self._check_mode()
        outs, out_spec = flatten(result)
        fresh = [
            out
            for out in outs
            if isinstance(out, Tensor) and id(out) not in self.known and self.held.place(out) is None
        ]
        if kind == "op" and not fresh:
            if any(isinstance(out, Tensor) for out in outs):
                return  # the same tensors again: `.to()` of what is there already, a switch that is off
            if name in ("__eq__", "__ne__", "eq", "ne") and any(leaf is None for leaf in leaves):
                return
            if name in functions.VALUES and all(self._is_constant(t) for t in leaves if isinstance(t, Tensor)):
                return  # what is read is the same at each call
            raise Unfusable(f"reads values of a tensor into Python ({name})")
        if kind == "call" and len(fresh) != sum(isinstance(out, Tensor) for out in outs):
            raise Unfusable(f"{name} gives back a tensor that was there before")
        filled = tuple(self.ref(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        described = [
            self.ref(out) if isinstance(out, Tensor) and id(out) not in map(id, fresh) else out for out in outs
        ]
        self.append(kind, target, filled, spec, described, out_spec, random)

    def append(
        self, kind: str, target: Any, filled: tuple[Any, ...], spec: Any, outs: list[Any], out_spec: Any, random: bool
    ) -> None:
        """Adds a node; ``outs`` is its flattened result, with the tensors that it made."""
        index = len(self.program.nodes)
        metas: list[Meta] = []
        described: list[Any] = []
        for out in outs:
            if isinstance(out, Tensor):
                described.append(Ref(index, len(metas)))
                metas.append(meta_of(out))
                self._learn(out, described[-1])
            else:
                described.append(out)
        metadata = tuple(self._described(leaf) for leaf in filled if type(leaf) is Ref)
        grad = torch.is_grad_enabled()
        static = tuple("*" if type(leaf) is Ref else frozen(leaf) for leaf in filled)
        key = (kind, target if kind == "op" else id(target), key_of(spec), static, metadata, random, grad)
        taken = [leaf.node for leaf in filled if type(leaf) is Ref]
        known = functions.plain(target) if kind == "op" and not random else ""
        if known and (self._constant.issuperset(taken) if taken else known in functions.CONSTANT):
            self._constant.add(index)
        label = next((name for name in reversed(self.path) if name), "")
        self.program.nodes.append(
            Node(
                kind,
                target,
                filled,
                spec,
                tuple(metas),
                tuple(described),
                out_spec,
                label,
                random,
                grad,
                (*key, self._parameters(kind, filled), self._location() if kind == "op" else None),
            )
        )

    def _described(self, ref: Ref) -> Any:
        """What an operand looks like; what a reset gives has the shape of the states before it, whatever that was."""
        node = self.program.nodes[ref.node]
        return None if node.kind == "host" else node.metas[ref.out]

    def _parameters(self, kind: str, filled: tuple[Any, ...]) -> Any:
        """Which tensors from outside it takes: two layers are not the same call."""
        if kind != "op":
            return None
        return tuple(ref.node for ref in filled if type(ref) is Ref and self.program.nodes[ref.node].kind == "input")

    def ref(self, tensor: Tensor) -> Ref:
        """What stands for a tensor; one from outside becomes an input."""
        if id(tensor) in self._filled:
            self._fill_in(*self._filled.pop(id(tensor)))
        known = self.known.get(id(tensor))
        if known is not None:
            return known
        place = self.held.place(tensor)
        if place is None:
            place = self._find(tensor)
        if place is None:
            raise Unfusable("uses a tensor of unknown origin: made by code that torch does not see, or kept somewhere")
        if type(tensor) not in (Tensor, nn.Parameter):
            raise Unfusable(f"uses a {type(tensor).__name__}")
        ref = Ref(len(self.program.nodes), 0)
        owner = "arguments" if place.holder is None else id(place.holder)
        key = ("input", owner, place.key, place.path, meta_of(tensor))
        self.program.nodes.append(Node("input", place, (), None, (meta_of(tensor),), (ref,), None, "", key=key))
        self._learn(tensor, ref)
        self.inputs.append((tensor, version(tensor)))
        return ref

    def _learn(self, tensor: Tensor, ref: Ref) -> None:
        self.known[id(tensor)] = ref
        self._kept.append(tensor)
        if tensor.layout is torch.strided:
            self._storages.setdefault(tensor.untyped_storage().data_ptr(), set()).add(id(tensor))

    def in_place(self, name: str, func: Any, args: Any, kwargs: Any, result: Any, changed: list[Tensor]) -> None:
        """An edit in place of a tensor that nothing shares memory with: a new tensor takes its place.

        Raises:
            Unfusable: It is another edit.
        """
        self._check_mode()
        if name == "__setitem__" and self._fills(*args):
            return
        refused = Unfusable(f"edits a tensor in place ({name})")
        if kwargs.get("inplace") and result is changed[0] is args[0]:
            functional: Any = func
            kwargs = {**kwargs, "inplace": False}
        else:
            functional = functions.FUNCTIONAL.get(name)
        target = self.known.get(id(result)) if isinstance(result, Tensor) else None
        if functional is None or target is None or len(changed) != 1 or changed[0] is not result:
            raise refused
        if torch.is_grad_enabled() is not self.program.grad:
            raise refused  # it keeps the gradient that it had
        if self.program.nodes[target.node].kind not in ("op", "select"):
            raise refused
        others = [a for a in args if isinstance(a, Tensor)]
        if any(other.dtype != result.dtype for other in others):
            raise refused
        if not self._alone(result):
            raise refused
        leaves, spec = flatten((args, kwargs))
        filled = tuple(self.ref(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        self.append("op", functional, filled, spec, [result], flatten(result)[1], False)

    def _alone(self, tensor: Tensor) -> bool:
        return len(self._storages.get(tensor.untyped_storage().data_ptr(), ())) == 1

    def _fills(self, target: Tensor, index: Any, value: Any) -> bool:
        """Notes that a tensor becomes one step of another, ``out[t] = spk``, if it is that and nothing else.

        The other is put together when somebody looks at it: a loop that fills it has made a stack by then.
        """
        known = self.known.get(id(target))
        place = step_of(index, target.shape)
        if known is None or place is None or not isinstance(value, Tensor) or not self._alone(target):
            return False
        if self.program.nodes[known.node].kind != "op" or not target.is_contiguous():
            return False
        shape = target.shape[: place[0]] + target.shape[place[0] + 1 :]
        if (value.shape, value.dtype, value.device) != (shape, target.dtype, target.device):
            return False
        if torch.is_grad_enabled() is not self.program.grad:
            return False
        ref, (dim, step) = self.ref(value), place
        if self._filled.get(id(target), (target, dim))[1] != dim:
            self.ref(target)
        self._filled.setdefault(id(target), (target, dim, {}))[2][step] = ref
        return True

    def _fill_in(self, tensor: Tensor, dim: int, steps: dict[int, Ref]) -> None:
        """Writes down what a tensor has become: its steps, stacked."""
        base, size = self.known[id(tensor)], tensor.shape[dim]
        meta = self.program.nodes[base.node].metas[base.out]
        for step in range(size):
            if step not in steps:
                like = torch.empty(tensor.shape[:dim] + tensor.shape[dim + 1 :], dtype=meta.dtype, device=meta.device)
                like.requires_grad_(meta.requires_grad)
                leaves, spec = flatten(((base, dim, step), {}))
                steps[step] = Ref(len(self.program.nodes), 0)
                self.append("op", torch.select, tuple(leaves), spec, [like], flatten(like)[1], False)
        leaves, spec = flatten((([steps[step] for step in range(size)], dim), {}))
        self.append("op", torch.stack, tuple(leaves), spec, [tensor], flatten(tensor)[1], False)

    def _is_constant(self, tensor: Tensor) -> bool:
        known = self.known.get(id(tensor))
        return known is not None and known.node in self._constant and id(tensor) not in self._filled

    def _check_mode(self) -> None:
        if torch.is_grad_enabled() and not self.program.grad:
            raise Unfusable("switches gradients on inside")
        if autocast() != self._amp:
            raise Unfusable("switches autocast inside")

    def set(self, holder: dict[str, Any], key: str, tensor: Tensor, module: nn.Module) -> None:
        """A state that the user put into a layer."""
        if id(tensor) not in self.known:
            raise Unfusable(f"puts a tensor of unknown origin into {self.held.name(module)}.{key}")
        ref = self.ref(tensor)
        self.program.nodes.append(Node("set", (holder, key, module), (ref,), None, (), key=("set", id(holder), key)))
