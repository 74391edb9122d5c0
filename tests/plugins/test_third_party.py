"""A third party's package, installed by pip, adds a backend and a host; a broken one does no harm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parent / "third_party"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the plugin installed, and a second distribution whose plugin fails to import."""
    target = tmp_path_factory.mktemp("site")
    # Built from a copy: setuptools leaves files beside the sources.
    source = shutil.copytree(SOURCE, tmp_path_factory.mktemp("source") / "third_party")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    subprocess.run([*pip, *options], check=True, capture_output=True)

    (target / "broken_plugin.py").write_text("import a_library_that_is_not_installed\n")
    metadata = target / "broken_plugin-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text("[plugin_accel]\nbroken = broken_plugin\n")
    return target


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("PLUGIN_ACCEL_BACKEND", None)
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def run_script(site: Path, script: str) -> Any:
    """Runs a script that prints JSON, and returns that and what it wrote to stderr."""
    result = python(site, "-c", script)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def test_info_lists_what_it_brings(site: Path) -> None:
    result = python(site, "-m", "plugin_accel.cli", "info", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert {"name": "toynet", "from": "plugin-accel-toynet 0.3"} in facts["plugins"]
    assert [backend for backend in facts["backends"] if backend["name"] == "counting"] == [
        {"name": "counting", "devices": ["cpu"], "usable": True, "details": "the reference backend, counted"}
    ]
    assert {"name": "toynet", "framework": "toynet", "installed": "0.3"} in facts["hosts"]
    assert facts["failures"] == [
        {
            "name": "broken",
            "from": "broken-plugin 2.0",
            "error": "ModuleNotFoundError: No module named 'a_library_that_is_not_installed'",
        }
    ]
    assert result.stderr == ""


CONVERT = """
import json, sys, torch, toynet, plugin_accel
model = torch.nn.Sequential(torch.nn.Linear(4, 4), toynet.Leaky(0.7), toynet.Leaky(-0.7))
x = torch.rand(2, 6, 4)
expected = model(x)
plugin_accel.convert(model)
report = plugin_accel.report(model)
equal = torch.allclose(model(x), expected, atol=1e-6)
classes = [type(layer).__module__ for layer in model]
plugin_accel.restore(model)
print(json.dumps({
    "equal": equal, "classes": classes, "report": report.to_dict(), "restored": type(model[1]) is toynet.Leaky,
    "sinabs": "sinabs" in sys.modules,
}))
"""


def test_convert_takes_its_host(site: Path) -> None:
    facts, stderr = run_script(site, CONVERT)
    assert facts["equal"]
    assert facts["restored"]
    assert not facts["sinabs"]
    assert facts["classes"][1:] == ["plugin_accel_toynet.host"] * 2
    first, second = facts["report"]["rows"]
    assert (first["names"], first["host"], first["status"]) == (["1"], "toynet", "accelerated")
    assert (second["status"], second["reasons"]) == ("host", ["decay: expected a number in (0, 1], got -0.7"])
    # The broken one is announced once, and nothing else is.
    assert stderr.count("PluginAccelWarning") == 1
    assert "plugin 'broken' of plugin_accel does not work and is left out" in stderr


BACKEND = """
import json, torch, sinabs.layers as sl, plugin_accel, plugin_accel_toynet
layer = plugin_accel.convert(sl.IAF())
x = torch.rand(2, 6, 4, requires_grad=True)
with plugin_accel.use_backend("counting"):
    name = plugin_accel.report(layer).rows[0].backend
    out = layer(x)
out.sum().backward()
forward = plugin_accel_toynet.BACKEND.calls
gradient, x.grad = x.grad, None
host = sl.IAF()
expected = host(x)
expected.sum().backward()
print(json.dumps({
    "calls": forward, "name": name, "equal": torch.equal(out, expected),
    "gradient": torch.allclose(gradient, x.grad, rtol=1e-5),
}))
"""


def test_its_backend_computes(site: Path) -> None:
    facts, _ = run_script(site, BACKEND)
    assert facts == {"calls": 2, "name": "counting", "equal": True, "gradient": True}


def test_importing_the_package_loads_no_plugin(site: Path) -> None:
    script = """
import json, sys, plugin_accel
dir(plugin_accel)
print(json.dumps(sorted({"torch", "sinabs", "pluggy", "plugin_accel_toynet", "broken_plugin"} & set(sys.modules))))
"""
    loaded, stderr = run_script(site, script)
    assert loaded == []
    assert stderr == ""
