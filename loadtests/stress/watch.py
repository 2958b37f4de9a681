"""What the server's processes hold while it runs: memory, files, threads, tasks, series."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from loadtests.stress.findings import Findings

_INTERVAL_S = 1.0
_METRICS_EVERY = 5
_GAUGES = {
    "tasks": "switchyard_tasks",
    "running": "switchyard_requests_running",
    "vllm_running": "vllm:num_requests_running",
    "vllm_waiting": "vllm:num_requests_waiting",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the API process."""

    at_s: float
    """Since the watch began."""
    rss_bytes: int
    files: int
    deleted_files: int
    """Open, and gone from their folder."""
    threads: int
    children_rss_bytes: int
    """Of the engine and its workers together."""


class Watch:
    """Looks at one server once a second, and asks whether it is ready."""

    def __init__(self, http: httpx.AsyncClient, findings: Findings, pid: int) -> None:
        """`http`: with an admin's key. `pid`: of the API process."""
        self._http, self._findings, self._pid = http, findings, pid
        self._began = time.monotonic()
        self.engine = children(pid)
        """The processes below it, which must stay the same."""
        self.samples: list[Sample] = []
        self.gauges: list[Mapping[str, float]] = []
        """Of `/metrics`, every five seconds; `series` is how many lines it has."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            if not _rss_bytes(self._pid):
                self._findings.violation("server", "it ended")
                self._findings.ended = True
                return
            self.samples.append(self.look())
            with suppress(httpx.HTTPError):
                await self._ask()

    async def _ask(self) -> None:
        reply = await self._http.get("/ready")
        if reply.status_code != 200 or reply.json()["registry"] != "reachable":
            self._findings.violation("ready", f"{reply.status_code} {reply.text}")
        if len(self.samples) % _METRICS_EVERY == 0:
            self.gauges.append(await self.read())

    def look(self) -> Sample:
        """Return how the API process stands now."""
        process = Path(f"/proc/{self._pid}")
        files = [_target(link) for link in (process / "fd").iterdir()]
        return Sample(
            time.monotonic() - self._began,
            _rss_bytes(self._pid),
            len(files),
            sum(target.endswith(" (deleted)") for target in files),
            len(list((process / "task").iterdir())),
            sum(_rss_bytes(pid) for pid in children(self._pid)),
        )

    async def read(self) -> dict[str, float]:
        """Return what `/metrics` says now, and how many series there are."""
        lines = (await self._http.get("/metrics")).text.splitlines()
        found = {"series": float(sum(not line.startswith("#") for line in lines))}
        found["lists_of_adapters"] = sum(
            line.startswith("vllm:lora_requests_info") for line in lines
        )
        for name, metric in _GAUGES.items():
            of = [line for line in lines if re.match(rf"{metric}(\{{| )", line)]
            found[name] = sum(float(line.rpartition(" ")[2]) for line in of)
        return found

    async def settled(self, timeout_s: float = 30) -> dict[str, float]:
        """Wait until nothing runs any more; return the gauges then, or as they are in the end."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = await self.read()
            busy = found["running"] + found["vllm_running"] + found["vllm_waiting"]
            if not busy or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.5)

    def growth(self, of: str) -> float:
        """Return by what part something grew over the second half: of two tenths' medians."""
        values = [float(getattr(sample, of)) for sample in self.samples]
        tenth = max(1, len(values) // 10)
        middle = len(values) // 2
        before = statistics.median(values[middle : middle + tenth])
        return statistics.median(values[-tenth:]) / before - 1


def children(pid: int) -> list[int]:
    """Return the ids of all processes below one, sorted."""
    below: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            below.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found, new = [], [pid]
    while new:
        new = [child for parent in new for child in below.get(parent, ())]
        found += new
    return sorted(found)


def _rss_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
