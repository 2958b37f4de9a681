"""`adapters verify | retire | delete | gc | du | protect`: keeping the registry's house."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.registry import JsonOption, ReasonOption, RegistryOption
from adapters.errors import InvalidAdapter, UsageError
from adapters.housekeeping import Housekeeping, Verdict
from adapters.render import emit_json, table
from adapters.retention import Retention, Usage
from adapters.runs import StoppedRun, remove_runs, stopped_runs
from adapters.types import PRODUCTION, Ref

if TYPE_CHECKING:
    from adapters.copies import Copies

VersionArgument = Annotated[str, typer.Argument(help="The version, e.g. support@v3.")]
CacheOption = Annotated[
    bool, typer.Option("--cache", help="This machine's copies of the Hub's versions instead.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Yes, delete for good.")]


def verify(
    ref: Annotated[str | None, typer.Argument(help="The version, e.g. support@v3.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every version there is.")] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Do not choose or serve what is damaged.")
    ] = False,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Read every byte again and compare it with what was published. Exit code 4: damage.

    A quarantined version that verifies is released.

    Example: adapters verify --all --quarantine
    """
    if (ref is None) != every:
        raise UsageError("What is to be verified?", fix="Name one version, or say --all.")
    verdicts = Housekeeping.open(registry).examine(ref, quarantine=quarantine)
    if json:
        emit_json([asdict(verdict) for verdict in verdicts])
    else:
        typer.echo("\n".join(_line(verdict) for verdict in verdicts) or "Nothing to verify.")
    if damaged := [verdict.version for verdict in verdicts if verdict.damage]:
        raise InvalidAdapter(
            f"Damaged: {', '.join(damaged)}.",
            fix="Restore the files from a copy, or publish again; --quarantine keeps them out.",
        )


def retire(
    ref: VersionArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Serve it again.")] = False,
    reason: ReasonOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Serve a version to no new request any more; it stays, and can come back.

    Example: adapters retire support@v1 --reason "answers in the old tone"
    """
    opened = Housekeeping.open(registry)
    version = (opened.restore if undo else opened.retire)(ref, reason=reason)
    if json:
        emit_json({"version": version.ref, "retired": not undo, "reason": reason})
    else:
        typer.echo(f"{version.ref} is {'served again' if undo else 'retired'}.")


def tag(
    ref: VersionArgument,
    add: Annotated[
        list[str] | None, typer.Option(help="A tag, e.g. lang=de; may be repeated.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")] = None,
    notes: Annotated[str | None, typer.Option(help="Free text in place of what is there.")] = None,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Change a version's tags and notes; they stand beside it, the version stays as it is.

    Example: adapters tag support@v3 --add lang=de --remove draft
    """
    if not add and not remove and notes is None:
        raise UsageError("What is to be changed?", fix="Say --add, --remove or --notes.")
    opened = Housekeeping.open(registry)
    labels = opened.label(ref, add=add or (), remove=remove or (), notes=notes)
    version = opened.resolve(ref).ref  # however it was named
    if json:
        emit_json({"version": version, **asdict(labels)})
    else:
        typer.echo(f"{version}: {', '.join(labels.tags) or 'no tags'}")
        if labels.notes:
            typer.echo(labels.notes)


def delete(
    ref: VersionArgument,
    yes: YesOption = False,
    reason: ReasonOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Delete a version for good; a tombstone stays, its number is never used again.

    Example: adapters delete support@v1 --yes --reason "trained on the wrong rows"
    """
    if not yes:
        raise UsageError(f"{ref} would be gone for good.", fix="Add --yes to delete it.")
    buried = Housekeeping.open(registry).delete(ref, reason=reason)
    version = f"{Ref.parse(ref).name}@v{buried.version}"
    if json:
        emit_json({"version": version, **buried.detail})
    else:
        typer.echo(f"{version} is deleted.")


def gc(
    keep_last: Annotated[
        int, typer.Option(help="Keep so many of each adapter's last versions.")
    ] = 3,
    runs_older_than: Annotated[
        float,
        typer.Option(min=0, help="Days that a stopped training run may still be gone on with."),
    ] = 30,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would go; so without --yes.")
    ] = False,
    yes: YesOption = False,
    cache: CacheOption = False,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Delete versions that nobody holds, what killed writers left, and runs that were given up.

    Kept: what aliases point at and one rollback brings back, running experiments' arms, what
    servers have loaded, the last versions, and the parents of all these. Of training runs on this
    machine that were stopped, whatever the registry, the old ones that no process holds go. With
    --cache: copies of the Hub's versions on this machine but the last and what its servers have
    loaded, and nothing else; they are fetched again when they are needed.

    Example: adapters gc --keep-last 5 --yes
    """
    opened, deleting = _of(registry, cache), yes and not dry_run
    gone = opened.collect(keep_last=keep_last) if deleting else opened.plan(keep_last=keep_last)
    choose = remove_runs if deleting else stopped_runs
    runs = [] if cache else choose(older_than_days=runs_older_than)
    if json:
        emit_json(
            {
                "deleted": deleting,
                "versions": [asdict(usage) for usage in gone],
                "runs": [run.as_json() for run in runs],
            }
        )
        return
    if every := [*gone, *map(_usage, runs)]:
        typer.echo(_sizes(every))
    count = f"{len(gone)} version(s)" + (f" and {len(runs)} stopped run(s)" if runs else "")
    total = f"{count}, {sum(usage.size_bytes for usage in every):,} bytes"
    typer.echo(f"Deleted {total}." if deleting else f"Would delete {total}. Do it: --yes")


def du(
    cache: CacheOption = False, registry: RegistryOption = None, json: JsonOption = False
) -> None:
    """Show how many bytes each adapter, each version and each stopped training run takes.

    Example: adapters du
    """
    found = _of(registry, cache).usage()
    names = sorted({usage.version.partition("@")[0] for usage in found})
    totals = {
        name: sum(u.size_bytes for u in found if u.version.partition("@")[0] == name)
        for name in names
    }
    runs = [] if cache else stopped_runs()
    if json:
        emit_json(
            {
                "adapters": totals,
                "versions": [asdict(usage) for usage in found],
                "runs": [run.as_json() for run in runs],
            }
        )
    else:
        summed = [Usage(name, size) for name, size in totals.items()]
        typer.echo(_sizes([*map(_usage, runs), *found, *summed]))


def protect(
    name: Annotated[str, typer.Argument(help="The adapter.")],
    alias: Annotated[str, typer.Argument(help="The alias.")] = PRODUCTION,
    undo: Annotated[bool, typer.Option("--undo", help="Protect it no longer.")] = False,
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Have promote, demote and rollback of an alias ask for --yes.

    Example: adapters protect support production
    """
    opened = Housekeeping.open(registry)
    (opened.unprotect if undo else opened.protect)(name, alias)
    if json:
        emit_json({"alias": f"{name}@{alias}", "protected": not undo})
    else:
        typer.echo(f"{name}@{alias} {'moves freely' if undo else 'asks for --yes'} from now on.")


def _of(registry: str | None, cache: bool) -> Retention | Copies:
    if not cache:
        return Retention.open(registry)
    if registry:
        raise UsageError(
            f"The copies are this machine's, not of {registry}.", fix="Leave out --registry."
        )
    from adapters.copies import Copies

    return Copies()


def _line(verdict: Verdict) -> str:
    kept_out = " (quarantined)" if verdict.quarantined else ""
    return f"{verdict.version}: {verdict.damage or 'as published'}{kept_out}"


def _usage(run: StoppedRun) -> Usage:
    return Usage(f"run {run.run}, stopped on {run.changed_at:%Y-%m-%d}", run.size_bytes)


def _sizes(usages: list[Usage]) -> str:
    return table(["version", "bytes"], [(u.version, f"{u.size_bytes:,}") for u in usages])
