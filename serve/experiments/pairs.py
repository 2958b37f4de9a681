"""What shadows answered beside the real answers: for people to judge, and to train on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

from adapters.errors import AdaptersError, UsageError
from adapters.experiments import Phase
from adapters.registry import Registry
from adapters.types import BASE_ARM
from serve.experiments.store.base import Shadow


@dataclass(frozen=True, slots=True)
class Beside:
    """All copies of one arm's requests that one version answered."""

    arm: str
    version: int
    copies: int
    failed: int
    pairs: int
    """Of which both answers were kept."""
    latency_ms: float | None
    """Median of the whole answer."""
    output_tokens: float | None
    """Mean."""


def beside(shadows: Iterable[Shadow]) -> list[Beside]:
    """Return the shadows beside each arm, by arm and version."""
    found: dict[tuple[str, int], list[Shadow]] = {}
    for shadow in shadows:
        found.setdefault((shadow.arm, shadow.version), []).append(shadow)
    return [_summed(*key, each) for key, each in sorted(found.items())]


def pairs(
    shadows: Iterable[Shadow], phase: Phase, named: Callable[[int], str]
) -> Iterator[dict[str, Any]]:
    """Yield each pair of answers that were kept, as JSON, the prompt as it was asked.

    `phase`: any of the experiment. `named`: what to call a version. Whose answer stands first
    is as good as by chance, so that a judge learns nothing from it.
    """
    for shadow in shadows:
        if shadow.prompt is None or shadow.answer is None or shadow.shadow_answer is None:
            continue
        version = phase.arm(shadow.arm).version
        answers = [
            {"model": BASE_ARM if version is None else named(version), "text": shadow.answer},
            {"model": named(shadow.version), "text": shadow.shadow_answer},
        ]
        if hashlib.sha256(shadow.id.encode()).digest()[0] & 1:
            answers.reverse()
        yield {"request_id": shadow.request_id, **json.loads(shadow.prompt), "answers": answers}


def write_pairs(
    path: Path, shadows: Iterable[Shadow], phase: Phase, registry: Registry, name: str
) -> int:
    """Write the pairs of an adapter's experiment as JSONL, all or none; returns how many.

    Versions bear their engine names, so that a pair says for ever whose answers it holds; those
    that are deleted meanwhile their refs.

    Raises:
        UsageError: it cannot be written there.
    """

    @cache
    def named(number: int) -> str:
        try:
            return registry.resolve(f"{name}@v{number}").engine_name
        except AdaptersError:
            return f"{name}@v{number}"

    written, partial = 0, path.with_name(f".{path.name}.part")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            for pair in pairs(shadows, phase, named):
                stream.write(json.dumps(pair, ensure_ascii=False) + "\n")
                written += 1
        partial.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}.", fix="Name another file."
        ) from error
    return written


def _summed(arm: str, version: int, shadows: list[Shadow]) -> Beside:
    latencies = [each.latency_ms for each in shadows if each.latency_ms is not None]
    tokens = [each.output_tokens for each in shadows if each.output_tokens is not None]
    return Beside(
        arm,
        version,
        len(shadows),
        sum(each.error for each in shadows),
        sum(each.prompt is not None for each in shadows),
        median(latencies) if latencies else None,
        fmean(tokens) if tokens else None,
    )
