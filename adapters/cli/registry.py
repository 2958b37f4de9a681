"""`adapters list | show | promote | demote | rollback | log`: the registry's verbs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, NoReturn

import typer

from adapters.errors import RegistryUnavailable, UsageError
from adapters.labels import Labels, labels_of
from adapters.reading import Damaged, Survey
from adapters.registry import Registry
from adapters.render import emit_json, table
from adapters.selection import Condition, order, select
from adapters.standing import Standing
from adapters.types import PRODUCTION, AliasMove, LogEntry, Ref, Version, parse_number

RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        help="A folder, or hf://your-org.  "
        "[default: $ADAPTERS_REGISTRY, else $ADAPTERS_HOME, else ~/.adapters]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for the log.")]
AliasArgument = Annotated[str, typer.Argument(help="The alias to move.")]
IfCurrentOption = Annotated[
    str | None, typer.Option(help="Only if the alias points at this version now, e.g. v2.")
]
ConfirmOption = Annotated[bool, typer.Option("--yes", help="Move a protected alias, too.")]


def list_(
    name: Annotated[str | None, typer.Argument(help="Show this adapter's versions.")] = None,
    base: Annotated[str | None, typer.Option(help="Only versions of this base.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only with this tag; repeatable.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only within a bound, e.g. 'eval_loss<1.2'.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every version of every adapter.")] = False,
    sort: Annotated[
        str, typer.Option(help="name, version, created, r, size or a metric; -KEY turns it.")
    ] = "name",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """List adapters, each by the version its name means; or the versions of one, or a search.

    Exit code 1: something is damaged, and all the rest is listed.

    Example: adapters list support --metric 'eval_loss<1.2' --sort eval_loss
    """
    opened = Registry.open(registry)
    conditions = [Condition.parse(text) for text in metric or ()]
    whole = bool(name or all_ or base or tag or conditions)
    names = [name] if name else opened.names()
    surveys = {n: opened.survey(n, whole=whole, labels=True) for n in names}
    every = [version for survey in surveys.values() for version in survey.versions]
    damaged = [each for survey in surveys.values() for each in survey.damaged]
    found = order(
        select(
            every,
            base=base,
            tags=tag or (),
            tags_of=lambda version: labels_of(version, surveys[version.name].labels).tags,
            conditions=conditions,
        ),
        sort,
    )
    columns = ["eval_loss", *(condition.metric for condition in conditions)]
    listed: list[Version | Damaged] = [*found, *damaged]
    rows = [_row(surveys[each.name], each, columns) for each in listed]
    if json:
        emit_json(rows)
    elif rows:
        typer.echo(_rows(rows))
    elif every:
        typer.echo("No version meets all of that.")
    else:
        typer.echo(f"No adapters in {opened.location}. Train one: adapters train --help")
    if damaged:
        refuse_damaged(damaged)


def show(
    ref: Annotated[str, typer.Argument(help="NAME, NAME@v3, NAME@production, NAME@sha256:…")],
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show one version: base, recipe, rows, metrics, files.

    Example: adapters show support@production
    """
    opened = Registry.open(registry)
    version = opened.resolve(ref)
    standing = opened.standings(version.name).get(version.number)
    if json:
        emit_json(version_json(version, standing) | asdict(opened.labels(version)))
    else:
        typer.echo(_card(version, standing, opened.labels(version)))


def promote(
    ref: Annotated[str, typer.Argument(help="The version, e.g. support@v3.")],
    alias: AliasArgument = PRODUCTION,
    if_current: IfCurrentOption = None,
    reason: ReasonOption = "",
    yes: ConfirmOption = False,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Point an alias at a version. Running servers follow within a second.

    Example: adapters promote support@v3 --reason "exact match 0.93"
    """
    parsed = Ref.parse(ref)
    expected = None if if_current is None else parse_number(if_current)
    move = Registry.open(registry).promote(
        parsed, alias, if_current=expected, reason=reason, confirmed=yes
    )
    _show_move(parsed.name, alias, move, json)


def demote(
    ref: Annotated[str, typer.Argument(help="The alias, e.g. support@canary.")],
    if_current: IfCurrentOption = None,
    reason: ReasonOption = "",
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove production or a protected alias, too.")
    ] = False,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Remove an alias: servers answer 404 for it within a second. rollback brings it back.

    Example: adapters demote support@canary --reason "the trial is over"
    """
    parsed = Ref.parse(ref)
    if not parsed.alias:
        raise UsageError(f"{ref} names no alias.", fix=f"Write e.g. {parsed.name}@canary.")
    expected = None if if_current is None else parse_number(if_current)
    move = Registry.open(registry).demote(
        parsed.name, parsed.alias, if_current=expected, reason=reason, confirmed=yes
    )
    _show_move(parsed.name, parsed.alias, move, json)


def rollback(
    name: Annotated[str, typer.Argument(help="The adapter.")],
    alias: AliasArgument = PRODUCTION,
    steps: Annotated[int, typer.Option(help="How many promotions and demotions to undo.")] = 1,
    reason: ReasonOption = "",
    yes: ConfirmOption = False,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Point an alias back at what it pointed at before.

    Example: adapters rollback support --reason "complaints"
    """
    opened = Registry.open(registry)
    move = opened.rollback(name, alias, steps=steps, reason=reason, confirmed=yes)
    _show_move(name, alias, move, json)


def log(
    name: Annotated[str, typer.Argument(help="The adapter.")],
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Show what was done to an adapter, oldest first.

    Example: adapters log support
    """
    entries = Registry.open(registry).log(name)
    if json:
        emit_json([asdict(entry) for entry in entries])
        return
    rows = [
        (e.time, e.actor, e.action, f"v{e.version}" if e.version else None, e.alias, _why(e))
        for e in entries
    ]
    typer.echo(table(["time", "actor", "action", "version", "alias", "reason"], rows))


def _show_move(name: str, alias: str, move: AliasMove, json: bool) -> None:
    if json:
        emit_json({"adapter": name, "alias": alias, **asdict(move)})
        return
    before = f" (was v{move.from_version})" if move.from_version else ""
    to = f"v{move.to_version}" if move.to_version else "nowhere"
    typer.echo(f"{name}@{alias} → {to}{before}")


def refuse_damaged(damaged: list[Damaged]) -> NoReturn:
    """Say what could not be read, once all the rest is shown."""
    first = damaged[0].error
    if not damaged[0].number:
        raise RegistryUnavailable(first.message, fix=first.fix)
    ref = damaged[0].ref
    raise RegistryUnavailable(
        f"Damaged: {', '.join(each.ref for each in damaged)}. {first.message}",
        fix=f"Restore the file. Else keep it out: adapters verify {ref} --quarantine, "
        f"or delete it: adapters delete {ref}",
    )


def version_json(version: Version, standing: Standing | None = None) -> dict[str, Any]:
    """Return a version as `show --json` prints it."""
    return {
        **version.manifest.as_json(),
        "path": str(version.path),
        "engine_name": version.engine_name,
        "standing": asdict(standing) if standing else None,
    }


def _row(survey: Survey, found: Version | Damaged, metrics: list[str]) -> dict[str, Any]:
    standing = survey.standings.get(found.number) if found.number else None
    manifest = found.manifest if isinstance(found, Version) else None
    measured = manifest.metrics if manifest else {}
    return {
        "version": found.ref,
        "aliases": [alias for alias, n in survey.aliases.items() if n == found.number],
        "standing": standing.state if standing else None,
        "damaged": manifest is None,
        "tags": list(labels_of(found, survey.labels).tags) if isinstance(found, Version) else [],
        "base": manifest and manifest.base.id,
        "r": manifest and manifest.peft.get("r"),
        **{name: _rounded(measured.get(name)) for name in dict.fromkeys(metrics)},
        "rows": manifest and manifest.dataset.get("train_rows"),
        "created": manifest and manifest.created_at,
        "digest": manifest and manifest.digest,
    }


def _rows(rows: list[dict[str, Any]]) -> str:
    shown = [
        {
            **row,
            "aliases": ",".join(row["aliases"]) or None,
            "standing": "damaged" if row["damaged"] else row["standing"],
            "digest": row["digest"] and row["digest"][:12],
        }
        for row in rows
    ]
    columns = [column for column in rows[0] if column not in ("damaged", "tags")]
    return table(columns, [[row[column] for column in columns] for row in shown])


def _why(entry: LogEntry) -> object:
    return entry.detail.get("reason") or None


def _card(version: Version, standing: Standing | None, labels: Labels) -> str:
    manifest = version.manifest
    facts: list[tuple[str, object]] = [
        ("version", version.engine_name),
        ("standing", f"{standing.state}: {standing.reason}" if standing else None),
        ("path", version.path),
        ("created", manifest.created_at),
        ("base", f"{manifest.base.id} @ {manifest.base.revision[:19]}"),
        ("lora", ", ".join(f"{k}={v}" for k, v in manifest.peft.items())),
        ("dataset", ", ".join(f"{k}={v}" for k, v in manifest.dataset.items())),
        ("recipe", ", ".join(f"{k}={v}" for k, v in manifest.recipe.items() if v is not None)),
        ("metrics", ", ".join(f"{k}={_rounded(v)}" for k, v in manifest.metrics.items())),
        ("tags", ", ".join(labels.tags)),
        ("notes", labels.notes),
        ("serving", ", ".join(f"{k}={_short(v)}" for k, v in manifest.serving.items())),
        ("parents", ", ".join(manifest.parents) or None),
        ("lint", "passed" if manifest.lint.get("passed") else "failed"),
        ("size", f"{sum(f.size_bytes for f in manifest.files.values()) / 1e6:.1f} MB"),
    ]
    return "\n".join(f"{key:<8}  {value}" for key, value in facts if value not in (None, ""))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
