"""`POST /v1/feedback`: results posted back for answers that an experiment counts.

    {"metric": "solved", "value": true, "token": …}    what the answer's x-assignment said
    {"metric": "stars", "value": 4, "id": "chatcmpl-…"}
    {"outcomes": [ … ]}                                up to `MOST_OUTCOMES`

What is acknowledged is durable. Everything that may block, the database and the registry, is asked
on threads of its own: nothing that answers requests waits behind it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from adapters.errors import AdaptersError, InvalidToken, NotFound, Unavailable
from adapters.experiments import Phase
from adapters.registry import Registry
from serve.experiments.posted import BATCH, Posted, entries, read
from serve.experiments.store.base import Outcome, Receipt, Store
from serve.experiments.store.recorder import Recorder
from serve.experiments.store.units import names_of
from serve.experiments.together import Together
from serve.experiments.token import Assignment, Tokens
from serve.http.access import FEEDBACK_PATH
from serve.http.failures import Later, document
from serve.routes.snapshot import Snapshot
from serve.tenants.caller import Caller
from serve.watching.metrics import Metrics

SIZE_BYTES = 2 << 20
"""The largest body: a batch whose outcomes have a comment of a few lines each."""
_THREADS = 4
_MOST_WAITING = 256
_RETRY_S = 1.0
_FLUSH_S = 1.0
_MOST_STOPPED = 1000
_FIX = "Send what came with the answer, to a server of the same registry and the same store."

log = logging.getLogger(__name__)


class Feedback:
    """Keeps outcomes. Lives on the event loop, and works on threads of its own."""

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        tokens: Tokens,
        registry: Registry,
        metrics: Metrics,
        *,
        snapshot: Callable[[], Snapshot],
        recent: Callable[[str], Assignment | None],
    ) -> None:
        """`recent`: what the last requests were assigned, by their ids, before the store knows."""
        self._store = store
        self._recorder = recorder
        self._tokens = tokens
        self._registry = registry
        self._metrics = metrics
        self._snapshot = snapshot
        self._recent = recent
        self._together = Together(store)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="feedback")
        self._running = 0
        self._stopped: dict[str, Phase] = {}
        self._trouble = ""

    def close(self) -> None:
        """Refuse what waits; nothing of it was acknowledged."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._together.close()

    async def answer(
        self, caller: Caller, content: Mapping[str, Any], token: str | None
    ) -> dict[str, Any]:
        """Keep what a body posts; return what became of it. `token`: the header x-assignment.

        Of a batch each outcome is told for itself, and one that is refused takes no other with it.

        Raises:
            UsageError: no outcome by its form, its metric or its value.
            InvalidToken: a token that is not one of ours, is over, or says what never was.
            NotFound: no such answer, experiment or adapter for this caller.
            Conflict: another value was posted under this key.
            Later: the store, the registry or the keys cannot be asked now.
        """
        posted = entries(content)
        if self._running >= _MOST_WAITING:
            raise Later("Too many outcomes at once wait for the store.", retry_after_s=_RETRY_S)
        self._running += 1
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._threads, self._read, caller, posted, token)
            outcomes = [each for each in found if isinstance(each, Outcome)]
            kept = iter(await self._together.record(outcomes))
            told = [next(kept) if isinstance(each, Outcome) else each for each in found]
        except Unavailable as error:
            if str(error) != self._trouble:  # once; and not to clients, as it names the database
                log.error("Outcomes cannot be kept: %s", error)
            self._trouble = str(error)
            raise Later("Outcomes cannot be kept now.", retry_after_s=_RETRY_S) from error
        finally:
            self._running -= 1
        self._trouble = ""
        for status, number in Counter(map(_status, told)).items():
            self._metrics.posted(status, number)
        if BATCH not in content and isinstance(told[0], AdaptersError):
            raise told[0]
        return {"object": "feedback", "results": [_result(each) for each in told]}

    def _read(
        self, caller: Caller, posted: Sequence[Any], token: str | None
    ) -> list[Outcome | AdaptersError]:
        """Return what is to be kept, or why it is not, in their order; on a thread."""
        found: list[Outcome | AdaptersError] = []
        for entry in posted:
            try:
                found.append(self._outcome(caller, read(entry, token)))
            except Unavailable:
                raise
            except AdaptersError as error:
                found.append(error)
        return found

    def _outcome(self, caller: Caller, posted: Posted) -> Outcome:
        assigned = self._assigned(posted)
        if assigned is None:
            raise _nowhere(posted)
        phase = self._last_phase(caller, assigned)
        if phase is None:
            raise _nowhere(posted)
        known = any(arm.name == assigned.arm for arm in phase.arms)  # the same in every phase
        if not known or not 1 <= assigned.phase <= phase.number:
            raise InvalidToken(
                f"{phase.experiment} never had phase {assigned.phase} with arm {assigned.arm}.",
                fix=_FIX,
            )
        return Outcome(
            assigned.experiment,
            assigned.phase,
            assigned.arm,
            assigned.unit,
            assigned.request_id,
            posted.metric,
            posted.value,
            time.time(),
            key=posted.idempotency_key,
            comment=posted.comment,
            late=phase.status == "stopped",
        )

    def _assigned(self, posted: Posted) -> Assignment | None:
        """Return what the answer was assigned that is meant; None: none that counts."""
        if posted.token:
            return self._tokens.verify(posted.token)
        for request_id in posted.request_ids():
            if found := self._recent(request_id):
                return found
        self._recorder.flush(_FLUSH_S)
        for request_id in posted.request_ids():
            if kept := self._store.exposure(request_id):
                return Assignment(
                    kept.experiment, kept.phase, kept.arm, kept.unit, kept.request_id, 0
                )
        return None

    def _last_phase(self, caller: Caller, assigned: Assignment) -> Phase | None:
        """Return the last phase of an assignment's experiment; None: there is none for the caller.

        An experiment that runs is in the snapshot, unless another server knows more; one that has
        stopped is looked up in the registry, once.
        """
        adapter, experiment = names_of(assigned.experiment)
        here = self._snapshot().adapters.get(adapter) if caller.sees(adapter) else None
        if here is None:
            return None
        now = here.phase
        if now and now.experiment == experiment and assigned.phase <= now.number:
            return now
        if stopped := self._stopped.get(assigned.experiment):
            return stopped
        try:
            ran = self._registry.experiments(adapter)
        except NotFound:  # deleted since
            return None
        for phases in ran:
            if phases[-1].experiment == experiment:
                if phases[-1].status == "stopped":
                    self._remember(assigned.experiment, phases[-1])
                return phases[-1]
        return None

    def _remember(self, experiment: str, stopped: Phase) -> None:
        """An experiment that has stopped stays so."""
        if len(self._stopped) >= _MOST_STOPPED:
            self._stopped.clear()
        self._stopped[experiment] = stopped


def _nowhere(posted: Posted) -> NotFound:
    """Say the same of what is not there, and of what the caller does not see."""
    if posted.token:
        return NotFound("The token's experiment is not in this registry.", fix=_FIX)
    return NotFound(f"No experiment counts an answer {posted.id[:80]!r}.", fix=_FIX)


def _status(told: Receipt | AdaptersError) -> str:
    return told.status if isinstance(told, Receipt) else "refused"


def _result(told: Receipt | AdaptersError) -> dict[str, Any]:
    if isinstance(told, Receipt):
        return {"status": told.status}
    return {"status": "refused", **document(told, FEEDBACK_PATH)}
