"""API keys: who may ask a server for what, and how much of it.

    $ADAPTERS_HOME/keys.jsonl    append-only, mode 0600; a line makes a key or revokes one

A key's secret is 256 random bits, shown once, when it is made. Its SHA-256 is kept: no dictionary
holds a secret like that, so a slow hash would cost every request and hinder nobody. Servers on this
machine follow the file (`serve.tenants.keys`).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from adapters.backends.encoding import encoded
from adapters.errors import Conflict, NotFound, Unavailable, UsageError, nearest
from adapters.files import open_plain
from adapters.home import home
from adapters.lines import Mark, append_line, mark_of, read_lines
from adapters.types import is_name
from adapters.verbs.writer import actor

Role = Literal["infer", "feedback", "admin"]
"""What a key opens: answers of the base and its adapters; only results posted back; everything."""

_PREFIX = "sk-swy-"  # tells scanners of leaked secrets, and people, what it is
_SHOWN = 4
_LOCK_TIMEOUT_S = 10
_PATTERN = re.compile(r"[!-?A-~]{1,200}")  # printable ASCII but '@' and the space
_DURATION = re.compile(r"([1-9][0-9]{0,3})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Key:
    """One API key, without its secret."""

    name: str
    id: str
    """Random, for logs: says nothing of the name or the secret."""
    sha256: str
    """Of the secret, in hex."""
    ending: str
    """The secret's last characters, by which people recognise it."""
    role: Role
    allow: tuple[str, ...]
    """Shell patterns over the names of adapters and of the base; empty for an admin: all."""
    rpm: int | None
    """Requests a minute; None: any number."""
    tpm: int | None
    """Tokens a minute, read and written; None: any number."""
    created_at: str
    expires_at: str | None
    """UTC in ISO 8601, as `created_at`; None: never."""
    revoked_at: str | None = None

    def state(self, at: datetime | None = None) -> Literal["active", "expired", "revoked"]:
        """Return whether it opens anything, now unless `at` says when."""
        if self.revoked_at:
            return "revoked"
        if self.expires_at and (at or datetime.now(UTC)) >= datetime.fromisoformat(self.expires_at):
            return "expired"
        return "active"


def hash_of(secret: str) -> bytes:
    """Return the SHA-256 of a secret, of whatever a client sent as one."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class KeyJournal:
    """The keys of this machine. Many processes may read and write at once."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: of the file; by default `keys.jsonl` in $ADAPTERS_HOME."""
        self.path = path or home() / "keys.jsonl"
        self._mark: Mark | None = None
        self._known: tuple[Key, ...] = ()

    def create(
        self,
        name: str,
        *,
        allow: Sequence[str] = (),
        role: Role = "infer",
        rpm: int | None = None,
        tpm: int | None = None,
        expires: str | None = None,
    ) -> tuple[Key, str]:
        """Make a key; returns it and its secret, which is kept nowhere. Durable on return.

        `expires`: how long it opens, e.g. `90d` (m, h, d, w).

        Raises:
            UsageError: a name, pattern, role, limit or time that cannot be meant.
            Conflict: an active key has the name.
            Unavailable: the file cannot be read or written.
        """
        _check(name, allow, role, rpm, tpm)
        created = datetime.now(UTC).replace(microsecond=0)
        secret = _PREFIX + secrets.token_urlsafe(32)
        key = Key(
            name=name,
            id=f"key-{secrets.token_hex(6)}",
            sha256=hash_of(secret).hex(),
            ending=secret[-_SHOWN:],
            role=role,
            allow=tuple(dict.fromkeys(allow)),
            rpm=rpm,
            tpm=tpm,
            created_at=created.isoformat(),
            expires_at=(created + _duration(expires)).isoformat() if expires else None,
        )
        with self._writing():
            if any(each.name == name and each.state() == "active" for each in self.read()):
                raise Conflict(
                    f"There is a key {name!r}.",
                    fix=f"adapters keys revoke {name}, or another name.",
                )
            fields = asdict(key)
            fields.pop("revoked_at")
            self._append({"action": "create", "actor": actor(), **fields})
        return key, secret

    def revoke(self, name: str) -> Key:
        """Have the key of a name open nothing any more. Durable on return.

        Raises:
            NotFound: no key of that name, or it is revoked already.
            Unavailable: the file cannot be read or written.
        """
        with self._writing():
            left = {key.name: key for key in self.read() if not key.revoked_at}
            if name not in left:
                raise NotFound(
                    f"No key {name!r} that could be revoked.",
                    fix=nearest(name, left) or "See: adapters keys list",
                )
            time = datetime.now(UTC).isoformat(timespec="seconds")
            # Of that name there may be an expired one before it: all of them are over.
            for key in self.read():
                if key.name == name and not key.revoked_at:
                    self._append({"action": "revoke", "actor": actor(), "id": key.id, "time": time})
        return replace(left[name], revoked_at=time)

    def read(self) -> tuple[Key, ...]:
        """Return every key there ever was, oldest first; reads the file only where it changed.

        Raises:
            Unavailable: it cannot be read or understood.
        """
        try:
            with open_plain(self.path) as stream:
                if (mark := mark_of(stream)) != self._mark:
                    self._known = tuple(_keys(read_lines(stream)))
                    self._mark = mark
        except FileNotFoundError:
            self._known, self._mark = (), None
        except OSError as error:
            raise self._unavailable("read", error) from error
        except (ValueError, LookupError, TypeError, RecursionError, UsageError) as error:
            raise Unavailable(
                f"The keys in {self.path} cannot be understood: {error}.",
                fix="A later release wrote it, or it is damaged: update, or restore the file.",
            ) from error
        return self._known

    @contextmanager
    def _writing(self) -> Iterator[None]:
        lock = FileLock(self.path.with_name(".keys.lock"), timeout=_LOCK_TIMEOUT_S)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise Unavailable(
                f"Another writer has held {self.path} for {_LOCK_TIMEOUT_S} s.",
                fix=f"Wait for it, or find it: fuser {lock.lock_file}",
            ) from error
        except OSError as error:
            raise self._unavailable("written", error) from error
        try:
            yield
        finally:
            lock.release()

    def _append(self, line: dict[str, Any]) -> None:
        try:
            append_line(self.path, encoded(line), rights=0o600)
        except OSError as error:
            raise self._unavailable("written", error) from error

    def _unavailable(self, done: str, error: OSError) -> Unavailable:
        return Unavailable(
            f"The keys in {self.path} cannot be {done}: {error.strerror}.",
            fix="Check the file and its rights.",
        )


def _check(name: str, allow: Sequence[str], role: Role, rpm: int | None, tpm: int | None) -> None:
    if not is_name(name):
        raise UsageError(
            f"{name[:80]!r} is not a key's name.",
            fix="Use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit.",
        )
    if role not in get_args(Role):
        roles = get_args(Role)
        raise UsageError(
            f"{role!r} is not a role.", fix=nearest(role, roles) or f"Use {', '.join(roles)}."
        )
    if role == "admin" and allow:
        raise UsageError("An admin key reaches every adapter.", fix="Leave --allow out.")
    if role != "admin" and not allow:
        raise UsageError(
            f"What may {name} reach?", fix="Say --allow 'support*', or --allow '*' for everything."
        )
    for pattern in allow:
        if not _PATTERN.fullmatch(pattern):
            raise UsageError(
                f"--allow {pattern[:80]!r} would match nothing.",
                fix="A pattern is one over names of adapters and of the base, e.g. 'support*'.",
            )
    for flag, limit in (("--rpm", rpm), ("--tpm", tpm)):
        if limit is not None and limit < 1:
            raise UsageError(f"{flag} {limit} lets nothing in.", fix="Give 1 or more.")


def _duration(text: str) -> timedelta:
    if not (found := _DURATION.fullmatch(text)):
        raise UsageError(f"--expires {text[:80]!r} is no time.", fix="Write 30m, 12h, 90d or 4w.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _keys(lines: Sequence[Any]) -> Iterator[Key]:
    found: dict[str, Key] = {}
    for line in lines:
        fields = dict(line)
        fields.pop("actor")
        action = fields.pop("action")
        if action == "revoke":
            key = found[fields["id"]]
            found[key.id] = replace(key, revoked_at=key.revoked_at or str(fields["time"]))
        elif action == "create":
            key = _understood(Key(**{**fields, "allow": tuple(fields["allow"])}))
            found[key.id] = key
        else:
            raise ValueError(f"{action!r:.40} is nothing that is done to a key")
    yield from found.values()


def _understood(key: Key) -> Key:
    """Refuse what `create` never wrote: a key that is misread must not open anything."""
    _check(key.name, key.allow, key.role, key.rpm, key.tpm)
    texts = (key.name, key.id, key.sha256, key.ending, key.created_at, *key.allow)
    limits = (key.rpm, key.tpm)
    if (
        not all(isinstance(text, str) for text in texts)
        or not all(limit is None or type(limit) is int for limit in limits)
        or len(bytes.fromhex(key.sha256)) != hashlib.sha256().digest_size
        or key.revoked_at is not None
    ):
        raise ValueError(f"{key.id!r:.40} is no key")
    if key.expires_at is not None and datetime.fromisoformat(key.expires_at).utcoffset() is None:
        raise ValueError(f"{key.expires_at!r:.40} is no time with a zone")
    return key
