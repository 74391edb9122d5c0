"""The command line: ``plugin-accel info`` and ``plugin-accel bench``.

Plain argparse and plain text: the tool that says what is wrong with an installation should need none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from typing import Any

from plugin_accel import plugins
from plugin_accel.conversion.reporting import table
from plugin_accel.errors import PluginAccelWarning

ENVIRONMENT_VARIABLE = "PLUGIN_ACCEL_BACKEND"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments after the program's name; those of the process, if ``None``.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # The benchmark has its own options; argparse would try to read them.
    if arguments[:1] == ["bench"]:
        return int(import_module("plugin_accel.bench").main(arguments[1:]) or 0)
    options = _parser().parse_args(arguments)
    facts = gather()
    print(json.dumps(facts, indent=2) if options.json else render(facts))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plugin-accel", description="Accelerated neuron layers for spiking-network frameworks."
    )
    parser.add_argument("--version", action="version", version=f"plugin-accel {_version('plugin-accel')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    info = commands.add_parser("info", help="show versions, plugins, backends (usable or why not) and the machine")
    info.add_argument("--json", action="store_true", help="print JSON")
    commands.add_parser("bench", help="measure host and backends; `plugin-accel bench --help` lists its options")
    return parser


def gather() -> dict[str, Any]:
    """Collects what ``info`` shows. Imports no host framework; what fails to load is told, not raised."""
    import torch

    with warnings.catch_warnings():
        # The same failures are part of the output.
        warnings.simplefilter("ignore", PluginAccelWarning)
        backends = plugins.backends()
        hosts = plugins.hosts()
        failures = plugins.failures()
    manager = plugins.manager()
    return {
        "versions": {
            "plugin-accel": _version("plugin-accel"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pluggy": _version("pluggy"),
        },
        "machine": {
            "platform": platform.platform(),
            "isa": _instruction_set(),
            "threads": torch.get_num_threads(),
            ENVIRONMENT_VARIABLE: os.environ.get(ENVIRONMENT_VARIABLE, "not set, so: auto"),
        },
        "spikes": _spike_facts(),
        "plugins": [
            {"name": name, "from": manager.origins.get(name, "registered by this process")}
            for name, plugin in manager.list_name_plugin()
            if plugin is not None
        ],
        "failures": [
            {"name": name, "from": manager.origins.get(name, "registered by this process"), "error": error}
            for name, error in failures.items()
        ],
        "backends": [_backend_facts(backend) for backend in backends.values()],
        "hosts": [_host_facts(host) for host in hosts.values()],
    }


def render(facts: dict[str, Any]) -> str:
    """Renders the facts of :func:`gather` as plain text tables; empty ones are left out."""
    sections = {
        "Versions": [("package", "version"), *facts["versions"].items()],
        "Machine": [("what", "value"), *facts["machine"].items()],
        "Density below which SpikeLinear and SpikeConv2d compute from the spikes": [
            ("product", "density"),
            *((name.replace("_", " "), value) for name, value in facts["spikes"].items()),
        ],
        "Plugins": [("plugin", "from"), *((p["name"], p["from"]) for p in facts["plugins"])],
        "Broken plugins, left out": [
            ("plugin", "from", "error"),
            *((f["name"], f["from"], f["error"]) for f in facts["failures"]),
        ],
        "Backends": [
            ("backend", "devices", "usable", "details"),
            *((b["name"], ", ".join(b["devices"]), b["usable"], b["details"]) for b in facts["backends"]),
        ],
        "Hosts": [
            ("host", "framework", "installed"),
            *((h["name"], h["framework"], h["installed"]) for h in facts["hosts"]),
        ],
    }
    shown = {title: rows for title, rows in sections.items() if len(rows) > 1}
    return "\n\n".join(
        "\n".join([title, *table([tuple(_text(cell) for cell in row) for row in rows])])
        for title, rows in shown.items()
    )


def _text(value: object) -> str:
    """One cell: on one line, since a plugin's error may have several."""
    if value is None or isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split())


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _instruction_set() -> str:
    """The instruction set the compiled library chose on this machine."""
    try:
        return str(import_module("plugin_accel._C").isa())
    except ImportError as error:
        return f"the compiled library cannot be loaded: {error}"


def _spike_facts() -> dict[str, Any]:
    """The break-evens of `SpikeLinear` and `SpikeConv2d`: pinned, or measured now for one shape each."""
    import torch

    try:
        choice = import_module("plugin_accel.layers.spike_choice")
        linear = import_module("plugin_accel.layers.spike_call").break_even_of
        convolution = import_module("plugin_accel.layers.spike_conv")
    except ImportError:  # told by `_instruction_set`
        return {}
    pinned = choice.pinned()
    found = pinned or linear(torch.zeros(1024, 784), torch.zeros(1000, 784), torch.zeros(1000), True)
    of = f"by {choice.VARIABLE}" if pinned else "measured for a training step of 1024 x 784 x 1000"
    told = {f"linear, {name}": f"{value:.0%}, {of}" for name, value in found._asdict().items()}
    images, weight = torch.zeros(64, 32, 16, 16), torch.zeros(64, 32, 3, 3)
    geometry = convolution.Geometry((1, 1), (1, 1), (1, 1))
    of = f"by {choice.VARIABLE}" if pinned else "measured for 3 x 3, 32 -> 64 channels, 64 images of 16 x 16"
    for name, training in (("forward", False), ("forward and weight gradient", True)):
        limit = convolution.break_even_of(images, weight, geometry, training)
        told[f"convolution, {name}"] = f"{limit:.0%}, {of}"
    return told


def _backend_facts(backend: Any) -> dict[str, Any]:
    try:
        why_not = backend.unavailable()
        details = backend.details() if why_not is None else why_not
    except Exception as error:
        why_not = details = f"{type(error).__name__}: {error}"
    devices = sorted(backend.devices)
    return {"name": backend.name, "devices": devices, "usable": why_not is None, "details": details}


def _host_facts(host: Any) -> dict[str, Any]:
    framework = getattr(host, "framework", host.name)
    package = framework.partition(".")[0]  # norse.torch is a part of norse
    installed = _version(package)
    if installed is None and find_spec(package) is not None:
        # The distribution may be called otherwise than what one imports.
        names = packages_distributions().get(package, [])
        installed = _version(names[0]) if names else "not as a distribution"
    return {"name": host.name, "framework": framework, "installed": installed}


if __name__ == "__main__":
    sys.exit(main())
