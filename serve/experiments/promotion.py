"""An experiment's winner takes an alias over: on evidence, which the alias's history keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.errors import Conflict, Rejected, UsageError
from adapters.experiments import Arm, Phase
from adapters.registry import Registry
from adapters.types import AliasMove
from serve.experiments.analysis import Report


def promote_winner(
    registry: Registry,
    name: str,
    phases: Sequence[Phase],
    report: Report,
    *,
    arm: str | None = None,
    force: bool = False,
    reason: str = "",
    confirmed: bool = False,
) -> AliasMove | None:
    """Move the design's alias to the winning arm's version, and end the experiment.

    `phases`, `report`: of the experiment, which may be over. `arm`: which one; None: the winner.
    `force`: without evidence, or against it; `reason` says why then. `confirmed`: as in
    `Registry.promote`. Returns the move; None: the alias leads there already.

    Two steps, each whole: killed between them, the alias has moved and the experiment runs on.

    Raises:
        UsageError: no such arm, or it is forced without an arm or a reason.
        Rejected: nothing won, something else did, the arms do not get their shares, it breaks a
            guardrail, or the base won, which no alias can lead to; or as `move_alias`.
        Conflict: the alias moved, or the experiment changed, since the report.
        NotFound: as `Registry.promote`.
    """
    phase, verdict = phases[-1], report.verdict
    if force and not (arm and reason):
        raise UsageError(
            "Nobody can be forced without saying who and why.", fix="Give --arm and --reason."
        )
    won = verdict.arm if verdict.kind == "winner" else None
    chosen = phase.arm(arm or won or phase.control.name)
    if not force and (won is None or chosen.name != won):
        raise Rejected(
            f"There is no evidence for {arm or 'any arm'}: {verdict.said}",
            fix="Wait, or say why it may be done without: --arm, --force and --reason.",
        )
    if chosen.version is None:
        raise Rejected(
            "The base is no version, so no alias can lead to it.",
            fix=f"Stop the experiment (adapters ab stop {name}), or demote the alias.",
        )
    alias = phase.design.alias
    evidence = {**verdict.evidence, "verdict": verdict.kind, "said": verdict.said}
    move = move_alias(
        registry,
        name,
        phase,
        chosen,
        reason=reason or f"{chosen.name} won {phase.experiment}",
        evidence={**evidence, "forced": True} if force else evidence,
        force=force,
        confirmed=confirmed,
    )
    if phase.status != "stopped":
        try:
            registry.stop_experiment(name, reason=f"{chosen.name} promoted", after=phase)
        except Conflict as error:
            raise Conflict(
                f"{name}@{alias} leads to {chosen.name}, and {error.message[:1].lower()}"
                f"{error.message[1:]}",
                fix=f"See what changed (adapters ab log {name}), and stop it.",
            ) from error
    return move


def move_alias(
    registry: Registry,
    name: str,
    phase: Phase,
    arm: Arm,
    *,
    reason: str,
    evidence: Mapping[str, Any],
    force: bool = False,
    confirmed: bool = False,
) -> AliasMove | None:
    """Move the design's alias to an arm's version; None: it leads there already.

    `force`: even where it leads to what no arm is. `confirmed`: as in `Registry.promote`.

    Raises:
        Conflict: the experiment has another phase than this one by now, or the alias moves.
        Rejected: the alias leads to a version that was not compared, or as `Registry.promote`.
        NotFound: as `Registry.promote`.
    """
    now = registry.experiment(name)
    if phase.status != "stopped" and now != phase:
        ran = now and now.experiment == phase.experiment
        raise Conflict(
            f"{phase.experiment} is {f'in phase {now.number}' if now and ran else 'over'} by now.",
            fix=f"See what changed: adapters ab log {name}",
        )
    alias, current = phase.design.alias, registry.aliases(name).get(phase.design.alias)
    if current == arm.version:
        return None
    if current is not None and current not in {each.version for each in phase.arms} and not force:
        raise Rejected(
            f"{arm.name} won, but {alias} moved to v{current} meanwhile, which it was not compared"
            " with.",
            fix=f"Decide: adapters promote {name}@v{arm.version} {alias}",
        )
    return registry.promote(
        f"{name}@v{arm.version}",
        alias,
        if_current=current,
        reason=reason,
        evidence=evidence,
        confirmed=confirmed,
    )
