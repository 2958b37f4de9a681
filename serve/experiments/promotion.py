"""An experiment's winner takes an alias over: on evidence, which the alias's history keeps."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.errors import Conflict, Rejected, UsageError
from adapters.experiments import Phase
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
            guardrail, or the base won, which no alias can lead to; or as `Registry.promote`.
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
    current = registry.aliases(name).get(alias)
    move = None
    if current != chosen.version:
        evidence = {**verdict.evidence, "verdict": verdict.kind, "said": verdict.said}
        move = registry.promote(
            f"{name}@v{chosen.version}",
            alias,
            if_current=current,
            reason=reason or f"{chosen.name} won {phase.experiment}",
            evidence={**evidence, "forced": True} if force else evidence,
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
