"""Where each version stands on its way into the engine, and the one way to bring it further.

    known → staged → loaded → resident        refused: not let in      draining: let out
    (registry) (verified) (CPU memory) (slot)

Everything up to the engine happens beside it: a version is staged on a thread, several at once;
into the engine goes one after another, those that requests wait for first. What is in memory and
in slots is the engine's own knowledge, asked for and never guessed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Set
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from adapters.errors import AdaptersError, Conflict, Rejected, Unavailable
from adapters.lint import rank_class
from adapters.types import Version
from serve.engines.engine import Engine, Memory
from serve.loading.probe import FailedProbe, Probe
from serve.loading.rotation import Rotation
from serve.loading.staging import Marks, unchanged, verify
from serve.loading.turns import Turns

_WATCH_S = 1.0
"""How old the last look at a version's files may be."""
_RETRY_S = 5.0
"""How long a refusal stands before the files are read again."""
_STAGED_AT_ONCE = 4

log = logging.getLogger(__name__)


class State(StrEnum):
    """Where a version stands here."""

    KNOWN = "known"
    """In the registry, and not looked at yet."""
    STAGED = "staged"
    """Verified and linted, its files read; on its way into memory, or evicted from it."""
    LOADED = "loaded"
    """In the engine's memory on the host."""
    RESIDENT = "resident"
    """In a slot."""
    REFUSED = "refused"
    """Not served here, with a reason."""
    DRAINING = "draining"
    """Gone from the registry or retired; leaves the engine once its running requests end."""


@dataclass(slots=True)
class Standing:
    """What is known here of one version."""

    version: Version
    marks: Marks = ()
    refusal: AdaptersError | None = None
    final: bool = False
    """Whether the refusal is about the weights, which never change, and so stands."""
    proven: bool = False
    """Whether its effect was seen."""
    loads: int = 0
    used_at: float | None = None
    """Seconds since 1970."""
    looked: float = 0.0


class Watcher(Protocol):
    """Is told what loads took and what they cost. `serve.watching.metrics` is one."""

    def loaded(self, engine_name: str, took_s: float, *, failed: bool = False) -> None:
        """A version was loaded, or could not be, that long after it was decided."""

    def stalled(self, took_s: float) -> None:
        """No step ran for that long, for a load's sake."""

    def evicted(self, engine_name: str) -> None:
        """A version left the engine's memory for another one."""


class Residency:
    """The versions that were asked for or warmed. Lives on the event loop."""

    def __init__(
        self,
        engine: Engine,
        base_config: Mapping[str, Any] | None = None,
        holding: Callable[[str], AbstractAsyncContextManager[None]] = lambda _: nullcontext(),
        watcher: Watcher | None = None,
        rotation: Rotation | None = None,
    ) -> None:
        """`base_config`: the base's config.json, to check shapes against. `holding`: keeps the
        files of a version, by engine name, from being deleted while it is checked and loaded.
        `rotation`: who gets a slot; None leaves it to the engine."""
        self._engine = engine
        self._probe = Probe(engine)
        self._base_config = base_config
        self._holding = holding
        self._watcher = watcher
        self.rotation = rotation
        self._standings: dict[str, Standing] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._waiting: Counter[str] = Counter()
        self._pinned: set[str] = set()
        self._asked = False
        self._refreshing: asyncio.Task[None] | None = None
        self._memory = Memory()
        self._loaded: frozenset[str] = frozenset()
        self._staging = Turns(_STAGED_AT_ONCE, self._is_waited_for)
        self._entering = Turns(1, self._is_waited_for)

    @property
    def standings(self) -> Mapping[str, Standing]:
        """Every version that was looked at, by engine name."""
        return self._standings

    @property
    def pinned(self) -> Set[str]:
        """The engine names that stay in memory."""
        return self._pinned

    @property
    def memory(self) -> Memory:
        """What the engine held when it was last asked: a second ago, or before it was idle."""
        return self._memory

    @property
    def room(self) -> int:
        """How many versions memory could take in without evicting one."""
        return self._engine.memory_places - len(self._loaded)

    def state(self, version: Version) -> State:
        """Return where a version of the registry stands."""
        name = version.engine_name
        standing = self._standings.get(name)
        if standing and standing.refusal:
            return State.REFUSED
        if name in self._loaded:
            return State.RESIDENT if name in self._memory.resident else State.LOADED
        return State.STAGED if standing and standing.marks else State.KNOWN

    def count(self, known: Set[str]) -> dict[str, int]:
        """Return how many of the registry's versions stand where, all states included.

        `known`: their engine names; there may be many, and few that were looked at.
        """
        looked = [each.version for name, each in self._standings.items() if name in known]
        found = Counter(self.state(version) for version in looked)
        found[State.KNOWN] += len(known) - len(looked)
        return {state.value: found[state] for state in State}

    def is_loaded(self, version: Version) -> bool:
        """Say whether a version is in memory and may be used."""
        return self.state(version) in (State.LOADED, State.RESIDENT)

    def is_busy(self, engine_name: str) -> bool:
        """Say whether a version is being checked or loaded."""
        return engine_name in self._checks

    async def ready(self, version: Version, *, waited_for: bool = True) -> Standing:
        """Have a version in memory, its files as published. Shared by all who ask at once.

        What has begun is finished, though everybody who waited may have left. `waited_for`:
        whether a request waits; those go first.

        Raises:
            Rejected: its rank is above what the engine was started for.
            Unavailable: its files are not what its manifest says, the engine refused, or the
                weights have no effect.
        """
        name = version.engine_name
        standing = self._standings.get(name)
        if standing is None or self._is_stale(standing):
            if name not in self._checks:
                check = asyncio.create_task(self._check(version))
                self._checks[name] = check
                check.add_done_callback(lambda _: self._checks.pop(name, None))
            self._waiting[name] += waited_for
            try:
                # Shielded: one client leaving must not end the check that others wait for.
                await asyncio.shield(self._checks[name])
            finally:
                self._waiting[name] -= waited_for
                self._waiting += Counter()  # forgets what is at none
            standing = self._standings[name]
        if standing.refusal:
            raise standing.refusal  # the engine was not asked for anything
        self._asked = True
        return standing

    def slot(self, engine_name: str) -> AbstractAsyncContextManager[None]:
        """Wait for a version's turn, and hold a slot for it while the block runs."""
        return self.rotation.slot(engine_name) if self.rotation else nullcontext()

    async def keep_up(self) -> None:
        """Ask the engine what it holds, if anybody used anything since the last time.

        An idle engine sleeps, and is left to: being asked would have it spin for a second.
        """
        if self._asked:
            await self.refresh()

    async def refresh(self) -> None:
        """Ask the engine what it holds."""
        self._asked = False
        self._memory = await self._engine.memory()
        before = self._loaded
        self._loaded = frozenset(name for name in self._memory.loaded if self._is_proven(name))
        if self._watcher:
            for name in (before - self._loaded) & self._engine.loaded():
                self._watcher.evicted(name)

    async def pin(self, version: Version) -> None:
        """Load a version and keep it in memory.

        Raises:
            Conflict: one more pin would leave a step without the places it may need.
            Rejected, Unavailable: as `ready`.
        """
        name = version.engine_name
        await self.ready(version)
        if name in self._pinned:
            return
        places = self._engine.memory_places - self._engine.slots
        if len(self._pinned) >= places:
            raise Conflict(
                f"{len(self._pinned)} version(s) are pinned, all that this server has places for.",
                fix="Unpin one, or restart it with a larger: -- --max-cpu-loras",
            )
        self._pinned.add(name)  # before the wait, or two would take the last place
        try:
            await self._hold(version)
        except AdaptersError:
            self._pinned.discard(name)
            raise

    async def _hold(self, version: Version) -> None:
        try:
            await self._engine.pin(version.engine_name, True)
        except Unavailable:  # evicted since the engine was last asked
            await self.refresh()
            await self.ready(version)
            await self._engine.pin(version.engine_name, True)

    async def unpin(self, engine_name: str) -> None:
        """Let a version be evicted again; one that is not pinned stays as it is."""
        if engine_name in self._pinned:
            self._pinned.discard(engine_name)
            await self._engine.pin(engine_name, False)

    async def drop(self, engine_name: str) -> None:
        """Take a version out of the engine that nobody uses."""
        self._standings.pop(engine_name, None)
        self._pinned.discard(engine_name)
        self._loaded -= {engine_name}
        await self._engine.remove(engine_name)
        log.info("%s left the registry and the engine", engine_name)

    def _is_waited_for(self, name: str) -> bool:
        return self._waiting[name] > 0

    def _is_proven(self, name: str) -> bool:
        standing = self._standings.get(name)
        return standing is not None and standing.proven

    def _is_stale(self, standing: Standing) -> bool:
        age_s = time.monotonic() - standing.looked
        if standing.refusal:
            return not standing.final and age_s > _RETRY_S
        return age_s > _WATCH_S or standing.version.engine_name not in self._loaded

    async def _check(self, version: Version) -> None:
        """Find out how a version stands. Raises nothing of ours: the standing says it."""
        name = version.engine_name
        standing = self._standings.setdefault(name, Standing(version))
        began, loads = time.monotonic(), name not in self._loaded
        try:
            self._check_rank(version)
            async with self._holding(name):
                await self._stage(standing)
                if name not in self._loaded:
                    # Its first answer, which proves it, would else wait in the engine until who
                    # has the slots is asked no more. The slot comes first: who has one may wait
                    # for the other turn, to come back into memory.
                    slot = nullcontext() if standing.proven else self.slot(name)
                    async with slot, self._entering.turn(name):
                        await self._enter(standing)
            standing.refusal = None
        except AdaptersError as error:
            if standing.refusal is None:
                log.error("%s is not served: %s", name, error)
            standing.marks, standing.refusal = (), error
        finally:
            standing.looked = time.monotonic()
            if self._watcher and loads:
                failed = standing.refusal is not None
                self._watcher.loaded(name, standing.looked - began, failed=failed)

    async def _stage(self, standing: Standing) -> None:
        version = standing.version
        if standing.marks:
            same = await asyncio.to_thread(unchanged, version, standing.marks)
            if same:
                return
        async with self._staging.turn(version.engine_name):
            standing.marks = await asyncio.to_thread(verify, version, self._base_config)

    async def _enter(self, standing: Standing) -> None:
        name = standing.version.engine_name
        stall_s = await self._engine.load(standing.version)
        standing.loads += 1
        if self._watcher:
            self._watcher.stalled(stall_s)
        if not standing.proven:
            try:
                await self._probe.check(standing.version)
            except FailedProbe:
                standing.final = True
                await self._engine.remove(name)
                raise
            standing.proven = True
        self._loaded |= {name}
        # What it evicted is asked beside the request that waits: the answer takes a step.
        self._asked = True
        self._refreshing = asyncio.create_task(self.refresh())
        self._refreshing.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _check_rank(self, version: Version) -> None:
        rank = version.manifest.peft.get("r") or 0
        if rank > self._engine.max_lora_rank:
            raise Rejected(
                f"{version.ref} has rank {rank}, this server was started for at most "
                f"{self._engine.max_lora_rank}.",
                fix=f"Restart it with: -- --max-lora-rank={rank_class(rank)}",
            )
