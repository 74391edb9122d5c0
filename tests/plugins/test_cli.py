"""``plugin-accel`` called in this process."""

from __future__ import annotations

import json
import sys
import types
from importlib.metadata import version
from typing import Any

import pytest
import torch

from plugin_accel import cli, plugins


def test_info_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for title in ("Versions", "Machine", "Plugins", "Backends", "Hosts"):
        assert f"{title}\n" in out
    assert "Broken plugins" not in out
    lines = [line.split() for line in out.splitlines()]
    assert ["torch", torch.__version__] in lines
    assert ["sinabs", "sinabs", version("sinabs")] in lines
    assert ["threads", str(torch.get_num_threads())] in lines
    assert any(line[:3] == ["cpu", "cpu", "yes"] for line in lines)


def test_info_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUGIN_ACCEL_BACKEND", "reference")
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["machine"]["PLUGIN_ACCEL_BACKEND"] == "reference"
    assert {backend["name"]: backend["usable"] for backend in facts["backends"]}["reference"] is True
    assert {"name": "sinabs", "framework": "sinabs", "installed": version("sinabs")} in facts["hosts"]
    assert {plugin["name"] for plugin in facts["plugins"]} >= {"cpu", "reference", "sinabs"}
    assert facts["failures"] == []


class Unusable:
    name = "broken"
    devices = frozenset({"xpu", "mps"})
    framework = "no_such_framework"

    def __init__(self, why: Any) -> None:
        self.why = why

    def unavailable(self) -> Any:
        if isinstance(self.why, Exception):
            raise self.why
        return self.why

    def __getattr__(self, name: str) -> Any:
        if name in ("details", "refuses", "forward", "backward", "loaded", "classes", "owns", "reasons"):
            return lambda *args: ()
        raise AttributeError(name)


@pytest.mark.parametrize(("why", "shown"), [("no driver\nfound", "no driver found"), (OSError("x"), "OSError: x")])
def test_a_backend_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, why: Any, shown: str
) -> None:
    monkeypatch.setattr(plugins, "backends", lambda: {"broken": Unusable(why)})
    monkeypatch.setattr(plugins, "hosts", lambda: {"broken": Unusable(why)})
    cli.main(["info"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"broken mps, xpu no {shown}" in lines
    assert "broken no_such_framework no" in lines


def test_broken_plugins_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "failures", lambda: {"bad": "ImportError: no libfoo"})
    cli.main(["info"])
    out = capsys.readouterr().out
    assert "Broken plugins, left out" in out
    assert "ImportError: no libfoo" in out


def test_without_the_compiled_library(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plugin_accel._C", None)
    cli.main(["info"])
    assert "the compiled library cannot be loaded" in capsys.readouterr().out


@pytest.mark.parametrize(("result", "status"), [(None, 0), (3, 3)])
def test_bench_gets_its_arguments(monkeypatch: pytest.MonkeyPatch, result: int | None, status: int) -> None:
    seen: list[list[str]] = []
    bench = types.ModuleType("plugin_accel.bench")
    bench.main = lambda argv: seen.append(argv) or result  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plugin_accel.bench", bench)
    assert cli.main(["bench", "--host", "sinabs", "--help"]) == status
    assert seen == [["--host", "sinabs", "--help"]]


def test_version_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == f"plugin-accel {version('plugin-accel')}"
    for argv in ([], ["nonsense"], ["info", "--nonsense"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(argv)
        assert caught.value.code == 2


def test_the_arguments_of_the_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["plugin-accel", "info", "--json"])
    cli.main()
    assert json.loads(capsys.readouterr().out)["versions"]["python"]
