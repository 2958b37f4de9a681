"""`adapters ab shadows`: what a shadow answered, beside what users got."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.evidence import ExperimentOption, NameArgument, StoreOption
from adapters.cli.registry import JsonOption, RegistryOption
from adapters.registry import Registry
from adapters.render import emit_json, table


def shadows(
    name: NameArgument,
    out: Annotated[
        Path | None, typer.Option(help="Write the pairs of answers there, as JSONL.")
    ] = None,
    experiment: ExperimentOption = None,
    store: StoreOption = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Sum up what shadows answered; with --out write both answers to each prompt, where kept.

    Example: adapters ab shadows support --out pairs.jsonl
    """
    from serve.experiments.pairs import beside, write_pairs
    from serve.experiments.store.sql import SqlStore
    from serve.experiments.store.units import key_of

    opened = Registry.open(registry)
    phase = opened.phases(name, experiment)[-1]
    with closing(SqlStore(store)) as kept:
        key = key_of(name, phase.experiment)
        found = beside(kept.shadows(key))
        written = write_pairs(out, kept.shadows(key), phase, opened, name) if out else 0
    if json:
        emit_json([{**asdict(each), "experiment": phase.experiment} for each in found])
        return
    rows = [
        (each.arm, f"v{each.version}", each.copies, each.failed, each.pairs,
         _number(each.latency_ms), _number(each.output_tokens))
        for each in found
    ]  # fmt: skip
    columns = ["arm", "shadow", "copies", "failed", "pairs", "latency (ms)", "tokens"]
    typer.echo(table(columns, rows) if rows else f"No shadow of {phase.experiment} answered yet.")
    if out:
        typer.echo(f"{written:,} pairs in {out}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
