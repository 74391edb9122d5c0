"""What every suite does with its options and its results."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol, TypeVar


class Named(Protocol):
    """A workload."""

    @property
    def name(self) -> str:
        """As in --only."""
        ...


_N = TypeVar("_N", bound=Named)


def chosen(options: argparse.Namespace, workloads: Iterable[_N]) -> list[_N]:
    """Those that ``--only`` names."""
    patterns = options.only.split(",") if options.only else ["*"]
    return [w for w in workloads if any(fnmatchcase(w.name, p) for p in patterns)]


def told(options: argparse.Namespace, workloads: Sequence[Named]) -> int | None:
    """The exit code, where there is nothing to measure: ``--list``, or an ``--only`` that matches nothing."""
    if options.list:
        print("\n".join(w.name for w in workloads))
        return 0
    if not workloads:
        print(f"bench: expected --only to match a workload, got {options.only!r}; --list names them", file=sys.stderr)
        return 1
    return None


def write(
    options: argparse.Namespace,
    name: str,
    results: dict[str, Any],
    markdown: Callable[[], str],
    draw: Callable[[dict[str, Any], Path], None] | None = None,
) -> None:
    """Write ``<name>-cpu.json``, with ``--markdown`` the tables, and the figure that ``draw`` makes."""
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / f"{name}-cpu.json"
    target.write_text(json.dumps(results, indent=1) + "\n")
    written = [target]
    if options.markdown:
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(markdown())
        written.append(options.markdown)
    if draw is not None:
        written.append(target.with_suffix(".png"))
        draw(results, written[-1])
    print("Written:", *written)
