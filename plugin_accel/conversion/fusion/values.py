"""Where values are while the fused forward runs, and how a call gets those that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from plugin_accel.conversion.fusion.program import Node, Ref
from plugin_accel.conversion.fusion.series import Series

__all__ = ["Env", "One", "Values"]

Env: TypeAlias = list[Any]
One: TypeAlias = Callable[[Env], Tensor]


class Values:
    """Places for values, in the order in which calls are added.

    Attributes:
        nodes: The nodes of the program.
        inputs: The places of tensors from outside, and where they come from.
        code: The calls.
        size: The number of places.
        slots: The places of single tensors.
        without_gradients: Whether the calls that are being added recorded no gradients, unlike the forward around them.
    """

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.inputs: list[tuple[int, Any]] = []
        self.code: list[Callable[[Env], None]] = []
        self.size = 0
        self.slots: dict[Ref, int] = {}
        self._series: dict[Any, tuple[int, int]] = {}  # source: (slot, steps)
        self._piece: dict[Ref, tuple[Any, int]] = {}
        self.without_gradients = False
        self._reads: dict[int, int] = {}
        self._pending: set[int] = set()

    def slot(self) -> int:
        """A new place in the environment."""
        self.size += 1
        self._reads[self.size - 1] = len(self.code)
        return self.size - 1

    def emit(self, call: Callable[[Env], None]) -> None:
        """Adds a call that reads what was asked for since the last one."""
        for slot in self._pending:
            self._reads[slot] = len(self.code)
        self._pending = set()
        self.code.append(torch.no_grad()(call) if self.without_gradients else call)

    def define(self, ref: Ref) -> int:
        """A place for one tensor."""
        slot = self.slots[ref] = self.slot()
        return slot

    def define_series(self, members: Sequence[int], out: int) -> int:
        """A place for the results of several nodes."""
        slot = self.slot()
        self._series["group", slot] = (slot, len(members))
        for step, member in enumerate(members):
            self._piece[Ref(member, out)] = (("group", slot), step)
        return slot

    def touch(self, slot: int) -> int:
        """Notes that the next call reads a place."""
        self._pending.add(slot)
        return slot

    def piece(self, ref: Ref) -> tuple[Any, int] | None:
        """Of which series a tensor is a step, and which."""
        known = self._piece.get(ref)
        node = self.nodes[ref.node]
        if known is None and node.kind == "select":
            known = (node.key, node.target[1])
            self._piece[ref] = known
        return known

    def source(self, source: Any) -> tuple[int, int]:
        """The place of a series, and how many steps it has."""
        if source not in self._series:
            _, base, dim = source
            waiting, self._pending = self._pending, set()
            value, slot = self.one(base), self.slot()
            size = self.nodes[base.node].metas[base.out].shape[dim]
            self._series[source] = (slot, size)

            def split(env: Env) -> None:
                env[slot] = Series(value(env).movedim(dim, 0), owned=False)

            without, self.without_gradients = self.without_gradients, False  # others read it too
            self.emit(split)
            self._pending, self.without_gradients = waiting, without
        return self._series[source]

    def one(self, ref: Ref, own: bool = False) -> One:
        """Gives one tensor."""
        if ref in self.slots:
            slot = self.touch(self.slots[ref])
            return lambda env: env[slot]
        piece = self.piece(ref)
        assert piece is not None
        node = self.nodes[ref.node]
        if node.kind == "select" and own:
            base, (dim, index) = self.one(node.leaves[0], own), node.target
            return lambda env: base(env).select(dim, index)
        slot, step = self.touch(self.source(piece[0])[0]), piece[1]
        if own:
            return lambda env: env[slot].own(step)
        return lambda env: env[slot].at(step)

    def many(self, refs: Sequence[Ref]) -> tuple[bool, One]:
        """Gives tensors over time: (whether they differ from step to step, the tensor or all of them stacked)."""
        if all(ref == refs[0] or self._same(ref, refs[0]) for ref in refs):
            return False, self.one(refs[0])
        runs: list[tuple[Any, int, int, Ref]] = []  # source, first, last + 1
        for ref in refs:
            piece = self.piece(ref) if ref not in self.slots else None
            if piece is not None and runs and runs[-1][0] == piece[0] and runs[-1][2] == piece[1]:
                runs[-1] = (piece[0], runs[-1][1], piece[1] + 1, ref)
            elif piece is not None:
                runs.append((piece[0], piece[1], piece[1] + 1, ref))
            else:
                runs.append((None, 0, 1, ref))
        if len(runs) > max(1, len(refs) // 2):
            ones = [self.one(ref) for ref in refs]
            return True, lambda env: torch.stack([one(env) for one in ones])
        parts = [self._run(*run) for run in runs]
        if len(parts) == 1:
            return True, parts[0]
        return True, lambda env: torch.cat([part(env) for part in parts])

    def _same(self, first: Ref, second: Ref) -> bool:
        return first in self.slots and self.slots.get(first) == self.slots.get(second)

    def _run(self, source: Any, first: int, last: int, ref: Ref) -> One:
        if source is None:
            one = self.one(ref)
            return lambda env: one(env).unsqueeze(0)
        slot, steps = self.source(source)
        self.touch(slot)
        if (first, last) == (0, steps):
            return lambda env: env[slot].whole()
        return lambda env: env[slot].whole()[first:last]

    def last_uses(self) -> list[Iterable[int]]:
        """After each call, the places that no later call reads."""
        for slot in self._pending:
            self._reads[slot] = len(self.code)
        drops: list[list[int]] = [[] for _ in self.code]
        for slot, reader in self._reads.items():
            if reader < len(self.code):
                drops[reader].append(slot)
        return [tuple(slots) for slots in drops]
