"""Compiles every kernel for every architecture, without a GPU, and writes down what each step's kernels need.

    python -m tests.cuda_backend.all_kernels --out cuda_kernels.json [--markdown cuda.md] [--architectures sm_90 ...]

The kernels of a step are compiled together, since they share their headers, which take as long as the kernels;
`PLUGIN_ACCEL_JOBS` processes do it, by default one for each core. What the file holds of the same sources is kept, so
that a run which was stopped goes on where it was; with `--only`, what it holds of other steps stays too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from plugin_accel.backends.cuda_compile import compile_source, compile_text, version
from plugin_accel.backends.cuda_source import KERNEL, Backward, Egru, Source, headers_digest
from plugin_accel.neurons import ALL

from .kernel_table import ARCHITECTURES, kernels, needs, others, steps

BEGIN, END = "<!-- kernels: begin -->", "<!-- kernels: end -->"


def groups() -> dict[str, list[Source]]:
    """Different kernels by the step that they share."""
    neurons = {n.index: n.name for n in ALL.values()}
    found: dict[str, list[Source]] = {}
    for source in dict.fromkeys([k for s in steps() for k in kernels(*s)] + list(others())):
        step = source.step
        name = "egru" if isinstance(source, Egru) else "sums"
        if step is not None:
            name = f"{neurons[step.neuron]} {'-'.join(map(str, step.options))}"
        found.setdefault(f"{name} fp64" if step and step.fp64 else name, []).append(source)
    return found


def text(sources: list[Source]) -> str:
    """All kernels of a step."""
    return sources[0].head + "".join(k.entry(f"k{i}", k.blocks) for i, k in enumerate(sources))


def digest(sources: list[Source]) -> str:
    """Of what decides the row of a step on an architecture."""
    return sha256("\0".join((text(sources), headers_digest(), version())).encode()).hexdigest()[:16]


def row(name: str, sources: list[Source], arch: str) -> dict[str, Any]:
    """What the kernels of a step need on an architecture: the most that one of them does."""
    found = needs(compile_text(name, text(sources), arch).log)
    fewer = []
    for i, source in enumerate(sources):
        if found[f"k{i}"].spilled or found[f"k{i}"].stack:
            fewer.append(source.body)
            found[f"k{i}"] = needs(compile_source(source, arch).log)[KERNEL]
    most = {"forward": 0, "backward": 0}
    for i, source in enumerate(sources):
        back = isinstance(source, Backward) or (isinstance(source, Egru) and source.way == "backward")
        way = "backward" if back else "forward"
        most[way] = max(most[way], found[f"k{i}"].registers)
    return {
        "step": name,
        "arch": arch,
        "source": digest(sources),
        "kernels": len(sources),
        "registers": most,
        "fewer_blocks": fewer,
        "spilled": sum(n.spilled for n in found.values()),
        "stack": sum(n.stack for n in found.values()),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table of neurons by architectures: most registers of all their steps, forward / backward."""
    archs = sorted({r["arch"] for r in rows}, key=lambda a: int(a[3:]))
    most: dict[str, dict[str, list[int]]] = {}
    counts: dict[str, int] = {}
    for r in rows:
        name = " ".join(part for part in r["step"].split() if "-" not in part)
        if r["arch"] == archs[0]:
            counts[name] = counts.get(name, 0) + r["kernels"]
        cell = most.setdefault(name, {}).setdefault(r["arch"], [0, 0])
        cell[:] = [max(cell[0], r["registers"]["forward"]), max(cell[1], r["registers"]["backward"])]
    lines = ["| | kernels | " + " | ".join(archs) + " |", "|---|---" + "|---" * len(archs) + "|"]
    for name, cells in most.items():
        shown = [f"{f} / {b}" if b else str(f) for f, b in (cells.get(a, (0, 0)) for a in archs)]
        lines.append(f"| {name} | {counts[name]} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def write(path: Path, compiler: str, rows: Iterable[dict[str, Any]]) -> None:
    """One line for each row."""
    body = ",\n".join(json.dumps(r) for r in rows)
    path.write_text(f'{{"compiler": {json.dumps(compiler)}, "rows": [\n{body}\n]}}\n')


def insert(path: Path, table: str) -> None:
    """Puts the table between the marks of a document."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--markdown", type=Path, help="document with the marks between which the table goes")
    parser.add_argument("--architectures", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--only", default="", help="steps whose name contains this")
    options = parser.parse_args()
    wanted = [(name, sources, arch) for arch in options.architectures for name, sources in groups().items()]
    start = time.monotonic()
    before = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    held = {(r["step"], r["arch"]): r for r in before}
    todo = [
        (name, sources, arch)
        for name, sources, arch in wanted
        if options.only in name and held.get((name, arch), {}).get("source") != digest(sources)
    ]
    with ProcessPoolExecutor(int(os.environ.get("PLUGIN_ACCEL_JOBS", os.cpu_count() or 1))) as pool:
        for done in pool.map(row, *zip(*todo, strict=True)) if todo else ():
            held[done["step"], done["arch"]] = done
            write(options.out, version(), held.values())
    rows = [held[name, arch] for name, _, arch in wanted if (name, arch) in held]
    write(options.out, version(), rows)
    if options.markdown:
        insert(options.markdown, markdown(rows))
    spilling = [r for r in rows if r["spilled"] or r["stack"]]
    fewer = sum(len(r["fewer_blocks"]) for r in rows)
    print(
        f"{sum(r['kernels'] for r in rows)} kernels, {len(todo)} steps anew in {time.monotonic() - start:.0f} s: "
        f"{fewer} have room for fewer blocks than meant, {len(spilling)} steps spill"
    )
    sys.exit(f"steps that spill: {[(r['step'], r['arch']) for r in spilling]}" if spilling else 0)


if __name__ == "__main__":
    main()
