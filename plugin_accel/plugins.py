"""The plugin manager: finds backends and hosts, and survives the plugins that are broken.

Built-in and third-party plugins come through the same entry-point group, ``plugin_accel``. Each is loaded on its
own. One that fails to import, to register, or to answer is remembered in :func:`failures` and announced by one
warning; the others keep working.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from plugin_accel import hookspecs
from plugin_accel.errors import PluginAccelWarning

if TYPE_CHECKING:
    from plugin_accel.backends import Backend
    from plugin_accel.hosts import Host

GROUP = "plugin_accel"
_OWN_DISTRIBUTION = "plugin-accel"
# "auto" is what PLUGIN_ACCEL_BACKEND says for "choose for me".
_RESERVED_NAMES = frozenset({"auto"})
_SKIPPED_FRAMES = ("plugin_accel", "contextlib")
_METHODS = {
    "plugin_accel_backends": ("unavailable", "details", "refuses", "forward", "backward"),
    "plugin_accel_hosts": ("loaded", "classes", "owns", "reasons"),
}


class Manager(pluggy.PluginManager):
    """A pluggy manager that forgets what it collected whenever a plugin comes or goes."""

    def __init__(self) -> None:
        super().__init__(hookspecs.PROJECT)
        self.add_hookspecs(hookspecs)
        self.origins: dict[str, str] = {}
        self.load_failures: dict[str, str] = {}
        self._collected: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Registers ``plugin``; see :meth:`pluggy.PluginManager.register`."""
        hash(plugin)  # pluggy keeps plugins in sets: refuse here rather than fail at each later hook call
        self._changed()
        return super().register(plugin, name)

    def unregister(self, plugin: object | None = None, name: str | None = None) -> Any:
        """Unregisters a plugin; see :meth:`pluggy.PluginManager.unregister`."""
        self._changed()
        return super().unregister(plugin, name)

    def _changed(self) -> None:
        self._collected.clear()
        _forget_choices()

    def load(self, entry_point: EntryPoint) -> None:
        """Loads one entry point. Whatever goes wrong is recorded, never raised."""
        origin = _origin(entry_point)
        name = entry_point.name if entry_point.name not in self.origins else f"{entry_point.name} ({origin})"
        self.origins[name] = origin
        try:
            if name != entry_point.name:
                raise ValueError(
                    f"plugin name: expected a unique name, got {entry_point.name!r}, which"
                    f" {self.origins[entry_point.name]} already uses; rename the entry point"
                )
            plugin = entry_point.load()
            self.register(plugin, name=name)
            self.check_pending()
            if not self.get_hookcallers(plugin):
                raise ValueError(f"plugin: expected a hook marked with plugin_accel.hookimpl, got none in {plugin!r}")
        # SystemExit: a module that calls sys.exit() on import must not end the user's program.
        except (Exception, SystemExit) as error:
            if self.has_plugin(name):
                self.unregister(name=name)
            self.load_failures[name] = _describe(error)

    def collect(self, hook: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Calls ``hook`` on each plugin separately.

        Args:
            hook: Name of the hook.

        Returns:
            The good answers by their ``name``, in order of registration, and the failures by plugin.
        """
        if hook not in self._collected:
            found: dict[str, Any] = {}
            failures: dict[str, str] = {}
            for plugin_name, plugin in self.list_name_plugin():
                answers, problems = self._ask(hook, plugin)
                for item in answers:
                    problem = _problem(hook, item)
                    if problem is None and item.name in found:
                        problem = f"expected a unique name, got {item.name!r}, which another plugin brought first"
                    if problem is None:
                        found[item.name] = item
                    else:
                        problems.append(f"{hook} returned a {type(item).__name__}: {problem}")
                if problems:
                    failures[plugin_name] = "; ".join(problems)
            self._collected[hook] = found, failures
        return self._collected[hook]

    def _ask(self, hook: str, plugin: object) -> tuple[list[Any], list[str]]:
        """Calls ``hook`` on one plugin; returns what it answered and what went wrong."""
        others = [other for _, other in self.list_name_plugin() if other is not None and other is not plugin]
        answers: list[Any] = []
        try:
            for answer in self.subset_hook_caller(hook, others)():
                # Item by item: of a generator that fails half way, what came before still counts.
                for item in answer:
                    answers.append(item)
        except (Exception, SystemExit) as error:
            return answers, [f"{hook}: {_describe(error)}"]
        return answers, []


class _Process:
    """What this process keeps: the manager, once built, and the problems it has been told of."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.manager: Manager | None = None
        self.announced: set[tuple[str, str]] = set()


_process = _Process()


def manager() -> Manager:
    """The one plugin manager of this process. The first call loads the entry points."""
    with _process.lock:
        if _process.manager is None:
            fresh = Manager()
            for entry_point in _entry_points():
                fresh.load(entry_point)
            _process.manager = fresh
            _announce(fresh.load_failures)
        return _process.manager


def backends() -> dict[str, Backend]:
    """All backends by name, in order of registration, whether or not they can be used on this machine."""
    return _collect("plugin_accel_backends")


def hosts() -> dict[str, Host]:
    """All hosts by name, in order of registration, whether or not their framework is imported."""
    return _collect("plugin_accel_hosts")


def failures() -> dict[str, str]:
    """What is wrong, by plugin name: entry points that failed to load and hooks that failed to answer."""
    current = manager()
    result = dict(current.load_failures)
    with _process.lock:
        for hook in _METHODS:
            for name, text in current.collect(hook)[1].items():
                result[name] = f"{result[name]}; {text}" if name in result else text
    return result


def reset() -> None:
    """Forgets all plugins, so that the next call loads the entry points again. For tests."""
    with _process.lock:
        _process.manager = None
        _process.announced.clear()
        _forget_choices()


def _forget_choices() -> None:
    # Looked up, since plugin_accel.backends imports this module; it remembers which backend runs what.
    forget = getattr(sys.modules.get("plugin_accel.backends"), "forget_choices", None)
    if forget is not None:
        forget()


def _collect(hook: str) -> dict[str, Any]:
    current = manager()
    with _process.lock:
        found, problems = current.collect(hook)
    _announce(problems)
    return dict(found)


def _announce(problems: dict[str, str]) -> None:
    """Warns of each problem once in the life of the process."""
    for name, text in problems.items():
        if (name, text) not in _process.announced:
            _process.announced.add((name, text))
            warn(f"plugin {name!r} of plugin_accel does not work and is left out: {text}")


def warn(text: str) -> None:
    """Warns at the user's line: the innermost frame that is neither ours nor contextlib's."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _SKIPPED_FRAMES:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, PluginAccelWarning, stacklevel=level)


def _entry_points() -> list[EntryPoint]:
    """Our own plugins first, so that no other package can take their names; the rest in a stable order."""

    def order(entry_point: EntryPoint) -> tuple[bool, str, str]:
        origin = _origin(entry_point)
        return origin.split(" ")[0] != _OWN_DISTRIBUTION, origin, entry_point.name

    own: Iterable[EntryPoint] = entry_points(group=GROUP)
    return sorted(own, key=order)


def _origin(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist
    return "unknown distribution" if distribution is None else f"{distribution.name} {distribution.version}"


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _problem(hook: str, item: Any) -> str | None:
    """What is wrong with one answer to ``hook``, ``None`` if nothing."""
    try:
        name = getattr(item, "name", None)
        if not isinstance(name, str) or not name or name in _RESERVED_NAMES:
            return f"expected `name`, a non-empty string other than 'auto', got {name!r}"
        missing = [method for method in _METHODS[hook] if not callable(getattr(item, method, None))]
        if missing:
            return f"expected the methods {', '.join(_METHODS[hook])}, got none for {', '.join(missing)}"
        if hook == "plugin_accel_backends":
            devices = getattr(item, "devices", None)
            if not isinstance(devices, (frozenset, set)) or not all(isinstance(device, str) for device in devices):
                return f"expected `devices`, a frozenset of torch device types, got {devices!r}"
            if not isinstance(getattr(item, "saves_input", None), bool):
                return f"expected `saves_input`, a bool, got {getattr(item, 'saves_input', None)!r}"
    except Exception as error:
        return _describe(error)
    return None
