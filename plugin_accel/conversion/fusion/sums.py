"""Running sums over time, ``total = total + mem``: in the user's order, so with their rounding, but without T nodes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from plugin_accel.conversion.fusion import functions
from plugin_accel.conversion.fusion.program import Node, Ref
from plugin_accel.conversion.fusion.series import Series

if TYPE_CHECKING:
    from plugin_accel.conversion.fusion.lower import Lowering

__all__ = ["running_sums", "sum_call"]


def running_sums(nodes: list[Node]) -> dict[int, int]:
    """Maps the additions of a running sum to the first of them.

    Each adds the same thing of another step to what the one before gave, in tensors of one shape and dtype. The first
    may add to a number, as after ``total = 0``.
    """
    first: dict[int, int] = {}
    addends: dict[int, list[Ref]] = {}  # of a sum's last addition so far: what may be the addend
    for index, node in enumerate(nodes):
        if node.kind != "op" or functions.plain(node.target) not in ("add", "iadd", "radd") or len(node.leaves) != 2:
            continue
        refs = [leaf for leaf in node.leaves if type(leaf) is Ref]
        if not all(_alike(nodes, ref, Ref(index, 0)) for ref in refs):
            continue
        for total, addend in (refs, refs[::-1]) if len(refs) == 2 else ():
            if nodes[total.node].grad is not node.grad:
                continue
            if any(_follows(nodes, before, addend) for before in addends.get(total.node, ())):
                first[index], addends[index] = first[total.node], [addend]
                del addends[total.node]  # it goes on from there once
                break
        else:
            first[index], addends[index] = index, refs
    counts = Counter(first.values())
    return {index: start for index, start in first.items() if counts[start] > 1}


def _alike(nodes: list[Node], one: Ref, other: Ref) -> bool:
    return nodes[one.node].metas[one.out][:3] == nodes[other.node].metas[other.out][:3]


def _follows(nodes: list[Node], previous: Ref, addend: Ref) -> bool:
    """Whether two tensors are the same thing of different steps."""
    one, other = nodes[previous.node], nodes[addend.node]
    if one.kind == other.kind == "call":  # the first call's states may have another shape
        return previous.node != addend.node and previous.out == addend.out and one.target is other.target
    return previous.node != addend.node and previous.out == addend.out and one.key == other.key


def sum_call(low: Lowering, members: list[int]) -> None:
    """Emits the additions ``members``."""
    second = low.nodes[members[1]].leaves
    addends = [second[0] if second[1] == Ref(members[0], 0) else second[1]]
    a, b = low.nodes[members[0]].leaves
    swap = type(b) is not Ref or not _follows(low.nodes, b, addends[0])
    number, addends = (b, [a, *addends]) if swap else (a, [b, *addends])
    for before, member in pairwise(members[1:]):
        x, y = low.nodes[member].leaves
        addends.append(x if y == Ref(before, 0) else y)
    start = low.one(number) if type(number) is Ref else None
    differs, get = low.many(addends)
    every = any(Ref(member, 0) in low.outside for member in members[:-1])
    steps, slot = len(members), low.define_series(members, 0)

    def run(env: list[Any]) -> None:
        data = get(env)
        if not differs:
            data = data.unsqueeze(0).expand(steps, *data.shape)
        first = number if start is None else start(env)
        stacked, last = _Sum.apply(data, first, every)  # type: ignore[no-untyped-call]
        env[slot] = Series(stacked, last=last)

    low.emit(run)


class _Sum(torch.autograd.Function):
    """(x [T, ...], first, whether every sum is wanted) -> (all sums [T, ...] or None, the last)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Any, every: bool) -> tuple[Tensor | None, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.steps = len(x)
        rows = x.unbind(0)
        total = first + rows[0]
        if not every:
            for row in rows[1:]:
                total.add_(row)
            return None, total
        sums = torch.empty_like(x, memory_format=torch.contiguous_format)
        places = sums.unbind(0)
        places[0].copy_(total)
        for before, row, place in zip(places, rows[1:], places[1:], strict=False):
            torch.add(before, row, out=place)
        return sums, places[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        of_all, total = grads
        if of_all is None:
            return (
                (None, None, None) if total is None else (total.expand(ctx.steps, *total.shape), _of(ctx, total), None)
            )
        found = []
        for g in reversed(of_all.unbind(0)):
            total = g if total is None else g + total
            found.append(total)
        return torch.stack(found[::-1]), _of(ctx, total), None


def _of(ctx: Any, gradient: Tensor | None) -> Tensor | None:
    return gradient if ctx.needs_input_grad[1] else None
