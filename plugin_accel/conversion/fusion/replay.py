"""The fused forward: a flat list of calls over an environment of values."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from plugin_accel import plugins
from plugin_accel.conversion.fusion.layers import Layers
from plugin_accel.conversion.fusion.lower import Lowering
from plugin_accel.conversion.fusion.program import Program, Unfusable
from plugin_accel.conversion.fusion.schedule import Group
from plugin_accel.conversion.tables import table

__all__ = ["Replay"]


class Replay:
    """Runs a program fused.

    Args:
        program: The rewritten program.
        groups: Its groups, in order.
        layers: What is known of layers.

    Raises:
        Unfusable: There is nothing to gain.
    """

    def __init__(self, program: Program, groups: Sequence[Group], layers: Layers) -> None:
        low = Lowering(program, groups, layers)
        if not low.saved:
            raise Unfusable("no loop over time: nothing is called twice alike and apart")
        self._size = low.size
        self._inputs = low.inputs
        self._code = list(zip(low.code, low.drops, strict=True))
        self._leaves, self._outputs = program.outputs, low.outputs
        self._effects = low.effects
        self._spec = program.spec
        self._lines = low.lines
        offered = (getattr(backend, "amid_others", None) for backend in plugins.backends().values())
        self._around = [around for around in offered if around is not None]

    def run(self, arguments: list[Any]) -> Any:
        """What the forward returns for these flattened arguments, with its effects."""
        env: list[Any] = [None] * self._size
        for slot, place in self._inputs:
            env[slot] = place.read(arguments)
        with ExitStack() as stack:
            for around in self._around:
                stack.enter_context(around())
            for call, drops in self._code:
                call(env)
                for slot in drops:
                    env[slot] = None
        made: dict[Any, Tensor] = {}
        memory: set[int] = set()

        def value(leaf: Any, get: Any) -> Any:
            if get is not None and leaf not in made:
                made[leaf] = _apart(get(env), memory)
            return leaf if get is None else made[leaf]

        effects = [effect.spec.unflatten(map(value, effect.leaves, gets)) for effect, gets in self._effects]
        results = list(map(value, self._leaves, self._outputs))
        for (effect, _), put in zip(self._effects, effects, strict=True):
            effect.holder[effect.name] = put
        assert self._spec is not None
        return self._spec.unflatten(results)

    def table(self) -> str:
        """The schedule, for people."""
        rows: list[tuple[str, ...]] = [("what", "calls before", "calls after", "how")]
        for line in self._lines:
            rows.append((line.name, str(line.before), str(line.after), line.how))
        before, after = (sum(getattr(line, which) for line in self._lines) for which in ("before", "after"))
        rows.append(("all", str(before), str(after), ""))
        return "\n".join(table(rows))


def _apart(tensor: Tensor, memory: set[int]) -> Tensor:
    """The tensor, or a copy if another result has the same memory: the user's loop made them apart."""
    where = tensor.untyped_storage().data_ptr()
    if where in memory and tensor.numel():
        return tensor.clone()
    memory.add(where)
    return tensor
