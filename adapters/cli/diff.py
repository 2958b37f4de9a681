"""`adapters diff`: how two versions differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.registry import JsonOption, RegistryOption
from adapters.registry import Registry
from adapters.render import emit_json, table

if TYPE_CHECKING:
    from adapters.diff import Difference


def diff(
    left: Annotated[str, typer.Argument(help="A version, e.g. support@v2.")],
    right: Annotated[str, typer.Argument(help="Another, of this adapter or another.")],
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two versions: base, recipe, dataset, metrics, and what they do to each module.

    Example: adapters diff support@v2 support@v3
    """
    from adapters.diff import compare

    opened = Registry.open(registry)
    found = compare(opened.resolve(left), opened.resolve(right))
    if json:
        emit_json(found.as_json())
    else:
        typer.echo(_text(found))


def _text(found: Difference) -> str:
    kinds = ("base", "peft", "recipe", "dataset", "metrics", "serving", "lineage")
    rows = [
        (kind, key, *map(_short, change))
        for kind in kinds
        for key, change in getattr(found, kind).items()
    ]
    parts = [table(["", "", found.left, found.right], rows)] if rows else []
    if found.modules:
        headers = ["module", "‖ΔW‖ left", "‖ΔW‖ right", "apart"]
        modules = [
            (m.module, _norm(m.left_norm), _norm(m.right_norm), f"{m.relative:.1%}")
            for m in found.modules
        ]
        parts.append(table(headers, modules))
    return "\n\n".join(parts) or f"{found.left} and {found.right} are the same."


def _norm(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _short(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return value if value is None or len(text) <= 40 else f"{text[:39]}…"
