"""What ``import plugin_accel`` brings into a process."""

from __future__ import annotations

import json
import subprocess
import sys

# torch itself imports `cuda` where the CUDA bindings are installed, so of these it is the compiler that counts.
HEAVY = ["sinabs", "snntorch", "norse", "matplotlib", "rich", "sklearn", "cuda.core"]


def loaded_by(code: str) -> set[str]:
    code += "; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_no_host_no_plugin_and_no_tool() -> None:
    loaded = loaded_by("import torch, plugin_accel")
    assert not loaded & {*HEAVY, "plugin_accel.hosts", "plugin_accel.backends", "plugin_accel.conversion"}


def test_import_needs_no_torch_of_its_own() -> None:
    """Names are looked up on first use: the package itself is a page of Python."""
    assert {name for name in loaded_by("import plugin_accel") if name.startswith("torch")} == set()


def test_import_initialises_no_device() -> None:
    code = "import torch, plugin_accel; assert not torch.cuda.is_initialized()"
    assert "plugin_accel" in loaded_by(code)


def test_conversion_loads_no_host_that_is_not_in_use() -> None:
    loaded = loaded_by(
        "import torch, warnings, plugin_accel; warnings.simplefilter('ignore');"
        "plugin_accel.convert(torch.nn.Linear(2, 2)); plugin_accel.report(torch.nn.Linear(2, 2))"
    )
    assert not loaded & {*HEAVY, "plugin_accel.hosts.sinabs"}
