"""How results look: aligned tables for people, JSON for programs. Both on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return columns under headers; numbers right-aligned, None as a dash."""
    cells = [["–" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    numeric = [all(_is_number(row[i]) for row in cells) for i in range(len(headers))]
    lines = []
    for row in [list(headers), *cells]:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def emit_json(content: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False, default=str))


def _is_number(cell: str) -> bool:
    return cell == "–" or cell.replace(".", "", 1).replace(",", "").removesuffix("%").isdecimal()
