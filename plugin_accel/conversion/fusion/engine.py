"""Runs a forward: records it twice, compares, then replays it fused for as long as nothing it read has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._C import _get_tracing_state, _len_torch_dispatch_stack

from plugin_accel import modes
from plugin_accel.conversion.fusion.guards import CALLS, Guards
from plugin_accel.conversion.fusion.layers import Layers
from plugin_accel.conversion.fusion.program import Unfusable, flatten, frozen, key_of
from plugin_accel.conversion.fusion.record import Recorder
from plugin_accel.conversion.fusion.replay import Replay
from plugin_accel.conversion.fusion.rewrite import rewrite
from plugin_accel.conversion.fusion.schedule import schedule

__all__ = ["Engine"]

_GPU = torch.device("cuda")
_MOST_VARIANTS = 8
_MOST_MISSES = 2
_MOST_SIGNATURES = 64


class _Variant:
    """What is known of a forward under one signature and one state of what it reads."""

    __slots__ = ("guards", "misses", "modules", "program", "proven", "reason", "replay", "table")

    def __init__(self) -> None:
        self.guards: Guards | None = None
        self.misses = 0
        self.modules: list[nn.Module] = []
        self.proven = False
        self.program: Any = None
        self.reason: str | None = None
        self.replay: Replay | None = None
        self.table = ""


class _Calls:
    """What is known of calls that were handed a module: kept by the module, so that it goes with it."""

    def __init__(self) -> None:
        self.by: WeakKeyDictionary[Engine, dict[Any, list[_Variant]]] = WeakKeyDictionary()

    # A copy has its own modules, so it starts anew; a pickle needs none of this to be read.
    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> Any:
        return type(None), ()


class Engine:
    """The fused forms of one forward.

    Args:
        explain: Print the schedule whenever one is made.
    """

    def __init__(self, explain: bool = False) -> None:
        self.explain = explain
        self.reason: str | None = "not called yet"
        self.table = ""
        self.calls = self.fused_calls = 0
        self._variants: dict[Any, list[_Variant]] = {}
        self._running = False

    # A copy or a pickle has its own modules, so it starts anew.
    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return Engine(self.explain)

    def __reduce__(self) -> Any:
        return Engine, (self.explain,)

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any, roots: list[nn.Module]) -> Any:
        """What ``function(*args, **kwargs)`` returns, with its effects.

        Args:
            function: The user's forward.
            args: Its arguments.
            kwargs: Its named arguments.
            roots: The modules that it belongs to.
        """
        self.calls += 1
        variant, leaves = self.ready(args, kwargs, roots)
        if variant is None:
            return function(*args, **kwargs)
        if not variant.proven and modes.is_checkpointed():
            self.reason = "activation checkpointing: call it three times without, and it runs fused with it too"
            return function(*args, **kwargs)
        if not variant.proven and modes.capturing(_GPU):
            self.reason = "a CUDA graph is captured: call it three times before, and it is captured fused"
            return function(*args, **kwargs)
        if variant.replay is not None:
            self.reason = None
            self.fused_calls += 1
            if variant.proven:
                return variant.replay.run(leaves)
            return self._first(variant, function, args, kwargs, leaves)
        if variant.reason is not None:
            self.reason = variant.reason
            return function(*args, **kwargs)
        self._running = True
        try:
            return self._record(variant, function, args, kwargs, leaves, roots)
        finally:
            self._running = False

    def ready(self, args: Any, kwargs: Any, roots: list[nn.Module]) -> tuple[_Variant | None, list[Any]]:
        """What is known of a call with these arguments now, ``None`` if it is not to be touched; and the arguments."""
        why = self._unable()
        if why is not None or self._running:
            self.reason = why or self.reason
            return None, []
        leaves, spec = flatten((args, kwargs))
        key = self._key(leaves, spec, roots)
        if key is None:
            return None, leaves
        known = self._known(leaves)
        if key not in known and len(known) >= _MOST_SIGNATURES:
            self.reason = f"more than {_MOST_SIGNATURES} signatures"
            return None, leaves
        variants = known.setdefault(key, [])
        for variant in variants:
            if variant.guards is None or variant.guards.hold(leaves):
                return variant, leaves
        if len(variants) >= _MOST_VARIANTS:
            self.reason = "what the forward reads changes at each call"
            return None, leaves
        variants.append(_Variant())
        return variants[-1], leaves

    def _known(self, leaves: list[Any]) -> dict[Any, list[_Variant]]:
        """The fused forms by signature: of a function that is handed networks, those for the first of them."""
        net = next((leaf for leaf in leaves if isinstance(leaf, nn.Module)), None)
        if net is None:
            return self._variants
        calls = vars(net).get(CALLS)
        if calls is None:
            calls = vars(net)[CALLS] = _Calls()
        found: dict[Any, list[_Variant]] = calls.by.setdefault(self, {})
        return found

    def _record(self, variant: _Variant, function: Any, args: Any, kwargs: Any, leaves: list[Any], roots: Any) -> Any:
        layers = Layers()
        modules = [*roots, *(leaf for leaf in leaves if isinstance(leaf, nn.Module))]
        recorder = Recorder(layers, leaves, modules)
        held = variant.guards.identities() if variant.guards is not None else None
        try:
            result = recorder.run(lambda: function(*args, **kwargs))
        except BaseException:
            self.reason = "the last call raised"
            raise
        reason = recorder.refusal
        after = flatten((args, kwargs))[0]
        if reason is None and (
            len(after) != len(leaves) or any(a is not b for a, b in zip(after, leaves, strict=True))
        ):
            reason = "changes a list or dict among its arguments"
        try:
            guards = recorder.guards()
        except Exception as error:
            guards, reason = None, reason or _told(error)
        if reason is None and variant.guards is not None:
            if not variant.guards.hold(leaves):
                reason = "changes what it reads itself"
            elif recorder.moved(held, variant.guards.identities()):
                reason = "keeps tensors from one call to the next outside of modules"
        if reason is None:
            program = recorder.program.fingerprint()
            if variant.program == program:
                try:
                    self._compile(variant, recorder, layers, function, args, kwargs)
                except Exception as error:
                    reason = _told(error)
            elif variant.program is not None:
                # The first call may have found empty states; after that, calls that differ have a cause we do not see.
                variant.misses += 1
                if variant.misses > _MOST_MISSES:
                    reason = "does something else at each call"
            variant.program = program
        variant.guards, variant.reason = guards, reason
        self.reason = reason or ("recorded once; fused from the third call on" if variant.replay is None else None)
        return result

    def _first(self, variant: _Variant, function: Any, args: Any, kwargs: Any, leaves: list[Any]) -> Any:
        """The first replay: if it fails, everything is put back and the user's own forward runs."""
        assert variant.replay is not None
        held = [(module._buffers, dict(module._buffers)) for module in variant.modules]
        values = [
            (tensor, tensor.detach().clone())
            for _, buffers in held
            for tensor in buffers.values()
            if tensor is not None
        ]
        random = torch.random.get_rng_state()
        try:
            result = variant.replay.run(leaves)
        except Exception as error:
            for registry, buffers in held:
                registry.clear()
                registry.update(buffers)
            with torch.no_grad():
                for tensor, value in values:
                    if tensor.shape == value.shape and not torch.equal(tensor, value):
                        tensor.copy_(value)
            torch.random.set_rng_state(random)
            variant.replay, variant.reason = None, _told(error)
            self.reason = variant.reason
            self.fused_calls -= 1
            return function(*args, **kwargs)
        variant.proven, variant.modules = True, []
        table = variant.replay.table()
        if self.explain and table != variant.table:  # a layer has refused to run as a sequence
            print(table)
        self.table = variant.table = table
        return result

    def _compile(
        self, variant: _Variant, recorder: Recorder, layers: Layers, function: Any, args: Any, kwargs: Any
    ) -> None:
        program = rewrite(recorder.program)
        variant.replay = Replay(program, schedule(program), layers)
        variant.modules = recorder.modules()
        self.table = variant.table = variant.replay.table()
        if self.explain:
            print(self.table)

    def _unable(self) -> str | None:
        if torch.compiler.is_compiling() or _get_tracing_state() is not None:
            return "torch traces or compiles the call"
        if _len_torch_dispatch_stack() or modes.has_function_mode():
            return "a torch mode is active"
        if modes.has_global_hook():
            return "torch has global module hooks"
        if torch.is_inference_mode_enabled():
            return "inference mode: tensors there do not tell of edits; use no_grad"
        return None

    def _key(self, leaves: list[Any], spec: Any, roots: list[nn.Module]) -> Any:
        """The signature of a call, or ``None`` with a reason."""
        parts: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                if type(leaf) not in (Tensor, nn.Parameter) or leaf.layout is not torch.strided:
                    self.reason = f"an argument is a {type(leaf).__name__} ({leaf.layout})"
                    return None
                parts.append((leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad))
            else:
                parts.append(frozen(leaf))
        amp = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
        dtypes = (torch.get_autocast_dtype("cpu"), torch.get_autocast_dtype("cuda")) if any(amp) else None
        # A shallow copy, such as a replica of DataParallel, shares the engine but not the weights.
        owners = tuple(map(id, roots))
        defaults = torch.get_default_dtype(), modes.default_devices()
        return owners, tuple(parts), key_of(spec), torch.is_grad_enabled(), amp, dtypes, defaults


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, Unfusable) else f"fusion failed ({type(error).__name__}: {error})"
