"""What every verb that changes something needs: who and when, and what may be pointed at."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from adapters.errors import BaseMismatch, Rejected
from adapters.journals import ABOVE, LOG, entry_line
from adapters.reading import Reader
from adapters.types import LogEntry, Manifest

_ACTING: ContextVar[str] = ContextVar("acting", default="")


class Writer(Reader):
    """A registry that verbs can write to."""

    def _check_may_stand(self, name: str, number: int) -> None:
        """Refuse a version that no alias may come to point at. Under the lock."""
        version = self._backend.open(name, number)  # deleted meanwhile? Then it says so
        if standing := self.standings(name).get(number):
            undo = "retire --undo" if standing.state == "retired" else "verify"
            refusal = standing.refusal(name, number)
            raise Rejected(refusal.message, fix=f"First: adapters {undo} {version.ref}")
        if version.manifest.lint.get("passed") is False:
            raise Rejected(
                f"{version.ref} did not pass lint, so vLLM would refuse it or serve it wrongly.",
                fix=f"See what was found: adapters show {version.ref} --json",
            )

    def _check_ground(self, ref: str, manifest: Manifest) -> None:
        """Refuse a prompt-only version whose ground is gone or not served. Under no lock yet.

        Notes beside the ground that this adapter stands on it: who deletes or retires a version
        looks there under this same lock, or afterwards. `ref`: what to call the version.
        """
        if on := manifest.on:
            with self._backend.writing(on.name):
                ground = self.resolve(on)
                self._check_may_stand(ground.name, ground.number)
                if ground.manifest.base.revision != manifest.base.revision:
                    raise BaseMismatch(
                        f"{ref} and {ground.ref}, which it stands on, are of two bases.",
                        fix="Publish it with: adapters prompt new --on",
                    )
                if manifest.name not in self._above(on.name):
                    entry = self._entry("stand", adapter=manifest.name)
                    self._backend.append(on.name, ABOVE, entry_line(entry))

    def _note(
        self,
        name: str,
        action: str,
        *,
        version: int | None = None,
        alias: str | None = None,
        **detail: Any,
    ) -> None:
        entry = self._entry(action, version=version, alias=alias, **detail)
        self._backend.append(name, LOG, entry_line(entry))

    def _entry(
        self,
        action: str,
        *,
        version: int | None = None,
        alias: str | None = None,
        **detail: Any,
    ) -> LogEntry:
        return LogEntry(action, now(), actor(), version, alias, detail)


def now() -> str:
    """Return the time as journals and manifests have it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def acting(name: str) -> Iterator[None]:
    """Have the verbs within say that somebody else does it: whoever asked a server to."""
    token = _ACTING.set(name)
    try:
        yield
    finally:
        _ACTING.reset(token)


def actor() -> str:
    """Who does it: as `acting` says, else $ADAPTERS_ACTOR, else the login name."""
    if name := _ACTING.get():
        return name
    try:
        return os.environ.get("ADAPTERS_ACTOR") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a passwd entry
        return f"uid {os.getuid()}"
