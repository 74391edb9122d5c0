"""``sinabs.accel`` in fresh interpreters, in regular and editable installs, with the host and without it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.packaging.conftest import Environment

pytestmark = pytest.mark.slow

LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)))"


def test_layers_stand_in_for_the_hosts(installed: Environment) -> None:
    accelerated, foreign, missing, others = installed.ask("""
import json
from sinabs.accel.layers import IAF, LIF, ExpLeak
import sinabs.layers as host, sinabs.accel.layers as ours
from plugin_accel.hosts.sinabs import classes
named = {cls.__name__: cls for cls in classes().values()}
public = [name for name in dir(host) if not name.startswith('_')]
print(json.dumps([
    sorted(name for name, cls in named.items() if getattr(ours, name, None) is cls and cls.__mro__[1] in classes()),
    sorted(named.keys() - set(dir(ours))),
    [name for name in public if not hasattr(ours, name)],
    [name for name in public if name not in named and getattr(ours, name) is not getattr(host, name)],
]))
""")
    assert {"ALIF", "ExpLeak", "ExpLeakSqueeze", "IAF", "IAFRecurrent", "IAFSqueeze", "LIF"} <= set(accelerated)
    assert foreign == missing == others == []


def test_one_changed_import_accelerates_a_norse_script(installed: Environment) -> None:
    missing, others, accelerated, restored, functions = installed.ask("""
import json, warnings
warnings.simplefilter("ignore")
import norse.torch.accel as norse
import norse.torch as host, plugin_accel, torch
from norse.torch.accel import convert, restore
from plugin_accel.hosts.norse import classes
public = [name for name in dir(host) if not name.startswith('_') and name != 'accel']
ours = {cls.__name__: cls for cls in classes().values()}
net = norse.SequentialState(torch.nn.Linear(3, 4), norse.LIF(), norse.LIFRecurrent(4, 4), norse.LI())
accelerated = len(plugin_accel.report(net).accelerated)
print(json.dumps([
    [name for name in public if not hasattr(norse, name)],
    [name for name in public if getattr(norse, name) is not ours.get(name, getattr(host, name))],
    accelerated,
    type(restore(net)[1]) is host.LIF,
    convert is plugin_accel.convert,
]))
""")
    assert missing == others == []
    assert accelerated == 3 and restored and functions


def test_one_changed_import_accelerates_a_snntorch_script(installed: Environment) -> None:
    missing, others, accelerated, restored, functions = installed.ask("""
import json
import snntorch.accel as snn
import snntorch as host, plugin_accel, torch
from snntorch.accel import convert, restore
from plugin_accel.hosts.snntorch import classes
public = [name for name in dir(host) if not name.startswith('_') and name != 'accel']
ours = {cls.__name__: cls for cls in classes().values()}
net = torch.nn.Sequential(torch.nn.Linear(3, 4), snn.Leaky(beta=0.9), snn.SLSTM(4, 4, reset_mechanism='zero'))
accelerated = len(plugin_accel.report(net).accelerated)
print(json.dumps([
    [name for name in public if not hasattr(snn, name)],
    [name for name in public if getattr(snn, name) is not ours.get(name, getattr(host, name))],
    accelerated,
    type(restore(net)[1]) is host.Leaky,
    convert is plugin_accel.convert,
]))
""")
    assert missing == others == []
    assert accelerated == 2 and restored and functions


def test_functions_are_plugin_accels(installed: Environment) -> None:
    assert installed.ask("""
import json
from sinabs.accel import convert, converted, layers, report, restore, use_backend
import plugin_accel, sinabs
ours = [convert, converted, report, restore, use_backend]
print(json.dumps([
    all(function is getattr(plugin_accel, function.__name__) for function in ours), sinabs.accel.layers is layers
]))
""") == [True, True]


def test_a_layer_made_under_the_host_name_computes(installed: Environment) -> None:
    same, status = installed.ask("""
import json, torch
import sinabs.layers as host
import sinabs.accel.layers as ours
from sinabs.accel import report
x = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0)) * 3
layer = ours.LIF(tau_mem=20.0)
print(json.dumps([torch.equal(layer(x), host.LIF(tau_mem=20.0)(x)), str(report(layer))]))
""")
    assert same
    assert "accelerated" in status


def test_start_of_python_loads_the_finder_alone(
    regular: Environment, editable: Environment, new_environment: Callable[[str], Environment]
) -> None:
    plain = set(new_environment("plain").ask(LOADED))
    assert set(regular.ask(LOADED)) - plain <= {"plugin_accel_namespaces", "__future__"}
    assert not {"plugin_accel", "torch", "sinabs"} & set(editable.ask(LOADED))


@pytest.mark.parametrize(
    "statement",
    [
        "import sinabs.accel",
        "import sinabs.accel.layers",
        "from sinabs.accel.layers import LIF",
        "import importlib; importlib.import_module('sinabs.accel.layers')",
        "import snntorch.accel as snn",
        "from snntorch.accel import convert, restore",
    ],
)
def test_absent_host_is_named_with_its_remedy(hostless: Environment, statement: str) -> None:
    shown = hostless.run(statement, check=False)
    name = "snntorch" if "snntorch" in statement else "sinabs"
    assert f"ModuleNotFoundError: {name}.accel" in shown
    assert f"expected {name} to be installed" in shown
    assert f"pip install 'plugin-accel[{name}]'" in shown


def test_absent_host_stays_absent(hostless: Environment) -> None:
    """Code that asks whether sinabs is there gets the same answer as without this package."""
    found, error = hostless.ask("""
import importlib.util, json
try:
    import sinabs
except ImportError as caught:
    error = [type(caught).__name__, str(caught), caught.name]
print(json.dumps([importlib.util.find_spec("sinabs") is not None, error]))
""")
    assert not found
    assert error == ["ModuleNotFoundError", "No module named 'sinabs'", "sinabs"]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_a_host_ships_itself_wins(hostless: Environment, tmp_path: Path) -> None:
    write(tmp_path / "sinabs/__init__.py", "")
    write(tmp_path / "sinabs/accel/__init__.py", "WHOSE = 'the host'")
    code = "import json, sinabs.accel; print(json.dumps(sinabs.accel.WHOSE))"
    assert hostless.ask(code, PYTHONPATH=str(tmp_path)) == "the host"


def test_a_namespace_is_added_by_its_folder(hostless: Environment, tmp_path: Path) -> None:
    """Also one deeper in the host, where only a part of the host may be missing."""
    finder = tmp_path / "finder"
    shutil.copytree(hostless.site_packages / "plugin_accel_namespaces", finder / "copied_namespaces")
    write(finder / "copied_namespaces/host/torch/accel/__init__.py", "from host.torch.accel.layers import ANSWER")
    write(finder / "copied_namespaces/host/torch/accel/layers.py", "ANSWER = 42")
    code = "import copied_namespaces as c; c.install(); c.install(); import json, host.torch.accel as a; "
    code += "print(json.dumps([a.ANSWER, a.layers.__name__]))"

    write(tmp_path / "whole/host/torch/__init__.py", "")
    write(tmp_path / "whole/host/__init__.py", "")
    both = os.pathsep.join([str(finder), str(tmp_path / "whole")])
    assert hostless.ask(code, PYTHONPATH=both) == [42, "host.torch.accel.layers"]

    write(tmp_path / "partial/host/__init__.py", "")
    both = os.pathsep.join([str(finder), str(tmp_path / "partial")])
    shown = hostless.run(code, check=False, PYTHONPATH=both)
    assert "host.torch.accel: expected host to be installed, got no module named 'host.torch'" in shown


def test_uninstalling_leaves_nothing(new_environment: Callable[[str], Environment], wheel: Path) -> None:
    environment = new_environment("uninstalled")
    site_packages = environment.site_packages
    (site_packages / "kept.txt").touch()  # pip removes a folder that it leaves empty
    environment.install(wheel)
    assert len(list(site_packages.iterdir())) > 1
    environment.uninstall()
    assert [path.name for path in site_packages.iterdir()] == ["kept.txt"]
    assert "No module named" in environment.run("import sinabs.accel", check=False)
