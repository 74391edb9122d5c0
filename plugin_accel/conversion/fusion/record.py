"""Writes down what a forward does while it runs on real data.

The run is the user's own: what it returns, prints and changes is what it would without a recorder. Whatever cannot be
replayed later (a value read into Python, an edit in place, an unknown tensor) ends the recording, not the run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plugin_accel.conversion.fusion import functions
from plugin_accel.conversion.fusion.guards import SIMPLE, Guards, Place
from plugin_accel.conversion.fusion.holdings import Holdings
from plugin_accel.conversion.fusion.layers import Layers
from plugin_accel.conversion.fusion.probes import autocast, has_mask, is_hooked, random_state, version, writes
from plugin_accel.conversion.fusion.program import Meta, Node, Program, Ref, Unfusable, flatten, frozen, meta_of
from plugin_accel.conversion.fusion.watch import Watch

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
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._recorder.paused or functions.name_of(func) in functions.QUESTIONS:
            return func(*args, **kwargs)
        with self._recorder.unwatched():
            return self._recorder.function(func, args, kwargs)


class _Unwatched:
    def __enter__(self) -> None:
        self._before = sys.getprofile()
        sys.setprofile(None)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)


class Recorder:
    """One recording.

    Args:
        layers: What is known of layers.
        arguments: The flattened arguments of the forward.
        roots: The modules that are known before it runs.
    """

    def __init__(self, layers: Layers, arguments: list[Any], roots: list[nn.Module]) -> None:
        self.program = Program(grad=torch.is_grad_enabled())
        self.refusal: str | None = None
        self.paused = True
        self._layers = layers
        self._watch = Watch(self, layers.is_host)
        self._known: dict[int, Ref] = {}
        self._kept: list[Any] = []
        self._held = Holdings()
        self._opaque: dict[int, nn.Module] = {}
        self._hooked: dict[int, nn.Module] = {}
        self._inputs: list[tuple[Tensor, int]] = []
        self._storages: dict[int, set[int]] = {}
        self._path: list[str] = []
        self._open: tuple[Any, ...] | None = None
        self._amp = autocast()
        self._random = random_state()
        for index, value in enumerate(arguments):
            if isinstance(value, Tensor):
                self._held.put(value, Place(None, index))
            elif not isinstance(value, (*SIMPLE, nn.Module)):
                self._held.add_object(value)
        for root in roots:
            self._held.add_module(root, "")

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
        for value in (*self._held.modules.values(), *self._held.objects):
            guards.add_object(value)
        return guards

    def modules(self) -> list[nn.Module]:
        """The modules that took part."""
        return list(self._held.modules.values())

    def moved(self, before: list[int] | None, after: list[int]) -> bool:
        """Whether watched places hold other tensors now that no effect of the program put there."""
        put = {id(holder.get(name)) for holder, name, _ in self.program.effects}
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
                self._in_place(name, func, args, kwargs, result, changed)
            elif name in functions.DYNAMIC or has_mask(name, args):
                raise Unfusable(f"{name} gives a tensor whose size depends on values")
            else:
                self._add("op", func, leaves, spec, result, random=random, name=name)
        except Unfusable as why:
            self.refuse(str(why))
        return result

    def module(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A module is called."""
        with self.unwatched():
            name, opaque = self._look_at(module)
        self._path.append(name)
        try:
            if not opaque:
                return _original_call(module, *args, **kwargs)
            with self.unwatched():
                self._check_states(module)
                self.begin("call", module, args, kwargs)
                result = _original_call(module, *args, **kwargs)
                self.end(result)
                return result
        finally:
            self._path.pop()

    def _look_at(self, module: nn.Module) -> tuple[str, bool]:
        """The name of a module, and whether it is called as a whole."""
        if id(module) not in self._held.modules:
            self._held.add_module(module, type(module).__name__)
        name, opaque = self._held.label(module), self._layers.is_opaque(module)
        if is_hooked(module):
            self._hooked[id(module)] = module
            if len(self._hooked) > 1:
                self.refuse("several modules have hooks, which must be called in the order of the loop")
            if any(self._layers.is_opaque(part) for part in module.modules() if part is not module):
                self.refuse(f"{name} has a hook and holds layers with a state")
            opaque = True
        return name, opaque and not self.paused

    def unwatched(self) -> _Unwatched:
        """A block whose Python code is ours, or is called as a whole."""
        return _Unwatched()

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
            name = self._path[-1] if self._path else ""
            if any(version(t) != v for t, v in zip(tensors, versions, strict=True)):
                raise Unfusable(f"{name or target} edits its input in place")
            random = self._drew()
            if kind == "call":
                self._opaque[id(target)] = target
            self._add(kind, target, leaves, spec, result, random=random, name=name)
            for module in [target] if kind == "call" else self._held.modules.values() if kind == "host" else ():
                self._held.remember(module)
            self.paused = False
        except Unfusable as why:
            self.refuse(str(why))

    # -- writing down -----------------------------------------------------------------------------------------------

    def _add(
        self, kind: str, target: Any, leaves: list[Any], spec: Any, result: Any, *, random: bool, name: str
    ) -> None:
        self._check_mode()
        outs, out_spec = flatten(result)
        fresh = [
            out
            for out in outs
            if isinstance(out, Tensor) and id(out) not in self._known and self._held.place(out) is None
        ]
        if kind == "op" and not fresh:
            if any(isinstance(out, Tensor) for out in outs):
                return  # the same tensors again: `.to()` of what is there already, a switch that is off
            if name in ("__eq__", "__ne__", "eq", "ne") and any(leaf is None for leaf in leaves):
                return
            raise Unfusable(f"reads values of a tensor into Python ({name})")
        if kind == "call" and len(fresh) != sum(isinstance(out, Tensor) for out in outs):
            raise Unfusable(f"{name} gives back a tensor that was there before")
        filled = tuple(self._ref(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        described = [
            self._ref(out) if isinstance(out, Tensor) and id(out) not in map(id, fresh) else out for out in outs
        ]
        self._append(kind, target, filled, spec, described, out_spec, random)

    def _append(
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
        key = (kind, target if kind == "op" else id(target), spec, static, metadata, random, grad)
        label = next((name for name in reversed(self._path) if name), "")
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
                (*key, self._parameters(kind, filled), self._watch.location() if kind == "op" else None),
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

    def _ref(self, tensor: Tensor) -> Ref:
        known = self._known.get(id(tensor))
        if known is not None:
            return known
        place = self._held.place(tensor)
        if place is None:
            place = self._watch.find(tensor)
        if place is None:
            raise Unfusable("uses a tensor of unknown origin: made by code that torch does not see, or kept somewhere")
        if type(tensor) not in (Tensor, nn.Parameter):
            raise Unfusable(f"uses a {type(tensor).__name__}")
        ref = Ref(len(self.program.nodes), 0)
        owner = "arguments" if place.holder is None else id(place.holder)
        key = ("input", owner, place.key, meta_of(tensor))
        self.program.nodes.append(Node("input", place, (), None, (meta_of(tensor),), (ref,), None, "", key=key))
        self._learn(tensor, ref)
        self._inputs.append((tensor, version(tensor)))
        return ref

    def _learn(self, tensor: Tensor, ref: Ref) -> None:
        self._known[id(tensor)] = ref
        self._kept.append(tensor)
        if tensor.layout is torch.strided:
            self._storages.setdefault(tensor.untyped_storage().data_ptr(), set()).add(id(tensor))

    def _in_place(self, name: str, func: Any, args: Any, kwargs: Any, result: Any, changed: list[Tensor]) -> None:
        refused = Unfusable(f"edits a tensor in place ({name})")
        if kwargs.get("inplace") and result is changed[0] is args[0]:
            functional: Any = func
            kwargs = {**kwargs, "inplace": False}
        else:
            functional = functions.FUNCTIONAL.get(name)
        target = self._known.get(id(result)) if isinstance(result, Tensor) else None
        if functional is None or target is None or len(changed) != 1 or changed[0] is not result:
            raise refused
        if self.program.nodes[target.node].kind not in ("op", "select"):
            raise refused
        others = [a for a in args if isinstance(a, Tensor)]
        if any(other.dtype != result.dtype for other in others):
            raise refused
        if len(self._storages.get(result.untyped_storage().data_ptr(), ())) != 1:
            raise refused
        leaves, spec = flatten((args, kwargs))
        filled = tuple(self._ref(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        self._append("op", functional, filled, spec, [result], flatten(result)[1], False)

    def _check_random(self) -> None:
        """Random numbers come from calls that are replayed, and nothing else touches the generators."""
        if self._random != random_state():
            self.refuse("seeds or reads a random number generator")

    def _drew(self) -> bool:
        before, self._random = self._random, random_state()
        return before != self._random

    def _check_mode(self) -> None:
        if torch.is_grad_enabled() is not self.program.grad:
            raise Unfusable("switches gradients on or off inside")
        if autocast() != self._amp:
            raise Unfusable("switches autocast inside")

    # -- modules and what they hold ---------------------------------------------------------------------------------

    def _check_states(self, module: nn.Module) -> None:
        """Someone may have put other states into a layer since it ran last."""
        for key, tensor in self._held.new_states(module):
            self._set(module._buffers, key, tensor, module)

    def _set(self, holder: dict[str, Any], key: str, tensor: Tensor, module: nn.Module) -> None:
        ref = self._known.get(id(tensor))
        if ref is None:
            raise Unfusable(f"puts a tensor of unknown origin into {self._held.name(module)}.{key}")
        self.program.nodes.append(Node("set", (holder, key, module), (ref,), None, (), key=("set", id(holder), key)))

    def _finish(self, result: Any) -> None:
        self._check_random()
        for tensor, before in self._inputs:
            if version(tensor) != before:
                raise Unfusable("edits a tensor that comes from outside in place")
        for module in list(self._held.modules.values()):
            self._effects(module)
        leaves, spec = flatten(result)
        for leaf in leaves:
            if not isinstance(leaf, (Tensor, int, float, str, bytes, bool, type(None), torch.dtype, torch.device)):
                raise Unfusable(f"returns a {type(leaf).__name__}")
        self.program.outputs = tuple(self._ref(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        self.program.spec = spec

    def _effects(self, module: nn.Module) -> None:
        if id(module) in self._opaque or self._layers.is_opaque(module):
            self._check_states(module)
            return
        for holder, name, tensor in self._held.changes(module):
            ref = self._known.get(id(tensor))
            if ref is None:
                raise Unfusable(f"puts a tensor of unknown origin into {self._held.name(module)}.{name}")
            self.program.effects.append((holder, name, ref))
