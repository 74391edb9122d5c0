"""Plain text tables."""

from __future__ import annotations

__all__ = ["table"]


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Aligns cells in columns, with a rule under the first row."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
