"""The plugin manager with entry points made up in the test."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch

import plugin_accel
from plugin_accel import backends, plugins
from plugin_accel.errors import PluginAccelWarning


class FakeDistribution:
    def __init__(self, name: str) -> None:
        self.name = name
        self.version = "1.0"


class FakeEntryPoint:
    """An entry point that loads what it is given, or raises it."""

    def __init__(self, name: str, plugin: Any, dist: str = "other") -> None:
        self.name = name
        self.plugin = plugin
        self.dist = FakeDistribution(dist)

    def load(self) -> Any:
        if isinstance(self.plugin, BaseException):
            raise self.plugin
        return self.plugin


def make_backend(name: Any = "one", **changes: Any) -> Any:
    backend = types.SimpleNamespace(name=name, devices=frozenset({"cpu"}), saves_input=False)
    for method in ("unavailable", "details", "refuses", "forward", "backward"):
        setattr(backend, method, lambda *args: None)
    for key, value in changes.items():
        setattr(backend, key, value)
    return backend


def make_plugin(backends: Any = None, hosts: Any = None) -> types.ModuleType:
    module = types.ModuleType("made_up")
    if backends is not None:
        module.plugin_accel_backends = plugin_accel.hookimpl(  # type: ignore[attr-defined]
            backends if callable(backends) else lambda: backends
        )
        module.plugin_accel_backends.__name__ = "plugin_accel_backends"
    if hosts is not None:
        module.plugin_accel_hosts = plugin_accel.hookimpl(  # type: ignore[attr-defined]
            hosts if callable(hosts) else lambda: hosts
        )
    return module


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Replaces the entry points of this environment for one test."""

    def replace(*entry_points: FakeEntryPoint) -> None:
        plugins.reset()
        monkeypatch.setattr(plugins, "entry_points", lambda group: list(entry_points))

    yield replace
    monkeypatch.undo()
    plugins.reset()


def only_failure(match: str) -> tuple[str, str]:
    """The one failure there is; the first look at the plugins warns of it."""
    with pytest.warns(PluginAccelWarning, match=match):
        plugins.backends()
        plugins.hosts()
    ((name, text),) = plugins.failures().items()
    return name, text


def test_the_built_in_plugins_come_from_entry_points() -> None:
    plugins.reset()
    assert {"cpu", "reference"} <= set(plugins.backends())
    assert "sinabs" in plugins.hosts()
    assert plugins.manager().origins["sinabs"].startswith("plugin-accel ")
    assert plugins.failures() == {}


def test_backends_and_hosts_from_outside(install: Callable[..., None]) -> None:
    backend, second = make_backend("one"), make_backend("two")
    install(FakeEntryPoint("p", make_plugin(backends=[backend])), FakeEntryPoint("q", make_plugin(backends=(second,))))
    assert plugins.backends() == {"one": backend, "two": second}
    assert plugins.hosts() == {}
    assert plugins.manager() is plugins.manager()


@pytest.mark.parametrize(
    "error", [ImportError("no libfoo.so"), RuntimeError("boom"), SystemExit(3), SyntaxError("bad")], ids=repr
)
def test_an_entry_point_that_does_not_load(install: Callable[..., None], error: BaseException) -> None:
    install(FakeEntryPoint("bad", error), FakeEntryPoint("good", make_plugin(backends=[make_backend()])))
    with pytest.warns(PluginAccelWarning, match=r"plugin 'bad' .* left out"):
        assert list(plugins.backends()) == ["one"]
    assert plugins.failures() == {"bad": f"{type(error).__name__}: {error}"}


def test_a_module_that_is_missing(install: Callable[..., None]) -> None:
    install(EntryPoint("gone", "no_such_module.accel", "plugin_accel"))  # type: ignore[arg-type]
    assert only_failure("no_such_module") == ("gone", "ModuleNotFoundError: No module named 'no_such_module'")
    assert plugins.manager().origins["gone"] == "unknown distribution"


def test_a_failure_is_announced_once(install: Callable[..., None]) -> None:
    install(FakeEntryPoint("bad", ImportError("x")))
    with pytest.warns(PluginAccelWarning) as caught:
        plugins.backends()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugins.backends()
        plugins.hosts()
        plugins.failures()


def test_warnings_as_errors_leave_a_manager_that_works(install: Callable[..., None]) -> None:
    install(FakeEntryPoint("bad", ImportError("x")), FakeEntryPoint("good", make_plugin(backends=[make_backend()])))
    with pytest.raises(PluginAccelWarning):
        plugins.backends()
    assert list(plugins.backends()) == ["one"]


def test_an_unknown_hook(install: Callable[..., None]) -> None:
    module = make_plugin(backends=[make_backend()])
    module.plugin_accel_kernels = plugin_accel.hookimpl(lambda: [])  # type: ignore[attr-defined]
    install(FakeEntryPoint("new", module), FakeEntryPoint("good", make_plugin(backends=[make_backend("two")])))
    name, text = only_failure("unknown hook 'plugin_accel_kernels'")
    assert name == "new"
    assert "PluginValidationError" in text
    # Rejected as a whole: what its other hooks bring is not used either.
    assert list(plugins.backends()) == ["two"]


def test_a_wrong_signature(install: Callable[..., None]) -> None:
    install(FakeEntryPoint("odd", make_plugin(backends=lambda device: [])))
    name, text = only_failure("declared in the hookimpl")
    assert name == "odd"
    assert "PluginValidationError" in text
    assert not plugins.manager().has_plugin("odd")


@pytest.mark.parametrize("plugin", [types.ModuleType("empty"), 3, "text", None], ids=repr)
def test_a_plugin_without_hooks(install: Callable[..., None], plugin: Any) -> None:
    install(FakeEntryPoint("empty", plugin))
    assert "expected a hook marked with plugin_accel.hookimpl" in only_failure("empty")[1]


def test_an_unhashable_plugin(install: Callable[..., None]) -> None:
    plugin = types.SimpleNamespace(plugin_accel_backends=plugin_accel.hookimpl(lambda: [make_backend()]))
    install(FakeEntryPoint("dict", plugin))
    assert "unhashable" in only_failure("dict")[1]


def test_a_hook_that_raises(install: Callable[..., None]) -> None:
    def fail() -> Any:
        yield make_backend("early")
        raise OSError("no driver")

    install(
        FakeEntryPoint("p", make_plugin(backends=fail)), FakeEntryPoint("q", make_plugin(backends=[make_backend()]))
    )
    assert only_failure("no driver") == ("p", "plugin_accel_backends: OSError: no driver")
    assert list(plugins.backends()) == ["early", "one"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (3, "TypeError"),
        ([3], "returned a int: expected `name`"),
        ([make_backend(name="")], "expected `name`, a non-empty string other than 'auto', got ''"),
        ([make_backend(name="auto")], "other than 'auto', got 'auto'"),
        ([make_backend(forward=None, details=3)], "got none for details, forward"),
        ([make_backend(devices="cpu")], "expected `devices`, a frozenset of torch device types, got 'cpu'"),
        ([make_backend(devices={1})], "expected `devices`"),
        ([make_backend(saves_input=None)], "expected `saves_input`, a bool, got None"),
    ],
)
def test_an_answer_that_is_no_backend(install: Callable[..., None], answer: Any, text: str) -> None:
    install(FakeEntryPoint("p", make_plugin(backends=answer)))
    name, failure = only_failure("plugin 'p'")
    assert name == "p"
    assert text in failure
    assert plugins.backends() == {}


def test_an_answer_that_is_no_host(install: Callable[..., None]) -> None:
    install(FakeEntryPoint("p", make_plugin(hosts=[types.SimpleNamespace(name="h", loaded=bool)])))
    assert "got none for classes, owns, reasons" in only_failure("plugin 'p'")[1]


def test_an_attribute_that_raises(install: Callable[..., None]) -> None:
    class Nasty:
        @property
        def name(self) -> str:
            raise OSError("no")

    install(FakeEntryPoint("p", make_plugin(backends=[Nasty()], hosts=[Nasty()])))
    with pytest.warns(PluginAccelWarning):
        plugins.backends()
    with pytest.warns(PluginAccelWarning):
        plugins.hosts()
    assert plugins.failures()["p"] == (
        "plugin_accel_backends returned a Nasty: OSError: no; plugin_accel_hosts returned a Nasty: OSError: no"
    )


def test_of_two_backends_of_one_name_the_first_wins(install: Callable[..., None]) -> None:
    first, second = make_backend(), make_backend()
    install(FakeEntryPoint("a", make_plugin([first])), FakeEntryPoint("b", make_plugin([second, make_backend("two")])))
    assert only_failure("'one'")[0] == "b"
    assert plugins.backends()["one"] is first
    assert list(plugins.backends()) == ["one", "two"]


def test_ours_come_first(install: Callable[..., None]) -> None:
    mine, theirs = make_backend(), make_backend()
    install(
        FakeEntryPoint("cpu", make_plugin([theirs]), dist="a-squatter"),
        FakeEntryPoint("cpu", make_plugin([mine]), dist="plugin-accel"),
    )
    name, text = only_failure("unique name")
    assert plugins.backends()["one"] is mine
    assert name == "cpu (a-squatter 1.0)"
    assert "'cpu', which plugin-accel 1.0 already uses" in text


def test_registering_by_hand(install: Callable[..., None]) -> None:
    install()
    assert plugins.backends() == {}
    plugin = make_plugin([make_backend()])
    plugins.manager().register(plugin, name="mine")
    assert list(plugins.backends()) == ["one"]
    plugins.manager().unregister(plugin)
    assert plugins.backends() == {}


def test_the_choice_of_a_backend_follows(install: Callable[..., None]) -> None:
    def choose() -> Any:
        return backends.choose("cpu", torch.float32, "any")

    install()
    assert choose() is None
    plugin = make_plugin([backend := make_backend()])
    plugins.manager().register(plugin, name="mine")
    assert choose() is backend
    plugins.manager().unregister(plugin)
    assert choose() is None
    plugins.reset()
    install(FakeEntryPoint("p", make_plugin([other := make_backend("two")])))
    assert choose() is other


def test_the_caller_gets_a_dict_of_its_own(install: Callable[..., None]) -> None:
    install(FakeEntryPoint("p", make_plugin([make_backend()])))
    plugins.backends().clear()
    assert list(plugins.backends()) == ["one"]
