"""Turns groups into a flat list of calls, with every decision made that can be made before the data is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from plugin_accel.conversion.fusion.chain import chain_call
from plugin_accel.conversion.fusion.layers import Layers
from plugin_accel.conversion.fusion.program import Node, Program, Ref, called, flatten
from plugin_accel.conversion.fusion.rules import batched
from plugin_accel.conversion.fusion.schedule import Group
from plugin_accel.conversion.fusion.series import Series
from plugin_accel.conversion.fusion.sums import sum_call
from plugin_accel.conversion.fusion.values import Env, One, Values

__all__ = ["Line", "Lowering"]


class Line:
    """One row of the explanation.

    Attributes:
        name: The module or function.
        before: Calls in the user's loop.
        after: Calls now.
        how: In words.
    """

    __slots__ = ("after", "before", "how", "name")

    def __init__(self, name: str, before: int, after: int, how: str) -> None:
        self.name, self.before, self.after, self.how = name, before, after, how


class Lowering(Values):
    """Compiles the groups of a program.

    Args:
        program: The rewritten program.
        groups: Its groups, in order.
        layers: What is known of layers.
    """

    def __init__(self, program: Program, groups: Sequence[Group], layers: Layers) -> None:
        super().__init__(program.nodes)
        self.lines: list[Line] = []
        self.saved = 0
        self._layers = layers
        self.outside = self._used_outside(program, groups)
        self._grad = program.grad
        for group in groups:
            self._group(group)
        self.without_gradients = False
        self.outputs = self._asked(program.outputs)
        self.effects = [(effect, self._asked(effect.leaves)) for effect in program.effects]
        self.drops = self.last_uses()

    # -- groups -----------------------------------------------------------------------------------------------------

    def _group(self, group: Group) -> None:
        node = self.nodes[group.members[0]]
        self._mode(node)
        if group.kind == "same":
            self._same_calls(group.members)
        elif group.kind == "chain" and len(group.members) > 1:
            chain_call(self, group.members, self._layers)
        elif group.kind == "sum":
            sum_call(self, group.members)
            self.saved += len(group.members) - 1
            self.explain(node, len(group.members), 1, "summed in your order")
        elif group.kind == "region":
            for member in group.members:
                self._single(member)
            self.explain(node, len(group.members), len(group.members), "step by step: these need each other")
        else:
            self._single(group.members[0])
            if node.kind in ("op", "call", "host"):
                self.explain(node, 1, 1, "as it is")

    def _same_calls(self, members: list[int]) -> None:
        node, count = self.nodes[members[0]], len(members)
        operands = [self.many(refs) for refs in zip(*(tuple(self.nodes[m].refs()) for m in members), strict=True)]
        if not any(differs for differs, _ in operands):
            self._single(members[0])
            for member in members[1:]:
                for out in range(len(node.metas)):
                    self.slots[Ref(member, out)] = self.slots[Ref(members[0], out)]
            self.explain(node, count, 1, "once: the same at every step")
            self.saved += count - 1
            return
        metas = [self.nodes[ref.node].metas[ref.out] for ref in node.refs()]
        rule = batched(node, metas, [differs for differs, _ in operands], count)
        if rule is None:
            for member in members:
                self._single(member)
            self.explain(node, count, count, "as they are" if node.target in _STACKS else "step by step")
            return
        gets, slot = [get for _, get in operands], self.define_series(members, 0)

        def run(env: Env) -> None:
            env[slot] = Series(rule([get(env) for get in gets]))

        self.emit(run)
        self.saved += count - 1
        self.explain(node, count, 1, "all steps at once")

    def _mode(self, node: Node) -> None:
        self.without_gradients = self._grad and not node.grad and node.kind in ("op", "call")

    def call(self, node: Node) -> Callable[[Env], Any]:
        """Makes one call as the user made it."""
        if node.kind == "select":
            base, (dim, index) = self.one(node.leaves[0]), node.target
            return lambda env: base(env).select(dim, index)
        gets, function = [self.one(ref) for ref in node.refs()], called(node)
        return lambda env: function([get(env) for get in gets])

    def _single(self, index: int) -> None:
        node = self.nodes[index]
        self._mode(node)
        if node.kind == "input":
            self.inputs.append((self.define(Ref(index, 0)), node.target))
            return
        if node.kind == "select":
            return  # looked up where it is needed
        if node.kind == "set":
            (holder, key, _), value = node.target, self.one(node.leaves[0])

            def put(env: Env) -> None:
                holder[key] = value(env)

            self.emit(put)
            return
        if node.target in _STACKS and not self.without_gradients and self._stack(index):
            return
        call = self.call(node)
        if node.result_spec is None or len(node.result) == 1:
            slot = self.define(Ref(index, 0)) if node.metas else self.slot()
            nested = node.result_spec is not None and not node.result_spec.is_leaf()

            def run(env: Env) -> None:
                value = call(env)
                env[slot] = flatten(value)[0][0] if nested else value

            self.emit(run)
            return
        where = self.results(index)
        slots = [self.define(Ref(index, out)) for out in range(len(node.metas))]

        def run_many(env: Env) -> None:
            leaves = flatten(call(env))[0]
            for slot, position in zip(slots, where, strict=True):
                env[slot] = leaves[position]

        self.emit(run_many)

    def results(self, index: int) -> list[int]:
        """Where in the flattened result of a node the tensors are that it made."""
        result = self.nodes[index].result
        return [position for position, leaf in enumerate(result) if type(leaf) is Ref and leaf.node == index]

    def _stack(self, index: int) -> bool:
        """A stack over time is there already."""
        node = self.nodes[index]
        assert node.spec is not None
        args, kwargs = node.spec.unflatten(list(node.leaves))
        refs = list(node.refs())
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        if len(refs) < 2 or not isinstance(args[0], (list, tuple)) or type(dim) is not int or "out" in kwargs:
            return False
        pieces = [self.piece(ref) if ref not in self.slots else None for ref in refs]
        first = pieces[0]
        if first is None or any(piece != (first[0], step) for step, piece in enumerate(pieces)):
            return False
        source, steps = self.source(first[0])
        if steps != len(refs):
            return False
        self.touch(source)
        slot = self.define(Ref(index, 0))
        concatenate = node.target is not torch.stack
        if concatenate and dim != 0:
            return False
        dim %= len(node.metas[0].shape)

        def run(env: Env) -> None:
            series = env[source]
            whole = series.whole()
            if concatenate:
                whole = whole.flatten(0, 1)
            elif dim:
                whole = whole.movedim(0, dim)
            env[slot] = whole.contiguous() if series.owned else whole.clone(memory_format=torch.contiguous_format)

        self.emit(run)
        return True

    # -- the end ----------------------------------------------------------------------------------------------------

    def _asked(self, leaves: Sequence[Any]) -> list[One | None]:
        """Gives what leaves the forward: tensors of its own; ``None`` where it is a constant."""
        return [self.one(leaf, own=True) if type(leaf) is Ref else None for leaf in leaves]

    def _used_outside(self, program: Program, groups: Sequence[Group]) -> set[Ref]:
        """The tensors that are needed beyond the chain they come from."""
        chain = {
            member: g for g, group in enumerate(groups) if group.kind in ("chain", "sum") for member in group.members
        }
        used = {leaf for leaf in program.outputs if type(leaf) is Ref}
        used.update(ref for effect in program.effects for ref in effect.refs())
        for index, node in enumerate(program.nodes):
            for ref in node.refs():
                if ref.node not in chain or chain.get(index) != chain[ref.node]:
                    used.add(ref)
        return used

    def explain(self, node: Node, before: int, after: int, how: str) -> Line:
        """Adds a row to the explanation."""
        target = node.target
        name = type(target).__name__ if node.kind == "call" else getattr(target, "__name__", str(target)).strip("_")
        self.lines.append(Line(f"{node.label} {name}".strip(), before, after, how))
        return self.lines[-1]


_STACKS = (torch.stack, torch.cat, torch.concat, torch.concatenate)
