"""Who asks: what a caller sees of the registry, may spend, and shares with nobody.

A caller sees the registry through its key's patterns, before anything else looks at it. So an
adapter it may not see and one that does not exist take the same way to the same answer.
"""

from __future__ import annotations

import fnmatch
import hmac
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from adapters.errors import AdaptersError, Unavailable
from adapters.keys import Key
from serve.http.failures import RequestRefused
from serve.routes.routing import Base, Route
from serve.routes.snapshot import Adapter, Snapshot
from serve.tenants.rates import Allowance

_SALTED = frozenset(
    {
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/pooling",
        "/classify",
        "/score",
        "/v1/score",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
    }
)
"""Where vLLM looks into its prefix cache, and takes `cache_salt`."""
_RESPONSES = "/v1/responses"
_RESPONSE = re.compile(r"resp_([0-9a-f]{32})([0-9a-f]{32})")


class Caller:
    """One key at work, for as long as it opens anything; or, without a key, an admin."""

    def __init__(self, key: Key | None = None, *, isolated: bool = True) -> None:
        """`isolated`: keep what vLLM caches of its prompts from every other key."""
        self.key = key
        self.role = key.role if key else "admin"
        self.allowance = Allowance(key.rpm, key.tpm) if key and (key.rpm or key.tpm) else None
        self._patterns = [re.compile(fnmatch.translate(p)) for p in key.allow] if key else []
        self._hash = bytes.fromhex(key.sha256) if key else b""
        self._isolated = isolated

    @property
    def id(self) -> str | None:
        """Which key it is, for logs: says nothing of its name or secret."""
        return self.key.id if self.key else None

    def sees(self, name: str) -> bool:
        """Whether an adapter or a name of the base exists for it."""
        return self.role == "admin" or any(p.fullmatch(name) for p in self._patterns)

    def view(self, snapshot: Snapshot, base: Base) -> tuple[Snapshot, Base]:
        """Return the registry and the base as they are for this caller. Copies nothing."""
        if self.role == "admin":
            return snapshot, base
        names = tuple(name for name in base.names if self.sees(name))
        seen = replace(snapshot, adapters=_Seen(snapshot.adapters, self.sees), troubles=())
        return seen, replace(base, names=names)

    @contextmanager
    def discreetly(self, found: Route) -> Iterator[None]:
        """Have errors of what a version stands on not name it, where the caller does not see it.

        Raises:
            Unavailable: in place of them.
        """
        try:
            yield
        except AdaptersError as error:
            if found.version is None or found.ground is None or self.sees(found.ground.name):
                raise
            raise Unavailable(
                f"What {found.version.ref} stands on cannot be served now.",
                fix="Try again later, or tell who runs the server.",
            ) from error

    def sealed(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Return a body under which vLLM mixes nothing of this caller's with another's.

        Its prefix cache goes by a salt that nobody can say who has not the key; a salt of the
        client's own goes into that. Responses that vLLM keeps bear a name that tells whose.

        Raises:
            RequestRefused: 400 or 404; a salt that is none, a response of somebody else.
        """
        if self.key is None:
            return content
        sealed = dict(content)
        if self._isolated and path in _SALTED:
            salt = content.get("cache_salt")
            if salt is not None and not (isinstance(salt, str) and salt):
                raise RequestRefused(
                    400, "`cache_salt` is not a text.", fix="Leave it out.", param="cache_salt"
                )
            sealed["cache_salt"] = self._sign("cache_salt", salt or "")
        if path == _RESPONSES:
            self.check_response(content.get("previous_response_id"))
            nonce = secrets.token_hex(16)
            sealed["request_id"] = f"resp_{nonce}{self._sign('response', nonce)[:32]}"
        return sealed

    def check_response(self, response: object) -> None:
        """Refuse a response that was not given to this caller as one that does not exist.

        Raises:
            RequestRefused: 404.
        """
        if self.key is None or not isinstance(response, str):
            return
        found = _RESPONSE.fullmatch(response)
        if not found or not hmac.compare_digest(self._sign("response", found[1])[:32], found[2]):
            raise RequestRefused(
                404, f"No response {response[:80]!r}.", fix="Ask for one that this key was given."
            )

    def _sign(self, purpose: str, text: str) -> str:
        said = f"{purpose}:{text}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._hash, said, "sha256").hex()


ANYBODY = Caller()
"""Who asks where no key is needed, or an admin without limits."""


class _Seen(Mapping[str, Adapter]):
    """The adapters whose names a caller sees; looks at a name only when it is asked for."""

    def __init__(self, adapters: Mapping[str, Adapter], sees: Callable[[str], bool]) -> None:
        self._adapters = adapters
        self._sees = sees

    def __getitem__(self, name: str) -> Adapter:
        if not self._sees(name):
            raise KeyError(name)
        return self._adapters[name]

    def __iter__(self) -> Iterator[str]:
        return filter(self._sees, self._adapters)

    def __len__(self) -> int:
        return sum(1 for _ in self)
