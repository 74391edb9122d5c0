"""Fetches what gpu_check.py may lack on a GPU machine that has no network: wheels to be put beside the checkout.

    python benchmarks/gpu_wheels.py [--out ../wheels] [--python 3.12] [--cuda 13] [--without HOST ...]

Run it where there is a network, with any Python that has pip. NVRTC is left out: every CUDA build of torch brings it,
and its wheel is larger than all others together.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from gpu_check import CUDA, HOSTS, NEEDED, ROOT

PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (34, 31, 28, 27, 24, 17, 12, 5)]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def fetch(requirement: str, out: Path, python: str) -> str | None:
    """A wheel for that Python; built here where only sources are published. Returns what went wrong."""
    options = ["--no-deps", "--quiet", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    options += [f"--platform={platform}" for platform in PLATFORMS]
    made = subprocess.run([*PIP, "download", *options, "--dest", str(out), requirement], capture_output=True, text=True)
    if made.returncode == 0:
        return None
    before = set(out.glob("*.whl"))
    command = [*PIP, "wheel", "--no-deps", "--quiet", "--wheel-dir", str(out), requirement]
    built = subprocess.run(command, capture_output=True, text=True)
    bound = [path for path in set(out.glob("*.whl")) - before if not path.name.endswith("-none-any.whl")]
    for path in bound:  # to the Python that runs here
        path.unlink()
    return f"{requirement}: {made.stderr.strip()}\n{built.stderr.strip()}" if built.returncode or bound else None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT.parent / "wheels")
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--cuda", default="13", choices=CUDA, help="major version of its torch's CUDA")
    parser.add_argument("--without", nargs="*", default=[], choices=HOSTS, help="hosts that are not wanted there")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = [*NEEDED, *(name for name in CUDA[options.cuda] if "nvrtc" not in name)]
    for host, packages in HOSTS.items():
        wanted += packages if host not in options.without else ()
    failed = [why for name in dict.fromkeys(wanted) if (why := fetch(name, options.out, options.python))]
    wheels = sorted(options.out.glob("*.whl"))
    print(f"{options.out}: {len(wheels)} wheels, {sum(w.stat().st_size for w in wheels) / 2**20:.0f} MiB")
    sys.exit("\n".join(failed) if failed else 0)


if __name__ == "__main__":
    main()
