"""Who holds keys of the server: an admin who loads and pins, and tenants whose keys come and go."""

from __future__ import annotations

import asyncio
import random
import time

import httpx

from adapters.keys import KeyJournal
from adapters.types import Ref
from loadtests.stress.findings import Findings
from loadtests.stress.ledger import FOLLOW_S, Ledger

_ACTIONS = (
    ("GET", ""),
    ("POST", "/load"),
    ("POST", "/pin"),
    ("DELETE", "/pin"),
    ("DELETE", "/pin"),
)


class Keepers:
    """What they do beside the customers."""

    def __init__(
        self, http: httpx.AsyncClient, keys: KeyJournal, ledger: Ledger, findings: Findings
    ) -> None:
        """`http`: with an admin's key."""
        self._http = http
        self._keys = keys
        self._ledger = ledger
        self._findings = findings

    async def keep(self, until: float, rng: random.Random, pause_s: float) -> None:
        """Load, pin and list, until so long."""
        while self._findings.goes_on(until):
            await asyncio.sleep(rng.random() * 2 * pause_s)
            try:
                await self._act(rng)
            except httpx.HTTPError as error:
                self._findings.violation("connection", f"/v1/adapters: {error!r}")

    async def _act(self, rng: random.Random) -> None:
        if rng.random() < 0.2:
            for path in ("/v1/adapters", "/v1/models"):
                if (reply := await self._http.get(path)).status_code != 200:
                    self._findings.violation("list", f"{path} is {reply.status_code}")
            return
        name = rng.choice(self._ledger.names)
        now = self._ledger.now(name)
        ref = rng.choice([name, f"{name}@production", f"{name}@v{max(now.versions, default=1)}"])
        method, action = rng.choice(_ACTIONS)
        sent = time.monotonic()
        reply = await self._http.request(method, f"/v1/adapters/{ref}{action}")
        done = time.monotonic()
        self._findings.count(f"{method} /v1/adapters/REF{action}: {reply.status_code}")

        def expected() -> set[int]:
            with self._ledger.still(name):
                return self._ledger.expected(Ref.parse(ref), sent, done, split=False).statuses

        allowed = {200} | await asyncio.to_thread(expected)
        if action == "/pin" and method == "POST":
            allowed.add(409)
        if reply.status_code not in allowed:
            self._findings.violation(
                "adapters", f"{method} {ref}{action} is {reply.status_code}: {reply.text}"
            )

    async def rent(self, until: float, rng: random.Random, pause_s: float) -> None:
        """Make a key for some adapters, use it, revoke it, and see that it opens nothing."""
        while self._findings.goes_on(until):
            name = f"tenant-{rng.randrange(1 << 32):08x}"
            pattern = rng.choice(["fleet-1*", "fleet-2*", "tiny"])
            _, secret = await asyncio.to_thread(
                lambda name=name, pattern=pattern: self._keys.create(
                    name, allow=[pattern], rpm=10_000, tpm=10_000_000
                )
            )
            await asyncio.sleep(FOLLOW_S)
            seen = await self._models(secret)
            hidden = [each for each in seen if not each.startswith(pattern.rstrip("*"))]
            if hidden or not seen:
                self._findings.violation("tenant", f"{pattern} sees {seen}")
            await asyncio.sleep(rng.random() * 2 * pause_s)
            await asyncio.to_thread(self._keys.revoke, name)
            await asyncio.sleep(FOLLOW_S)
            if (seen := await self._models(secret)) != ["401"]:
                self._findings.violation("revoked key", f"it sees {seen}")
            self._findings.count("keys made and revoked")

    async def _models(self, secret: str) -> list[str]:
        headers = {"authorization": f"Bearer {secret}"}
        reply = await self._http.get("/v1/models", headers=headers)
        if reply.status_code != 200:
            return [str(reply.status_code)]
        return [card["id"] for card in reply.json()["data"]]
