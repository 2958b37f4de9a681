"""One run: a registry, a server, everybody at once, and what came of it."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import httpx

from adapters.demo.server import served
from adapters.keys import KeyJournal
from adapters.leases import leases
from adapters.retention import Retention
from loadtests.stress.checker import Checker
from loadtests.stress.customers import Customers
from loadtests.stress.findings import Findings
from loadtests.stress.keepers import Keepers
from loadtests.stress.ledger import Ledger
from loadtests.stress.operators import Operators
from loadtests.stress.vandals import Vandals
from loadtests.stress.watch import Watch, children

BASE = "tiny"
_GROWTH = 0.05
"""Of the API process's memory, over the second half of a run."""
_PROGRESS_S = 10.0
_SLACK = 8
"""Files, threads and tasks that a server may have more of than before, at rest."""
_TROUBLES = re.compile(
    r"Traceback|was never retrieved|was never awaited|Task was destroyed|ResourceWarning"
)

_REFUSING = ("(Worker", "(EngineCore")
"""vLLM logs the stack of every load that a worker refuses; a death shows otherwise."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long, how many, how much."""

    minutes: float = 2
    seed: int = 0
    adapters: int = 24
    customers: int = 8
    slots: int = 3
    memory: int = 6
    operators: int = 2
    pause_s: float = 0.8
    """Of each operator, vandal and keeper between two deeds, on average."""


@dataclass(slots=True)
class Report:
    """What came of it."""

    settings: dict[str, Any]
    violations: list[str]
    counts: dict[str, int]
    answers_checked: int
    questions: int
    """Different pairs of version and prompt among them."""
    told_apart: list[int]
    """Answers that another version's reference refused, and of how many."""
    ties: int
    worst_tie: float
    """Of a logit: the largest difference to the greedy token's that was taken for a tie."""
    waits_s: dict[str, float]
    """From question to answer."""
    alias_lag_s: float
    """The longest that an alias's old version was still answered with after a move."""
    rss_mb: dict[str, float]
    growth: float
    """Of the API process's memory, over the second half."""
    files: list[int]
    """At the start, and at rest in the end; so threads, tasks and series."""
    deleted_files: int
    threads: list[int]
    tasks: list[int]
    series: list[int]
    engine_pids: list[list[int]]


def run(settings: Settings, scratch: Path, *, progress: TextIO, log: Path | None = None) -> Report:
    """Serve a new registry in `scratch` and do everything to it at once; return what came of it."""
    home, findings = scratch / "registry", Findings()
    home.mkdir()
    registry = Retention.open(home)
    ledger = Ledger(registry)
    operators = Operators(registry, ledger, findings, scratch / "sources", BASE)
    rng = random.Random(settings.seed)
    for number in range(settings.adapters):
        for _ in range(rng.choice([1, 2, 2, 3])):
            operators.publish(f"fleet-{number}")
        if rng.random() < 0.6:
            with ledger.changing(f"fleet-{number}"):
                registry.promote(f"fleet-{number}@v1")
    keys = KeyJournal(home / "keys.jsonl")
    _, customers_key = keys.create("customers", allow=["*"], rpm=10**7, tpm=10**9)
    _, admins_key = keys.create("admin", role="admin")
    places = [f"--max-loras={settings.slots}", f"--max-cpu-loras={settings.memory}"]
    server_log = home / "server.log"
    try:
        with (
            served(["--base", BASE, "--registry", str(home), "--", *places], server_log) as url,
            Checker(ledger, operators.base.path, BASE, findings) as checker,
        ):
            whole = _Run(settings, url, registry, ledger, operators, findings, checker, keys)
            watch, gauges = asyncio.run(whole.play(customers_key, admins_key, progress))
    finally:
        if log:
            shutil.copyfile(server_log, log)
    for line in server_log.read_text(errors="replace").splitlines():
        if _TROUBLES.search(line) and not line.startswith(_REFUSING):
            findings.violation("log", line[:500])
    return _report(settings, findings, checker, watch, gauges)


class _Run:
    def __init__(
        self,
        settings: Settings,
        url: str,
        registry: Retention,
        ledger: Ledger,
        operators: Operators,
        findings: Findings,
        checker: Checker,
        keys: KeyJournal,
    ) -> None:
        self._settings, self._url = settings, url
        self._registry, self._ledger, self._operators = registry, ledger, operators
        self._findings, self._checker, self._keys = findings, checker, keys

    async def play(
        self, customers_key: str, admins_key: str, progress: TextIO
    ) -> tuple[Watch, list[dict[str, float]]]:
        """Have everybody at it; return what was seen of the server, before and after."""
        settings, findings = self._settings, self._findings
        (lease,) = leases(self._registry.location)
        async with self._client(admins_key) as admin:
            watch = Watch(admin, findings, lease.pid)
            before = await watch.settled()
            watch.samples.append(watch.look())
            until = time.monotonic() + settings.minutes * 60
            beside = [
                asyncio.create_task(watch.run()),
                asyncio.create_task(self._say(progress, watch, until)),
            ]
            threads = self._threads(until)
            async with self._client(customers_key) as customer, self._client(admins_key) as keeper:
                await self._people(customer, keeper, until)
            await asyncio.to_thread(_join, threads)
            for task in beside:
                task.cancel()
            if findings.ended:
                return watch, [before, before]
            await asyncio.sleep(5)  # connections and loads that nobody waits for come to an end
            after = await watch.settled()
            watch.samples.append(watch.look())
            if children(lease.pid) != watch.engine:
                findings.violation("engine", f"was {watch.engine}, is {children(lease.pid)}")
            if (ready := await admin.get("/ready")).status_code != 200:
                findings.violation("ready", ready.text)
            return watch, [before, after]

    async def _people(
        self, customer: httpx.AsyncClient, keeper: httpx.AsyncClient, until: float
    ) -> None:
        settings, findings = self._settings, self._findings
        customers = Customers(customer, self._ledger, findings, self._checker.put, BASE)
        keepers = Keepers(keeper, self._keys, self._ledger, findings)
        await asyncio.gather(
            *(
                customers.run(until, self._rng(f"customer {number}"))
                for number in range(settings.customers)
            ),
            keepers.keep(until, self._rng("keeper"), settings.pause_s),
            keepers.rent(until, self._rng("tenant"), settings.pause_s),
        )

    def _client(self, key: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._url, headers={"authorization": f"Bearer {key}"}, timeout=180
        )

    def _rng(self, who: str) -> random.Random:
        return random.Random(f"{self._settings.seed} {who}")

    def _threads(self, until: float) -> list[threading.Thread]:
        vandals = Vandals(self._operators, self._ledger, self._findings, BASE)
        runs = [self._operators.run] * self._settings.operators + [vandals.run]
        threads = [
            threading.Thread(
                target=each,
                args=(until, self._rng(f"thread {n}"), self._settings.pause_s),
                daemon=True,  # an interrupt must not wait for them
            )
            for n, each in enumerate(runs)
        ]
        for thread in threads:
            thread.start()
        return threads

    async def _say(self, progress: TextIO, watch: Watch, until: float) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            counts, last = self._findings.counts, watch.samples[-1]
            print(
                f"{max(0.0, until - time.monotonic()):.0f} s left: "
                f"{counts['answers checked']} answers right, {self._checker.waiting} to check, "
                f"{len(self._findings.violations)} violations; {last.rss_bytes / 1e6:.0f} MB, "
                f"{last.files} files, {last.threads} threads, "
                f"{watch.gauges[-1]['tasks'] if watch.gauges else 0:.0f} tasks",
                file=progress,
                flush=True,
            )


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


def _report(
    settings: Settings,
    findings: Findings,
    checker: Checker,
    watch: Watch,
    gauges: Sequence[dict[str, float]],
) -> Report:
    first, last = watch.samples[0], watch.samples[-1]
    busy = watch.samples[1:-1]
    growth = watch.growth("rss_bytes")
    pairs = {
        "files": [first.files, last.files],
        "threads": [first.threads, last.threads],
        **{name: [int(each[name]) for each in gauges] for name in ("tasks", "series")},
    }
    if growth > _GROWTH:
        findings.violation("memory", f"grew by {growth:.1%} over the second half")
    for what in ("files", "threads", "tasks"):
        if pairs[what][1] > pairs[what][0] + _SLACK:
            findings.violation("leak", f"{what}: {pairs[what]}")
    if last.deleted_files:
        findings.violation("leak", f"{last.deleted_files} deleted files are open")
    if (lists := max(each["lists_of_adapters"] for each in [*watch.gauges, *gauges])) > 1:
        findings.violation("leak", f"vLLM's list of running adapters has {lists:.0f} series")
    left = gauges[-1]["running"] + gauges[-1]["vllm_running"] + gauges[-1]["vllm_waiting"]
    if left:
        findings.violation("leak", f"{left:.0f} requests run with nobody there")
    if checker.not_told_apart > 0.02 * checker.told_apart:
        findings.violation("reference", "it does not tell versions apart")
    waits = sorted(findings.waits_s) or [0.0]
    return Report(
        settings={name: getattr(settings, name) for name in Settings.__dataclass_fields__},
        violations=findings.violations,
        counts=dict(sorted(findings.counts.items())),
        answers_checked=findings.counts["answers checked"],
        questions=checker.questions,
        told_apart=[checker.told_apart, checker.told_apart + checker.not_told_apart],
        ties=checker.ties,
        worst_tie=checker.worst_tie,
        waits_s={
            "p50": statistics.median(waits),
            "p99": waits[int(0.99 * len(waits))],
            "worst": waits[-1],
        },
        alias_lag_s=max(findings.lags_s, default=0.0),
        rss_mb={
            "first": first.rss_bytes / 1e6,
            "middle": busy[len(busy) // 2].rss_bytes / 1e6,
            "last": busy[-1].rss_bytes / 1e6,
            "engine_middle": busy[len(busy) // 2].children_rss_bytes / 1e6,
            "engine_last": busy[-1].children_rss_bytes / 1e6,
        },
        growth=growth,
        files=pairs["files"],
        deleted_files=last.deleted_files,
        threads=pairs["threads"],
        tasks=pairs["tasks"],
        series=pairs["series"],
        engine_pids=[watch.engine],
    )
