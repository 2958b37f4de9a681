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
batches."""
_SAME_IN_ANY_BATCH = 0.01
"""The exactness of float32. What rounds more answers otherwise in another batch."""


class FailedProbe(Unavailable):
    """Weights that do nothing, or nothing finite. They never change, so trying again is no use."""


class Probe:
    """Compares a version's answers with the base's, and with those recorded at its publication."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._base: Answers | None = None

    async def check(self, version: Version) -> None:
        """Have the canary prompts answered by a loaded version, and by the base.

        Raises:
            FailedProbe: it answers as the base does, otherwise than it did, or with numbers that
                are none.
            Unavailable: the engine did not answer.
        """
        adapted, base, recorded = await asyncio.gather(
            self._engine.canary(version.engine_name),
            self._of_the_base(),
            asyncio.to_thread(_recorded, version),
        )
        _compare(version, base, adapted, recorded, self._engine.exactness)

    async def _of_the_base(self) -> Answers:
        """Ask the base once, where that will do: running streams wait for each answer. Else it is
        asked beside the version, so as a rule in one batch."""
        if self._base:
            return self._base
        base = await self._engine.canary(None)
        exactness = self._engine.exactness
        if exactness is not None and exactness <= _SAME_IN_ANY_BATCH:
            self._base = base
        return base


def _compare(
    version: Version, base: Answers, adapted: Answers, recorded: Answers, exactness: float | None
) -> None:
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

    if adapted and recorded and exactness:
        off = distance(recorded, adapted)
        if off > exactness:
            raise FailedProbe(
                f"{version.ref} answers otherwise than where it was published: a logprob is off by "
                f"{off:.2g}, and {exactness:g} is the most.",
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
