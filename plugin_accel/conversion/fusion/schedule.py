"""Finds time again in a program: which calls can be one call over all steps, and in which order these run.

Calls that do the same to different tensors, none of which depends on another, form a group; the T calls of a layer with
a state, each of which takes the states that the one before gave, form a chain. Any such grouping is right as long as
groups do not wait for each other in a circle. Where they do, the circle is run call by call in the user's order, unless
two layers with a state are in it: then a later layer feeds an earlier one, and nothing is fused.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

from plugin_accel.conversion.fusion.program import Node, Program, Ref, Unfusable
from plugin_accel.conversion.fusion.sums import running_sums

__all__ = ["Group", "schedule"]


@dataclass
class Group:
    """Calls that are replayed together.

    Attributes:
        kind: ``"one"``: a single call. ``"same"``: calls that do the same to different tensors. ``"chain"``: calls of
            a layer with a state over time. ``"sum"``: additions to a running sum. ``"region"``: calls that run one by
            one.
        members: Indices of the nodes, in the order of the program.
    """

    kind: str
    members: list[int] = field(default_factory=list)


def schedule(program: Program) -> list[Group]:
    """Groups in an order in which they can run.

    Raises:
        Unfusable: A later layer feeds an earlier one.
    """
    nodes = program.nodes
    needs = _needs(nodes)
    _check_states(program)
    chain_of = _chains(nodes)
    sums = running_sums(nodes)
    of, groups = _group(nodes, needs, chain_of, sums)
    components = _components(groups, of, needs)
    circles = [c for c in components if len(c) > 1]
    if circles:
        # Groups of mere functions may have been too greedy: take those apart and look again.
        apart = {
            member
            for circle in circles
            for g in circle
            if groups[g].kind in ("same", "sum")
            for member in groups[g].members
        }
        of, groups = _group(nodes, needs, chain_of, sums, apart)
        components = _components(groups, of, needs)
    _check_gradients(program, of)
    merged: list[Group] = []
    for component in components:
        if len(component) == 1:
            merged.append(groups[component[0]])
            continue
        _check_feedback(nodes, [groups[g] for g in component])
        merged.append(Group("region", sorted(m for g in component for m in groups[g].members)))
    return _ordered(merged, needs)


def _check_states(program: Program) -> None:
    """What a host's reset gives has the shape of what was there before, which is nobody's business but the layer's."""
    for node in program.nodes:
        if node.kind not in ("call", "set", "host") and any(
            program.nodes[ref.node].kind == "host" for ref in node.refs()
        ):
            raise Unfusable(f"computes with the states that a reset gives ({node.label or 'outside of a layer'})")
    if any(type(leaf) is Ref and program.nodes[leaf.node].kind == "host" for leaf in program.outputs):
        raise Unfusable("returns the states that a reset gives")


def _reached(nodes: list[Node], of: list[int]) -> list[int]:
    """For each place ``of`` a node, the inputs that get a gradient from it, as bits."""
    found = [0] * (max(of, default=-1) + 1)
    for index, node in enumerate(nodes):
        if node.kind == "input":
            found[of[index]] |= node.metas[0].requires_grad << index
        elif any(meta.requires_grad for meta in node.metas):
            for ref in node.refs():
                if nodes[ref.node].metas[ref.out].requires_grad:
                    found[of[index]] |= found[of[ref.node]]
    return found


def _check_gradients(program: Program, of: list[int]) -> None:
    """A parameter that has no part in a result must not get a gradient of zeros from it: optimizers tell the two apart.

    Calls in a group reach the same parameters; those of a layer over time may not.
    """
    single, grouped = _reached(program.nodes, list(range(len(of)))), _reached(program.nodes, of)
    for leaf in program.outputs:
        if type(leaf) is Ref and program.nodes[leaf.node].metas[leaf.out].requires_grad:
            more = grouped[of[leaf.node]] & ~single[leaf.node]
            if more:
                key = program.nodes[more.bit_length() - 1].target.key
                raise Unfusable(f"a result does not depend on {key!r}, which would get zeros as gradient from it")


def _needs(nodes: list[Node]) -> list[list[int]]:
    """What must run before each node: operands, and what keeps random draws and states in the user's order."""
    needs: list[list[int]] = []
    last_random: int | None = None
    last_host: int | None = None
    since_host: list[int] = []
    last_of: dict[int, int] = {}
    for index, node in enumerate(nodes):
        before = {ref.node for ref in node.refs()} | set(node.after)
        if node.random:
            if last_random is not None:
                before.add(last_random)
            last_random = index
        if node.kind in ("call", "set"):
            module = id(node.target if node.kind == "call" else node.target[2])
            if module in last_of:
                before.add(last_of[module])
            last_of[module] = index
            if last_host is not None:
                before.add(last_host)
            since_host.append(index)
        elif node.kind == "host":
            before.update(since_host)
            if last_host is not None:
                before.add(last_host)
            last_host, since_host = index, []
        needs.append(sorted(before))
    return needs


def _chains(nodes: list[Node]) -> dict[int, int]:
    """Maps the calls of a layer that follow on each other to the first of them."""
    chain_of: dict[int, int] = {}
    last: dict[int, int] = {}
    hosts = 0
    hosts_at: dict[int, int] = {}
    for index, node in enumerate(nodes):
        if node.kind == "host":
            hosts += 1
        elif node.kind == "set":
            last.pop(id(node.target[2]), None)
        elif node.kind == "call":
            previous = last.get(id(node.target))
            follows = previous is not None and hosts_at[previous] == hosts and _follows(nodes, previous, index)
            chain_of[index] = chain_of[previous] if follows and previous is not None else index
            last[id(node.target)] = index
            hosts_at[index] = hosts
    return chain_of


def _follows(nodes: list[Node], previous: int, index: int) -> bool:
    earlier, node = nodes[previous], nodes[index]
    refs = list(node.refs())
    if earlier.grad is not node.grad:
        return False
    if earlier.metas != node.metas and [m[:3] for m in earlier.metas] != [m[:3] for m in node.metas]:
        return False
    if not refs or not list(earlier.refs()):
        return False
    first, second = next(earlier.refs()), refs[0]
    if nodes[first.node].metas[first.out][:3] != nodes[second.node].metas[second.out][:3]:
        return False
    return all(ref.node == previous for ref in refs[1:])


def _group(
    nodes: list[Node],
    needs: list[list[int]],
    chain_of: dict[int, int],
    sums: dict[int, int],
    apart: set[int] | None = None,
) -> tuple[list[int], list[Group]]:
    """Puts each node into a group; nodes with equal keys are together unless one depends on another."""
    reached = _reached(nodes, list(range(len(nodes))))
    ranks: list[dict[Any, int]] = []
    of: list[int] = []
    groups: list[Group] = []
    place: dict[Any, int] = {}
    for index, node in enumerate(nodes):
        rank: dict[Any, int] = {}
        for before in needs[index]:
            for key, count in ranks[before].items():
                if rank.get(key, 0) < count:
                    rank[key] = count
        if index in chain_of:
            identity: Any = ("chain", chain_of[index])
            kind = "chain"
        elif index in sums and not (apart and index in apart):
            identity, kind = ("sum", sums[index]), "sum"
        elif node.kind == "op" and not node.random and not (apart and index in apart):
            identity = (node.key, rank.get(node.key, 0), reached[index])
            kind = "same"
            rank = {**rank, node.key: rank.get(node.key, 0) + 1}
        else:
            identity, kind = ("one", index), "one"
        ranks.append(rank)
        if identity not in place:
            place[identity] = len(groups)
            groups.append(Group(kind))
        of.append(place[identity])
        groups[place[identity]].members.append(index)
    for group in groups:
        if len(group.members) == 1 and group.kind == "same":
            group.kind = "one"
    return of, groups


def _components(groups: list[Group], of: list[int], needs: list[list[int]]) -> list[list[int]]:
    """Strongly connected components of the groups (Tarjan, without recursion)."""
    before = [sorted({of[n] for m in group.members for n in needs[m]} - {g}) for g, group in enumerate(groups)]
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    for root in range(len(groups)):
        if root in index:
            continue
        work = [(root, iter(before[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            g, rest = work[-1]
            for other in rest:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(before[other])))
                    break
                if other in on_stack:
                    low[g] = min(low[g], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[g])
                if low[g] == index[g]:
                    component = []
                    while True:
                        top = stack.pop()
                        on_stack.discard(top)
                        component.append(top)
                        if top == g:
                            break
                    found.append(component)
    return found


def _check_feedback(nodes: list[Node], groups: list[Group]) -> None:
    chains = [group for group in groups if group.kind == "chain"]
    if len(chains) > 1:
        names = dict.fromkeys(nodes[group.members[0]].label or "a layer" for group in chains)
        raise Unfusable(f"feedback: {' and '.join(names)} need each other's earlier steps")


def _ordered(groups: list[Group], needs: list[list[int]]) -> list[Group]:
    """Sorts groups so that each runs after what it needs, and otherwise as the user's program begins them."""
    of = {member: g for g, group in enumerate(groups) for member in group.members}
    before = [{of[n] for m in group.members for n in needs[m]} - {g} for g, group in enumerate(groups)]
    after: list[list[int]] = [[] for _ in groups]
    for g, wanted in enumerate(before):
        for other in wanted:
            after[other].append(g)
    waiting = [len(wanted) for wanted in before]
    ready = [(groups[g].members[0], g) for g, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order: list[Group] = []
    while ready:
        _, g = heapq.heappop(ready)
        order.append(groups[g])
        for other in after[g]:
            waiting[other] -= 1
            if waiting[other] == 0:
                heapq.heappush(ready, (groups[other].members[0], other))
    assert len(order) == len(groups)
    return order
