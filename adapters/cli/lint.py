"""`adapters lint`: what vLLM would refuse of an adapter, or serve wrongly; `--fix` converts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.registry import JsonOption, RegistryOption
from adapters.errors import UsageError
from adapters.render import emit_json

if TYPE_CHECKING:
    from adapters.examine import Examined
    from adapters.lint import Finding

_SHOWN = 20


def lint(
    target: Annotated[str, typer.Argument(help="A PEFT folder, or a version: NAME@v3.")],
    base: Annotated[
        str | None, typer.Option(help="The base it is for.  [default: the one it names]")
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Write a copy that can be served to --out.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="With --fix: a new folder.")] = None,
    rank: Annotated[
        int | None,
        typer.Option(min=1, max=512, help="With --fix: of the copy.  [default: exact, up to 64]"),
    ] = None,
    initial: Annotated[
        Path | None,
        typer.Option(
            help="With --fix: the adapter as saved before training (PiSSA, OLoRA, CorDA, LoRA-GA)."
            "  [default: e.g. pissa_init beside it]"
        ),
    ] = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Check that vLLM serves an adapter as PEFT does. Exits with 4 if it would not.

    Example: adapters lint ./checkpoint-500 --base Qwen/Qwen3-0.6B

    Example: adapters lint ./dora --base tiny --fix --out ./plain

    Example: adapters lint ./corda --base tiny --fix --initial ./corda_init --out ./plain
    """
    from adapters.examine import examine

    if fix:
        _fix(target, base, out, rank, initial, registry, json)
        return
    if out or rank or initial:
        raise UsageError(
            "--out, --rank and --initial are for --fix.", fix="Add --fix, or leave them out."
        )
    examined = examine(target, base=base, registry=registry)
    if json:
        emit_json(examined.as_json())
    else:
        typer.echo(_text(examined))
    if examined.report.findings:
        raise typer.Exit(4)


def _fix(
    target: str,
    base: str | None,
    out: Path | None,
    rank: int | None,
    initial: Path | None,
    registry: str | None,
    json: bool,
) -> None:
    from adapters.examine import examine

    if out is None:
        raise UsageError("--fix needs a folder to write to.", fix="Name a new one: --out DIR")
    examined = examine(target, base=base, registry=registry)
    if examined.base_path is None:
        raise UsageError("--fix needs the base.", fix="Name the one it was trained on: --base B")
    from train.convert import convert

    done = convert(examined.folder, out, examined.base_path, initial=initial, rank=rank)
    if json:
        emit_json({"path": str(out), **done.as_json()})
    else:
        typer.echo(f"{out}: {done.how}, relative error {done.error:.2g}.")
        needs = done.report.max_lora_rank
        typer.echo(f"Servable: rank {done.report.peft['r']}, needs max_lora_rank {needs}.")


def _text(examined: Examined) -> str:
    report = examined.report
    parts = [_listed(report.findings, ""), _listed(report.warnings, "Warning: ")]
    if report.modules:
        if report.matched is None:
            parts.append(
                f"{len(report.modules)} modules, not held against a base: "
                "its layers are not known here."
            )
        else:
            parts.append(
                f"{report.matched} of {len(report.modules)} modules match {examined.base}."
            )
    if report.findings:
        parts.append(f"Not servable: {len(report.findings)} findings.")
    elif not report.peft:
        parts.append("Servable: it has no weights.")
    else:
        rank = f"needs max_lora_rank {report.max_lora_rank}" if report.max_lora_rank else ""
        parts.append(f"Servable: rank {report.peft.get('r')}, {rank}.")
    return "\n".join(part for part in parts if part)


def _listed(findings: Sequence[Finding], word: str) -> str:
    lines = [
        f"{word}{f.where}: {f.message}\n  why  {f.consequence}.\n  fix  {f.fix}"
        for f in findings[:_SHOWN]
    ]
    if len(findings) > _SHOWN:
        lines.append(f"And {len(findings) - _SHOWN} more like these; --json lists them all.")
    return "\n".join(lines)
