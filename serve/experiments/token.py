"""The assignment token: says what a request was assigned, signed, so that nobody needs to look up.

    v1.<JSON: experiment, phase, arm, unit, request id, expiry>.<HMAC-SHA256>    both base64url

    $ADAPTERS_HOME/assignment.keys    append-only, mode 0600; the last line signs, all verify

Servers on one machine share the file and follow it; replicas elsewhere are given the same keys.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from adapters.errors import ExpiredToken, InvalidToken, Unavailable, UsageError
from adapters.files import open_plain, read_up_to
from adapters.home import home
from adapters.lines import Mark, append_line, mark_of

_VERSION = "v1"
_SHORTEST_KEY = 32
_LONGEST_TOKEN = 4096
_LOCK_TIMEOUT_S = 10
_MOST_BYTES = 1 << 16
_FIX = "Send x-assignment as it came with the answer, to a server that shares its keys."


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a token says: which arm one request of a unit was served by."""

    experiment: str
    phase: int
    arm: str
    unit: str
    """As it is stored (`serve.experiments.store.units`): a token shows it to whoever holds it."""
    request_id: str
    expires_at_s: int
    """Unix time."""


class Tokens:
    """Signs assignments, and verifies what comes back. Thread-safe."""

    def __init__(self, path: Path | None = None, *, keys: Sequence[str] = ()) -> None:
        """`path`: of the keys' file; by default `assignment.keys` in $ADAPTERS_HOME. It is made
        where it is missing. `keys`: used instead of a file; the last one signs.

        Raises:
            UsageError: a key of fewer than 32 characters.
            Unavailable: the file cannot be read or made, or others than its owner may read it.
        """
        if any(len(key) < _SHORTEST_KEY for key in keys):
            raise UsageError(
                f"A key for assignment tokens has under {_SHORTEST_KEY} characters.",
                fix="Make one: python -c 'import secrets; print(secrets.token_hex(32))'",
            )
        self.path = None if keys else path or home() / "assignment.keys"
        self._keys = tuple(key.encode() for key in keys)
        self._mark: Mark | None = None
        if self.path and not self.path.exists():
            self._append(only_first=True)
        self._follow()

    def sign(self, assignment: Assignment) -> str:
        """Return the token of an assignment: printable ASCII, about 250 characters.

        Raises:
            Unavailable: the keys cannot be read.
        """
        self._follow()
        said = [getattr(assignment, name) for name in Assignment.__slots__]
        content = json.dumps(said, separators=(",", ":")).encode()
        signed = f"{_VERSION}.{_encoded(content)}"
        return f"{signed}.{_encoded(_mac(self._keys[-1], signed.encode()))}"

    def verify(self, token: str, *, now_s: float | None = None) -> Assignment:
        """Return what a token says.

        How long a refusal takes says nothing of how near a forged signature came: each key's is
        computed and compared in constant time, and what was signed is read only afterwards.

        Raises:
            InvalidToken: it was not signed by these keys, or was changed since.
            ExpiredToken: it was, and is over.
            Unavailable: the keys cannot be read.
        """
        self._follow()
        signed, _, signature = token[: _LONGEST_TOKEN + 1].rpartition(".")
        given = signature.encode("utf-8", "replace")
        ours = False
        for key in self._keys:
            expected = _encoded(_mac(key, signed.encode("utf-8", "replace"))).encode()
            ours |= hmac.compare_digest(expected, given)
        if not ours or len(token) > _LONGEST_TOKEN or not signed.startswith(f"{_VERSION}."):
            raise InvalidToken("The assignment token is not one of ours.", fix=_FIX)
        content = signed.partition(".")[2]
        assignment = Assignment(*json.loads(base64.urlsafe_b64decode(content + "===")))
        if (time.time() if now_s is None else now_s) >= assignment.expires_at_s:
            raise ExpiredToken("The assignment token has expired.", fix="Post outcomes sooner.")
        return assignment

    def rotate(self) -> None:
        """Sign with a new key from now on; what older ones signed still verifies. Durable.

        Servers over the same file follow at their next token. To withdraw a key, delete its line.

        Raises:
            UsageError: these keys were given, not read from a file.
            Unavailable: the file cannot be written.
        """
        if not self.path:
            raise UsageError("These keys are in no file.", fix="Set a new one, after the old ones.")
        self._append(only_first=False)
        self._follow()

    def _append(self, *, only_first: bool) -> None:
        assert self.path
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=_LOCK_TIMEOUT_S):
                if not (only_first and self.path.exists() and self.path.read_bytes().count(b"\n")):
                    append_line(self.path, secrets.token_hex(32).encode() + b"\n", rights=0o600)
        except Timeout as error:
            raise Unavailable(
                f"{self.path} is being written by another process.", fix="Try again."
            ) from error
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error

    def _follow(self) -> None:
        """Take over the keys' file where it has changed: one `stat`, most times."""
        if not self.path:
            return
        try:
            status = os.stat(self.path)
            if (status.st_ino, status.st_size, status.st_mtime_ns) == self._mark:
                return
            with open_plain(self.path) as stream:
                if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                    raise Unavailable(
                        f"{self.path} can be read by others than its owner.",
                        fix=f"Run chmod 600 {self.path}, and rotate the keys.",
                    )
                mark = mark_of(stream)
                whole, _, _ = read_up_to(stream, _MOST_BYTES).rpartition(b"\n")
        except (OSError, ValueError) as error:
            raise self._unavailable(getattr(error, "strerror", None) or str(error)) from error
        keys = tuple(line.strip() for line in whole.split(b"\n") if line.strip())
        if not keys or any(len(key) < _SHORTEST_KEY for key in keys):
            raise self._unavailable("it holds no keys, or short ones")
        self._keys, self._mark = keys, mark

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable(
            f"The keys of assignment tokens, {self.path}, cannot be used: {why}.",
            fix="Check the file and its rights, or remove it: older tokens are then refused.",
        )


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.new(key, signed, hashlib.sha256).digest()


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
