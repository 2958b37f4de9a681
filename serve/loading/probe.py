"""The effect probe: weights that vLLM took in must do something, and something finite.

vLLM says 200 to adapters that it then answers without: under keys it does not know, say. Lint
finds those it knows of; this finds the others, once for each version, before its first answer.
"""

from __future__ import annotations

import asyncio
import math

from adapters.canary import Answers, distance, read
from adapters.errors import InvalidAdapter, Unavailable
from adapters.files import CANARY_FILE
from adapters.types import Version
from serve.engines.engine import Engine

TOLERANCE = 1e-4
"""Natural logprob. Below any effect that training has, above what float32 differs by between two
batches; both canaries are asked at once, so as a rule in one."""


class FailedProbe(Unavailable):
    """Weights that do nothing, or nothing finite. They never change, so trying again is no use."""


async def probe(engine: Engine, version: Version) -> None:
    """Compare a loaded version's answers to the canary prompts with the base's, and with those
    that were recorded where it was published.

    Raises:
        FailedProbe: it answers as the base does, otherwise than it did, or with numbers that are
            none.
        Unavailable: the engine did not answer.
    """
    base, adapted, recorded = await asyncio.gather(
        engine.canary(None),
        engine.canary(version.engine_name),
        asyncio.to_thread(_recorded, version),
    )
    if not all(math.isfinite(logprob) for answer in adapted for logprob in answer.values()):
        raise FailedProbe(
            f"{version.ref} answers with numbers that are none (NaN or infinite).",
            fix="Publish a version whose training did not diverge.",
        )
    if base and not differ(base, adapted):
        raise FailedProbe(
            f"{version.ref} has no effect: it answers as the base does.",
            fix="Compare its tensors' names with the base's modules, and publish it again.",
        )

    if adapted and recorded and (tolerance := engine.exactness):
        off = distance(recorded, adapted)
        if off > tolerance:
            raise FailedProbe(
                f"{version.ref} answers otherwise than where it was published: a logprob is off by "
                f"{off:.2g}, and {tolerance:g} is the most.",
                fix=f"Serve the base that its {CANARY_FILE} was recorded on.",
            )


def _recorded(version: Version) -> Answers:
    if CANARY_FILE not in version.manifest.files:
        return ()
    try:
        return read(version.path / CANARY_FILE)
    except InvalidAdapter as error:
        raise FailedProbe(f"{version.ref}: {error.message}", fix=error.fix or "") from error


def differ(one: Answers, other: Answers, tolerance: float = TOLERANCE) -> bool:
    """Say whether any canary is answered by other tokens, or by other logprobs."""
    return any(
        a.keys() != b.keys() or any(abs(a[token] - b[token]) > tolerance for token in a)
        for a, b in zip(one, other, strict=True)
    )
