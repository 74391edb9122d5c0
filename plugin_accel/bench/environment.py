"""What the measurement ran on."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def describe(framework: str) -> dict[str, Any]:
    """Versions, processor, instruction set, threads and load: what a reader needs to place the numbers."""
    library = import_module("plugin_accel._C")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "plugin_accel": version("plugin-accel"),
        framework: version(framework),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": library.isa(),
        "compiler": library.compiler(),
        "openmp": library.openmp(),
        "allocator": os.environ.get("LD_PRELOAD") or "the C library's",
        "load_before": load(),
    }


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def load() -> float | None:
    """Load average of the last minute, ``None`` where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
