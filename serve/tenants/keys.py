"""From a request to its caller: the keys of this machine, followed while the server runs.

A secret is hashed once and looked up by its hash, which nobody can steer: how long that takes says
nothing of the keys there are. Keys are read on a thread of their own, so that a revocation counts
within a moment however long the registry takes to answer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from adapters.errors import AdaptersError
from adapters.keys import Key, KeyJournal, hash_of
from serve.http.access import Kind, keyless, opens
from serve.http.asgi import Scope, header
from serve.http.failures import RequestRefused
from serve.tenants.caller import ANYBODY, Caller

_INTERVAL_S = 0.5

log = logging.getLogger(__name__)


class Keys:
    """The API keys that open the server; without any, everybody may come in.

    Once there has been one, a key is asked for until the server ends, even if all are revoked or
    their file is gone. As a context it follows the journal.
    """

    def __init__(
        self,
        admin_keys: Sequence[str] = (),
        journal: KeyJournal | None = None,
        *,
        open_metrics: bool = False,
        isolated: bool = True,
    ) -> None:
        """`admin_keys`: secrets that open everything, e.g. of --api-key.

        Raises:
            Unavailable: the journal cannot be read.
        """
        assert all(admin_keys), "an empty key would let everybody in"
        self._admins = {hash_of(secret): Caller() for secret in admin_keys}
        self._journal = journal
        self._open_metrics = open_metrics
        self._isolated = isolated
        self._callers: Mapping[bytes, Caller] = self._admins
        self.needed = bool(admin_keys)
        """Whether requests need a key."""
        self._read: tuple[Key, ...] | None = None
        self._trouble = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="keys", daemon=True)
        self._look()

    def __enter__(self) -> Keys:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=5)

    def caller(self, kind: Kind, scope: Scope) -> Caller:
        """Return who asks, if they may ask for this kind of path.

        By `Authorization: Bearer …` (OpenAI) or `x-api-key: …` (Anthropic).

        Raises:
            RequestRefused: 401 or 403.
        """
        if not self.needed or keyless(kind) or (kind is Kind.METRICS and self._open_metrics):
            return ANYBODY
        if scope["method"] == "OPTIONS":
            return ANYBODY  # a browser's preflight never carries a key; it only asks
        scheme, _, bearer = (header(scope, b"authorization") or "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else header(scope, b"x-api-key")
        caller = self._callers.get(hash_of(given or ""))
        if caller is None:
            raise _unauthorized("No valid API key." if given else "This server needs an API key.")
        if caller.key and caller.key.state(datetime.now(UTC)) == "expired":
            raise _unauthorized(f"This API key expired at {caller.key.expires_at}.")
        if not opens(caller.role, kind):
            raise RequestRefused(
                403,
                f"This API key is for {caller.role} alone.",
                fix="Use one whose role opens this path: adapters keys create --role …",
            )
        return caller

    def _look(self) -> None:
        """Take over what the journal says now. Those who stay keep what they have spent."""
        if self._journal is None:
            return
        keys = self._journal.read()
        if keys is self._read:
            return
        before = {caller.key: caller for caller in self._callers.values()}
        self._callers = self._admins | {
            bytes.fromhex(key.sha256): before.get(key) or Caller(key, isolated=self._isolated)
            for key in keys
            if not key.revoked_at
        }
        self.needed = self.needed or bool(keys)
        self._read = keys

    def _follow(self) -> None:
        while not self._stopped.wait(_INTERVAL_S):
            try:
                self._look()
            except AdaptersError as error:
                if str(error) != self._trouble:  # once, not twice a second
                    log.error("%s Keys are as they were before.", error)
                self._trouble = str(error)
            except Exception:  # a thread that dies here would follow no revocation ever after
                log.exception("Reading the keys failed; they are as they were before")
            else:
                self._trouble = ""


def _unauthorized(message: str) -> RequestRefused:
    return RequestRefused(401, message, fix="Send Authorization: Bearer KEY.")
