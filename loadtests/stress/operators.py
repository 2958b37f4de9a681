"""Operators: everything that may be done to a registry under a server, at random."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from adapters.errors import AdaptersError
from adapters.experiments import Arm
from adapters.prompts import publish_prompt
from adapters.retention import Retention
from adapters.serving import Serving
from adapters.types import Version
from loadtests.fleet import Maker
from loadtests.stress.findings import Findings
from loadtests.stress.ledger import Ledger, Published

_ALIASES = ("production", "canary", "staging")
_MOST_VERSIONS = 6
_MOST_VISITORS = 6
_SYSTEMS = ("Answer in one word.", "You are a pirate.", "Answer politely.", "Speak of the sea.")


class Operators:
    """What they do, over one registry. Each verb may be called from any thread."""

    def __init__(
        self,
        registry: Retention,
        ledger: Ledger,
        findings: Findings,
        sources: Path,
        base: str,
    ) -> None:
        self.registry = registry
        self._ledger = ledger
        self._findings = findings
        self._sources = sources
        self._base = base
        self._maker = Maker(base)
        self.base = self._maker.base
        self._making = threading.Lock()
        self._seed = 0

    def make(self) -> Path:
        """Write weights that nobody has yet; return their folder, which stays as it is."""
        with self._making:
            self._seed += 1
            folder = self._sources / str(self._seed)
            self._maker.write(folder, self._seed)
        return folder

    def publish(self, name: str) -> Version:
        """Publish new weights as a version."""
        folder = self.make()
        with self._ledger.changing(name):
            version = self.registry.publish(
                name, folder, base=self._maker.base.model, base_path=self._maker.base.path
            )
            self._ledger.add(Published(version, folder))
        return version

    def run(self, until: float, rng: random.Random, pause_s: float) -> None:
        """One operator, until so long. Refusals are counted; anything else must not be."""
        verbs, weights = zip(*self._verbs.items(), strict=True)
        while self._findings.goes_on(until):
            (verb,) = rng.choices(verbs, weights)
            name = verb.__name__.lstrip("_")
            try:
                done = verb(rng)
            except AdaptersError as error:
                self._findings.count(f"operator: {name}: {type(error).__name__}")
            except Exception as error:
                self._findings.violation("operator", f"{name}: {error!r}")
            else:
                self._findings.count(
                    f"operator: {name}: {'nothing to do' if done is None else 'done'}"
                )
            time.sleep(rng.random() * 2 * pause_s)

    @property
    def _verbs(self) -> Mapping[Callable[[random.Random], object], int]:
        return {
            self._publish: 20,
            self._publish_prompt: 4,
            self._visit: 3,
            self._promote: 24,
            self._rollback: 8,
            self._demote: 4,
            self._retire: 14,
            self._restore: 3,
            self._delete: 16,
            self._leave: 2,
            self._collect: 1,
            self._label: 6,
            self._protect: 2,
            self._split: 4,
            self._unsplit: 6,
        }

    # -- verbs: None where there was nothing to do -----------------------------------------------

    def _publish(self, rng: random.Random) -> object:
        name = rng.choice(self._ledger.names)
        crowded = len(self._ledger.now(name).versions) >= _MOST_VERSIONS
        return None if crowded else self.publish(name)

    def _publish_prompt(self, rng: random.Random) -> object:
        name, system = rng.choice(self._ledger.names), rng.choice(_SYSTEMS)
        on = self._sound(rng, rng.choice(self._ledger.names)) if rng.random() < 0.7 else None
        if len(self._ledger.now(name).versions) >= _MOST_VERSIONS or (on and not on.weights):
            return None
        with self._ledger.changing(name):
            version = publish_prompt(
                self.registry,
                name,
                Serving(system=system),
                on=on.version.ref if on else None,
                base=None if on else self._base,
            )
            ground = on.version.engine_name if on else None
            self._ledger.add(Published(version, on.weights if on else None, system, ground))
        return version

    def _visit(self, rng: random.Random) -> object:
        """A new adapter comes; `_leave` takes it away."""
        visitors = [name for name in self._ledger.names if name.startswith("visitor-")]
        if len(visitors) >= _MOST_VISITORS:
            return None
        return self.publish(f"visitor-{rng.randrange(1 << 24):06x}")

    def _leave(self, rng: random.Random) -> object:
        visitors = [name for name in self._ledger.names if name.startswith("visitor-")]
        if not visitors:
            return None
        name = rng.choice(visitors)
        with self._ledger.changing(name):
            for alias in self.registry.aliases(name):
                self.registry.demote(name, alias, confirmed=True)
            for number in self._ledger.now(name).versions:
                self.registry.retire(f"{name}@v{number}", reason="it leaves")
        time.sleep(1.5)  # servers let go
        with self._ledger.changing(name):
            for number in self._ledger.now(name).versions:
                self.registry.delete(f"{name}@v{number}", reason="it leaves")
        return name

    def _promote(self, rng: random.Random) -> object:
        name = rng.choice(self._ledger.names)
        now = self._ledger.now(name)
        number = rng.choice(sorted(now.versions))
        alias = rng.choices(_ALIASES, (6, 2, 1))[0]
        with self._ledger.changing(name):
            return self.registry.promote(f"{name}@v{number}", alias, confirmed=True)

    def _rollback(self, rng: random.Random) -> object:
        name = rng.choice(self._ledger.names)
        with self._ledger.changing(name):
            return self.registry.rollback(name, confirmed=True)

    def _demote(self, rng: random.Random) -> object:
        name = rng.choice(self._ledger.names)
        with self._ledger.changing(name):
            return self.registry.demote(name, rng.choice(_ALIASES), confirmed=True)

    def _retire(self, rng: random.Random) -> object:
        name = rng.choice(self._ledger.names)
        now = self._ledger.now(name)
        free = sorted(now.versions - now.retired - set(now.aliases.values()) - {max(now.versions)})
        if not free:
            return None
        with self._ledger.changing(name):
            return self.registry.retire(f"{name}@v{rng.choice(free)}", reason="replaced")

    def _restore(self, rng: random.Random) -> object:
        name = rng.choice(self._ledger.names)
        if not (retired := sorted(self._ledger.now(name).retired)):
            return None
        with self._ledger.changing(name):
            return self.registry.restore(f"{name}@v{rng.choice(retired)}")

    def _delete(self, rng: random.Random) -> object:
        for name in rng.sample(self._ledger.names, len(self._ledger.names)):
            if retired := sorted(self._ledger.now(name).retired):
                with self._ledger.changing(name):
                    return self.registry.delete(f"{name}@v{rng.choice(retired)}", reason="old")
        return None

    def _collect(self, rng: random.Random) -> object:
        with self._ledger.changing(*self._ledger.names):
            return self.registry.collect(keep_last=2)

    def _label(self, rng: random.Random) -> object:
        name = rng.choice(self._ledger.names)
        number = rng.choice(sorted(self._ledger.now(name).versions))
        return self.registry.label(f"{name}@v{number}", add=[f"tag-{rng.randrange(5)}"])

    def _protect(self, rng: random.Random) -> object:
        name = rng.choice(self._ledger.names)
        change = self.registry.protect if rng.random() < 0.5 else self.registry.unprotect
        change(name, "production")
        return name

    def _split(self, rng: random.Random) -> object:
        name = rng.choice(self._ledger.names)
        now = self._ledger.now(name)
        sound = sorted(now.versions - now.retired)
        if len(sound) < 2:
            return None
        arms = [Arm(f"v{number}", number, 50) for number in rng.sample(sound, 2)]
        with self._ledger.changing(name):
            return self.registry.start_experiment(name, arms)

    def _unsplit(self, rng: random.Random) -> object:
        for name in rng.sample(self._ledger.names, len(self._ledger.names)):
            if self._ledger.now(name).arms:
                with self._ledger.changing(name):
                    return self.registry.stop_experiment(name)
        return None

    def _sound(self, rng: random.Random, name: str) -> Published | None:
        now = self._ledger.now(name)
        found = [self._ledger.of(name, number) for number in sorted(now.versions - now.retired)]
        sound = [f for f in found if f and self._ledger.sound(f.version.engine_name)]
        return rng.choice(sound) if sound else None
