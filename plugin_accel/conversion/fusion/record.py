"""Writes down what a forward does while it runs on real data.

The run is the user's own: what it returns, prints and changes is what it would without a recorder. Whatever cannot be
replayed later (a value read into Python, an edit in place, an unknown tensor) ends the recording, not the run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plugin_accel.conversion.fusion import functions
from plugin_accel.conversion.fusion.guards import SIMPLE, Guards
from plugin_accel.conversion.fusion.layers import Layers
from plugin_accel.conversion.fusion.places import Place, containers
from plugin_accel.conversion.fusion.probes import Unwatched, has_mask, is_hooked, random_state, version, writes
from plugin_accel.conversion.fusion.program import Effect, Unfusable, flatten
from plugin_accel.conversion.fusion.watch import Watch
from plugin_accel.conversion.fusion.writing import Writer

__all__ = ["Recorder"]

_local = threading.local()
_original_call: Callable[..., Any] = nn.Module.__call__
_lock = threading.RLock()
_patched = 0


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    recorder: Recorder | None = getattr(_local, "recorder", None)
    if recorder is None or recorder.paused:
        return _original_call(module, *args, **kwargs)
    return recorder.module(module, args, kwargs)


def _patch(by: int) -> None:
    global _patched, _original_call  # noqa: PLW0603 - one class for the whole process
    with _lock:
        if _patched == 0:
            _original_call = nn.Module.__call__
        _patched += by
        nn.Module.__call__ = _call if _patched else _original_call  # type: ignore[method-assign]


class _Mode(TorchFunctionMode):
    records_layers = True  # layers that take spikes call themselves, not what they are made of

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._recorder.paused or functions.name_of(func) in functions.QUESTIONS:
            return func(*args, **kwargs)
        with Unwatched():
            return self._recorder.function(func, args, kwargs)


class Recorder(Writer):
    """One recording.

    Args:
        layers: What is known of layers.
        arguments: The flattened arguments of the forward.
        roots: The modules that are known before it runs.
    """

    def __init__(self, layers: Layers, arguments: list[Any], roots: list[nn.Module]) -> None:
        super().__init__()
        self.refusal: str | None = None
        self.paused = True
        self._layers = layers
        self._watch = Watch(self, layers.is_host)
        self._opaque: dict[int, nn.Module] = {}
        self._hooked: dict[int, nn.Module] = {}
        self._drawing: dict[int, nn.Module] = {}
        self._open: tuple[Any, ...] | None = None
        self._random = random_state()
        for index, value in enumerate(arguments):
            if isinstance(value, Tensor):
                self.held.put(value, Place(None, index))
            elif not isinstance(value, (*SIMPLE, nn.Module)):
                self.held.add_object(value)
        for root in roots:
            self.held.add_module(root, "")

    # -- the run ----------------------------------------------------------------------------------------------------

    def run(self, function: Callable[[], Any]) -> Any:
        """Runs ``function`` and gives back what it returns; afterwards there is a program, or a refusal."""
        previous = getattr(_local, "recorder", None)
        _patch(+1)
        _local.recorder = self
        self.paused = False
        try:
            with _Mode(self):
                self._watch.start()
                try:
                    result = function()
                finally:
                    self._watch.stop()
        finally:
            self.paused = True
            _local.recorder = previous
            _patch(-1)
        if self.refusal is None:
            try:
                self._finish(result)
            except Unfusable as why:
                self.refusal = str(why)
        return result

    def guards(self) -> Guards:
        """What has to stay the same for the program to stay right.

        Raises:
            Unfusable: It cannot be watched.
        """
        codes = self._watch.user_code()
        names: set[str] = set()
        for code in codes:
            names.update(code.co_names)
            names.update(
                constant for constant in code.co_consts if isinstance(constant, str) and constant.isidentifier()
            )
        guards = Guards(frozenset(names), self._watch.computed_names, self._opaque.values(), self._layers.is_host)
        for code, namespace in codes.items():
            guards.add_code(code, namespace)
        for function in self._watch.functions():
            guards.add_function(function)
        for value in (*self.held.modules.values(), *self.held.objects):
            guards.add_object(value)
        for tensor, _ in self.inputs:
            if self.held.place(tensor) is not None:
                guards.add_alike(self.held.places(tensor))
        return guards

    def modules(self) -> list[nn.Module]:
        """The modules that took part."""
        return list(self.held.modules.values())

    def moved(self, before: list[int] | None, after: list[int]) -> bool:
        """Whether watched places hold other tensors now that no effect of the program put there."""
        put = {id(leaf) for effect in self.program.effects for leaf in flatten(effect.holder.get(effect.name))[0]}
        return before is not None and any(a != b and b not in put for a, b in zip(before, after, strict=True))

    def refuse(self, reason: str) -> None:
        """Ends the recording; the run goes on."""
        if self.refusal is None:
            self.refusal = reason
        self.paused = True

    # -- what is told of --------------------------------------------------------------------------------------------

    def function(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A torch function is called."""
        name = functions.name_of(func)
        leaves, spec = flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        versions = [version(tensor) for tensor in tensors]
        self._check_random()
        result = func(*args, **kwargs)
        if self.paused:
            return result
        random = self._drew() or any(isinstance(leaf, torch.Generator) for leaf in leaves)
        try:
            changed = [t for t, v in zip(tensors, versions, strict=True) if version(t) != v]
            if changed or writes(name, kwargs):
                self.in_place(name, func, args, kwargs, result, changed)
            elif name in functions.DYNAMIC or has_mask(name, args):
                raise Unfusable(f"{name} gives a tensor whose size depends on values")
            else:
                self.add("op", func, leaves, spec, result, random=random, name=name)
        except Unfusable as why:
            self.refuse(str(why))
        return result

    def module(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A module is called."""
        with Unwatched():
            name, opaque = self._look_at(module)
        self.path.append(name)
        try:
            if not opaque:
                return _original_call(module, *args, **kwargs)
            with Unwatched():
                self._check_states(module)
                self.begin("call", module, args, kwargs)
                result = _original_call(module, *args, **kwargs)
                self.end(result)
                return result
        finally:
            self.path.pop()

    def _look_at(self, module: nn.Module) -> tuple[str, bool]:
        """The name of a module, and whether it is called as a whole."""
        if id(module) not in self.held.modules:
            self.held.add_module(module, type(module).__name__)
        name, opaque = self.held.label(module), self._layers.is_opaque(module)
        if is_hooked(module):
            self._hooked[id(module)] = module
            if len(self._hooked) > 1:
                self.refuse("several modules have hooks, which must be called in the order of the loop")
            if any(self._layers.is_opaque(part) for part in module.modules() if part is not module):
                self.refuse(f"{name} has a hook and holds layers with a state")
            opaque = True
        if opaque and self._layers.draws(module):
            self._drawing[id(module)] = module
            if len(self._drawing) > 1:
                self.refuse("several layers draw random numbers in backward, in the order of the loop")
        return name, opaque and not self.paused

    def begin(self, kind: str, target: Any, args: Any, kwargs: Any) -> None:
        """A call that is replayed as a whole begins."""
        leaves, spec = flatten((tuple(args), kwargs))
        self.paused = True
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._check_random()
        self._open = (kind, target, leaves, spec, tensors, [version(t) for t in tensors])

    def end(self, result: Any) -> None:
        """It ends."""
        if self._open is None or self.refusal is not None:
            return
        kind, target, leaves, spec, tensors, versions = self._open
        self._open = None
        try:
            name = self.path[-1] if self.path else ""
            if any(version(t) != v for t, v in zip(tensors, versions, strict=True)):
                raise Unfusable(f"{name or target} edits its input in place")
            random = self._drew()
            if kind == "call":
                self._opaque[id(target)] = target
            self.add(kind, target, leaves, spec, result, random=random, name=name)
            for module in [target] if kind == "call" else self.held.modules.values() if kind == "host" else ():
                self.held.remember(module)
            self.paused = False
        except Unfusable as why:
            self.refuse(str(why))

    def _check_random(self) -> None:
        """Random numbers come from calls that are replayed, and nothing else touches the generators."""
        if self._random != random_state():
            self.refuse("seeds or reads a random number generator")

    def _drew(self) -> bool:
        before, self._random = self._random, random_state()
        return before != self._random

    def _check_states(self, module: nn.Module) -> None:
        """Someone may have put other states into a layer since it ran last."""
        try:
            for key, tensor in self.held.new_states(module):
                self.set(module._buffers, key, tensor, module)
        except Unfusable as why:
            self.refuse(str(why))

    def _finish(self, result: Any) -> None:
        self._check_random()
        for tensor, before in self.inputs:
            if version(tensor) != before:
                raise Unfusable("edits a tensor that comes from outside in place")
        for module in list(self.held.modules.values()):
            self._effects(module)
        out = list(containers(result))
        kept = [found for e in self.program.effects for found in containers(e.holder[e.name])]
        if len({*out, *kept}) < len({*out}) + len(kept):
            raise Unfusable("keeps a list or dict in two places, or one that it returns")
        leaves, spec = flatten(result)
        for leaf in leaves:
            if not isinstance(leaf, (Tensor, int, float, str, bytes, bool, type(None), torch.dtype, torch.device)):
                raise Unfusable(f"returns a {type(leaf).__name__}")
        self.program.outputs = tuple(self.ref(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        self.program.spec = spec

    def _effects(self, module: nn.Module) -> None:
        if id(module) in self._opaque or self._layers.is_opaque(module):
            self._check_states(module)
            return
        for holder, name, value in self.held.changes(module):
            leaves, spec = flatten(value)
            if any(isinstance(leaf, Tensor) and id(leaf) not in self.known for leaf in leaves):
                raise Unfusable(f"puts a tensor of unknown origin into {self.held.name(module)}.{name}")
            described = tuple(self.ref(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
            self.program.effects.append(Effect(holder, name, described, spec))

    def _find(self, tensor: Tensor) -> Place | None:
        return self._watch.find(tensor)

    def _location(self) -> Any:
        return self._watch.location()
