"""What the registry said when, and so what an answer may be: the oracle of the stress test.

Everything that changes the registry is written down here with the time it began and ended; a
request may be answered by what its name meant at any moment from shortly before it was sent.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from adapters.errors import NotFound
from adapters.registry import Registry
from adapters.types import PRODUCTION, Ref, Version

FOLLOW_S = 5.0
"""By when a server follows: 2 s are promised, the rest is for a machine that has no time."""
HANDOVER_S = 65.0
"""By when an alias has moved, to a version that must be loaded first."""
_REPAIR_S = 15.0
"""By when a version that was repaired is served again."""


@dataclass(frozen=True, slots=True)
class Published:
    """A version as it was published, whatever becomes of its files."""

    version: Version
    weights: Path | None
    """The folder that holds them, a copy of our own; None: the base's alone."""
    system: str | None = None
    ground: str | None = None
    """Engine name of the version that a prompt-only one stands on."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What stood of one adapter, from one change to the next."""

    began: float = -math.inf
    """When the change that led here began; monotonic seconds, as all times here."""
    ended: float = -math.inf
    versions: frozenset[int] = frozenset()
    retired: frozenset[int] = frozenset()
    aliases: Mapping[str, int] = field(default_factory=dict)
    arms: tuple[int, ...] = ()

    def meant(self, ref: Ref, split: bool = True) -> set[int | None]:
        """Return the numbers that a ref may lead to; None: nowhere.

        `split`: whether an experiment on a plain name counts, as it does for who wants an answer.
        """
        if ref.number:
            return {ref.number if ref.number in self.versions else None}
        if split and ref.alias is None and self.arms:
            return set(self.arms)
        if ref.alias is None and PRODUCTION in self.aliases:
            return {self.aliases[PRODUCTION]}
        if ref.alias in self.aliases:
            return {self.aliases[ref.alias]}
        if ref.alias in (None, "latest") and self.versions:
            return {max(self.versions - self.retired, default=max(self.versions))}
        return {None}


@dataclass(slots=True)
class Expected:
    """What an answer may be."""

    versions: dict[int, float] = field(default_factory=dict)
    """Each number with the least seconds since the name meant it, 0 where it still did."""
    statuses: set[int] = field(default_factory=set)
    """Of errors."""
    waits: bool = False
    """Whether the name may wait for a version that is refused, for as long as it is."""


class Ledger:
    """The registry over time. Thread-safe."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._moments: dict[str, list[Moment]] = {}
        self._locks: dict[str, threading.RLock] = {}
        self._published: dict[str, Published] = {}
        self._damaged: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Every adapter that has a version now, in the order they came."""
        with self._lock:
            return [name for name, moments in self._moments.items() if moments[-1].versions]

    def now(self, name: str) -> Moment:
        """Return what stands of an adapter."""
        with self._lock:
            return self._moments.get(name, [Moment()])[-1]

    def published(self, engine_name: str) -> Published | None:
        """Return what was published under an engine name."""
        found = self._published.get(engine_name.partition("+")[0])
        return found if found and found.version.engine_name == engine_name else None

    def of(self, name: str, number: int) -> Published | None:
        """Return what was published under a number."""
        return self._published.get(f"{name}@v{number}")

    def add(self, published: Published) -> None:
        """Note a version; within `changing`."""
        self._published[published.version.ref] = published

    @contextmanager
    def changing(self, *names: str) -> Iterator[None]:
        """Change adapters while the block runs; what stands afterwards is written down."""
        began = time.monotonic()
        with ExitStack() as stack:
            for name in sorted(names):
                stack.enter_context(self.still(name))
            try:
                yield
            finally:
                for name in names:
                    self._note(name, began)

    @contextmanager
    def still(self, name: str) -> Iterator[None]:
        """Have nobody change an adapter while the block runs."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.RLock())
        with lock:
            yield

    def _note(self, name: str, began: float) -> None:
        moment = Moment(began, time.monotonic())
        try:
            found = self._registry.survey(name)
            numbers = {v.number for v in found.versions} | {d.number or 0 for d in found.damaged}
            phase = self._registry.experiment(name)
            moment = Moment(
                began,
                time.monotonic(),
                frozenset(numbers),
                frozenset(found.standings.keys() & numbers),
                found.aliases,
                tuple(arm.version for arm in phase.arms if arm.version) if phase else (),
            )
        except NotFound:
            pass
        with self._lock:
            self._moments.setdefault(name, [Moment()]).append(moment)

    # -- damage -------------------------------------------------------------------------------

    def damaged(self, engine_name: str, *, for_good: bool = False) -> None:
        """A version's files are not what they were, from now on until `repaired`."""
        since = -math.inf if for_good else time.monotonic()
        self._damaged[engine_name] = (since, math.inf)

    def repaired(self, engine_name: str) -> None:
        """They are again."""
        since, _ = self._damaged[engine_name]
        self._damaged[engine_name] = (since, time.monotonic())

    def sound(self, engine_name: str) -> bool:
        """Whether nobody ever touched a version's files."""
        return engine_name not in self._damaged

    def _hurt(self, name: str, number: int, sent: float, done: float, slack_s: float) -> bool:
        found = self.of(name, number)
        for engine_name in (found.version.engine_name, found.ground) if found else ():
            since, until = self._damaged.get(engine_name or "", (math.inf, math.inf))
            if since <= done and sent <= until + slack_s:
                return True
        return False

    # -- the oracle ---------------------------------------------------------------------------

    def expected(self, ref: Ref, sent: float, done: float, *, split: bool = True) -> Expected:
        """Return what a request for `ref` may be answered with; ask while the name is `still`.

        `split`: as `Moment.meant` has it.
        """
        with self._lock:
            moments = list(self._moments.get(ref.name, [Moment()]))
        found, moved_to = Expected(), set()
        followed: set[int] = set()
        for place, moment in enumerate(moments):
            over = moments[place + 1].ended if place + 1 < len(moments) else math.inf
            age_s = max(0.0, sent - over)
            if moment.began > done or age_s > FOLLOW_S:
                continue
            followed |= moment.versions - moment.retired
            for number in moment.meant(ref, split):
                if number is None:
                    found.statuses.add(404)
                    continue
                moved_to.add(number)
                if number in moment.retired:
                    found.statuses.add(410)
                if self._hurt(ref.name, number, sent, done, _REPAIR_S):
                    found.statuses |= {404, 503}
        found.waits = any(
            self._hurt(ref.name, number, sent, done, HANDOVER_S) for number in moved_to
        )
        patience_s = FOLLOW_S if ref.number else math.inf if found.waits else HANDOVER_S
        for place, moment in enumerate(moments):
            over = moments[place + 1].ended if place + 1 < len(moments) else math.inf
            age_s = max(0.0, sent - over)
            if moment.began <= done and age_s <= patience_s:
                for number in moment.meant(ref, split) & followed:
                    if number is not None:
                        found.versions[number] = min(age_s, found.versions.get(number, math.inf))
        return found
