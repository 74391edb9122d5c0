"""A layer with a state over all steps: by its host's kernel for sequences, else call by call."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from plugin_accel.conversion.fusion.layers import Layers
from plugin_accel.conversion.fusion.program import Ref, flatten
from plugin_accel.conversion.fusion.series import Series
from plugin_accel.errors import Refused

if TYPE_CHECKING:
    from plugin_accel.conversion.fusion.lower import Lowering

__all__ = ["chain_call", "states_of"]


def chain_call(low: Lowering, members: list[int], layers: Layers) -> None:
    """Emits the calls ``members`` of one layer."""
    nodes = [low.nodes[m] for m in members]
    steps, module = len(nodes), nodes[0].target
    first = [next(node.refs()) for node in nodes]
    differs, x = low.many(first)
    outs = len(nodes[0].metas)
    where = low.results(members[0])
    # The states that a later call takes, as positions among the results of the one before.
    states = [ref.out for ref in list(nodes[1].refs())[1:]]
    initial_refs = list(nodes[0].refs())[1:]
    initial = [low.one(ref) for ref in initial_refs]
    stepwise = _stepwise(low, members)
    hooked = any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))
    simple = where == list(range(outs)) and len(nodes[0].result) == outs and not any(n.random for n in nodes)
    chained = states in ([], list(range(1, outs)), list(range(outs))) and len(initial) in (0, len(states))
    sequence = layers.sequence(module) if simple and chained and not hooked else None
    absent = [None] * states_of(module)
    slots = [low.define_series(members, out) for out in range(outs)]
    record = tuple(any(Ref(member, out) in low.outside for member in members[:-1]) for out in range(1, outs))

    why = ": each step has statistics of its own" if isinstance(module, _BatchNorm) else ""
    line = low.explain(nodes[0], steps, steps, f"step by step{why}")

    def run(env: list[Any]) -> None:
        if sequence is not None:
            data = x(env)
            if not differs:
                data = data.unsqueeze(0).expand(steps, *data.shape)
            try:
                made = sequence(module, data, [get(env) for get in initial] or absent, record=record)
            except Refused as why:
                line.after, line.how = steps, f"step by step: {why}"
            else:
                # The states are what a call returns last, if it returns any; a layer that takes back its spikes has
                # them among its states.
                last = (None,) * (outs - len(made.last)) + made.last if outs > 1 else (None,)
                for slot, stacked, end in zip(slots, made.outputs, last, strict=False):
                    env[slot] = Series(stacked, last=end)
                return
        stepwise(env, slots, where)

    low.emit(run)
    if sequence is not None:
        low.saved += steps - 1
        line.after, line.how = 1, "as a sequence"


def states_of(module: Any) -> int:
    """How many states the layer's forward can be given."""
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds for p in signature(type(module).forward).parameters.values()) - 2


def _stepwise(low: Lowering, members: list[int]) -> Any:
    nodes = [low.nodes[m] for m in members]
    module = nodes[0].target
    inside = set(members)
    calls: list[tuple[Any, ...]] = []
    for node in nodes:
        assert node.spec is not None
        gets: list[Any] = [
            (leaf.out if leaf.node in inside else low.one(leaf)) if type(leaf) is Ref else None for leaf in node.leaves
        ]
        calls.append((node.leaves, gets, node.spec))

    def run(env: list[Any], slots: list[int], where: list[int]) -> None:
        items: list[list[Tensor]] = [[] for _ in slots]
        before: list[Tensor] = []
        for leaves, gets, spec in calls:
            filled = [
                leaf if get is None else before[get] if type(get) is int else get(env)
                for leaf, get in zip(leaves, gets, strict=True)
            ]
            args, kwargs = spec.unflatten(filled)
            flat = flatten(module(*args, **kwargs))[0]
            before = [flat[position] for position in where]
            for column, value in zip(items, before, strict=True):
                column.append(value)
        for slot, column in zip(slots, items, strict=True):
            env[slot] = Series(items=column)

    return run
