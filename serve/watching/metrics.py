"""What the server counts, beside vLLM's own numbers: in the registry that `/metrics` shows.

Labels are bounded: `adapter`, `version` and `arm` come from routes, never from what a client
wrote, and at most `MOST_SERIES` combinations of them stand at a time; more are counted under
`other`. Series of versions that left the registry are removed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Set
from functools import partial

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from serve.watching.exchange import Exchange

MOST_SERIES = 100
"""Combinations of adapter, version and arm that have series of their own."""
_IDLE_S = 3600.0
"""Not asked for so long, a combination makes room for another."""
_OTHER = ("other", "", "")
_WHO = ("adapter", "version", "arm")
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1)
_FIRST_TOKEN_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_REQUEST_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ENGINE_NAME = re.compile(r"(?P<adapter>[^@]+)@(?P<version>v\d+)\+")

Who = tuple[str, str, str]
"""Adapter, version (`v3`; empty for the base) and arm (empty outside experiments)."""


class Metrics:
    """All of them. One instance a process, as a registry takes each name once.

    Lives on the event loop and takes plain numbers; durations are in seconds.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self._asked: dict[Who, float] = {}
        self._loading: set[str] = set()

        # Of requests, by who answered.
        self._requests = counter(
            "switchyard_requests_total",
            "Requests answered, by HTTP status.",
            [*_WHO, "endpoint", "status"],
        )
        self._errors = counter(
            "switchyard_errors_total",
            "Requests that failed, by kind of error.",
            [*_WHO, "kind"],
        )
        self._prompt_tokens = counter(
            "switchyard_prompt_tokens_total", "Tokens of prompts, as vLLM counts them.", _WHO
        )
        self._generation_tokens = counter(
            "switchyard_generation_tokens_total", "Tokens generated, as vLLM counts them.", _WHO
        )
        self._request_s = histogram(
            "switchyard_request_seconds",
            "From a request's first byte to its answer's last.",
            _WHO,
            buckets=_REQUEST_S,
        )
        self._first_token_s = histogram(
            "switchyard_time_to_first_token_seconds",
            "From a request's first byte to its stream's first token.",
            _WHO,
            buckets=_FIRST_TOKEN_S,
        )
        self._token_s = histogram(
            "switchyard_inter_token_latency_seconds",
            "Between two events of a stream.",
            _WHO,
            buckets=_TOKEN_S,
        )
        self._admission_s = histogram(
            "switchyard_admission_wait_seconds",
            "What a request waited for its version to be loaded, or for its turn.",
            _WHO,
            buckets=_FIRST_TOKEN_S,
        )
        self._of_requests = (
            *(self._requests, self._errors, self._prompt_tokens, self._generation_tokens),
            *(self._request_s, self._first_token_s, self._token_s, self._admission_s),
        )
        self.running = gauge("switchyard_requests_running", "Requests that are being answered.")

        # Of adapters, by version.
        self._loads = counter(
            "switchyard_adapter_loads_total",
            "Loads into the engine, by result: loaded or failed.",
            ["adapter", "result"],
        )
        self._load_s = histogram(
            "switchyard_adapter_load_seconds",
            "From the decision to load a version until it answers.",
            buckets=_FIRST_TOKEN_S,
        )
        self._stall_s = histogram(
            "switchyard_adapter_load_stall_seconds",
            "What the engine's loop stood still for while a version was loaded.",
            buckets=_TOKEN_S,
        )
        self._evictions = counter(
            "switchyard_adapter_evictions_total",
            "Versions that had to leave the engine's memory for others.",
            ["adapter"],
        )
        self._waiting = gauge(
            "switchyard_requests_waiting", "Requests that wait for a slot.", ["adapter"]
        )
        self._versions = gauge(
            "switchyard_versions", "Versions of the registry, by state of residency.", ["state"]
        )

        # Of experiments.
        self._exposures = counter(
            "switchyard_exposures_total",
            "Answers under an experiment, by what became of their record: written or dropped.",
            ["outcome"],
        )
        self._exposures_waiting = gauge(
            "switchyard_exposures_waiting", "Records of answers on their way to the store."
        )
        self.unsigned = counter(
            "switchyard_unsigned_assignments_total",
            "Answers under an experiment without a token: its keys cannot be read.",
        )
        self._outcomes = counter(
            "switchyard_outcomes_total",
            "Outcomes posted back: recorded, late, repeated or refused.",
            ["status"],
        )
        self._exposed = {"written": 0, "dropped": 0}

        # Of the process.
        self.tasks = gauge("switchyard_tasks", "Tasks of the server's event loop.")

        # Of the registry.
        self.registry_age_s = gauge(
            "switchyard_registry_age_seconds", "Since the registry was last read successfully."
        )
        self.registry_problems = gauge(
            "switchyard_registry_problems", "What could not be read of the registry just now."
        )

    def answered(self, noted: Exchange, endpoint: str, status: int, took_s: float) -> None:
        """A request is over. `endpoint`: a path of the API; never one that a client made up."""
        who = self._who(noted)
        self._requests.labels(*who, endpoint, str(status)).inc()
        if noted.error:
            self._errors.labels(*who, noted.error).inc()
        if not noted.route:
            return
        self._request_s.labels(*who).observe(took_s)
        self._prompt_tokens.labels(*who).inc(noted.tally.prompt_tokens)
        self._generation_tokens.labels(*who).inc(noted.tally.completion_tokens)
        if noted.admission_s is not None:
            self._admission_s.labels(*who).observe(noted.admission_s)

    def first_token(self, noted: Exchange, took_s: float) -> Callable[[float], None]:
        """A stream's first token left. Returns what takes how long each next one took."""
        who = self._who(noted)
        self._first_token_s.labels(*who).observe(took_s)
        next_token: Callable[[float], None] = self._token_s.labels(*who).observe
        return next_token

    def loaded(self, engine_name: str, took_s: float, *, failed: bool = False) -> None:
        """A version was loaded, or could not be."""
        self._loads.labels(self._adapter(engine_name), "failed" if failed else "loaded").inc()
        if not failed:
            self._load_s.observe(took_s)

    def stalled(self, took_s: float) -> None:
        """The engine's loop stood still for a load."""
        self._stall_s.observe(took_s)

    def evicted(self, engine_name: str) -> None:
        """A version left the engine's memory for another one."""
        self._evictions.labels(self._adapter(engine_name)).inc()

    def exposed(self, *, written: int, dropped: int, waiting: int) -> None:
        """How many exposures were written and dropped since the start, and how many wait."""
        for outcome, number in (("written", written), ("dropped", dropped)):
            self._exposures.labels(outcome).inc(number - self._exposed[outcome])
            self._exposed[outcome] = number
        self._exposures_waiting.set(waiting)

    def posted(self, status: str, number: int) -> None:
        """So many outcomes were told this."""
        self._outcomes.labels(status).inc(number)

    def waiting(self, requests: Mapping[str, int]) -> None:
        """How many requests wait for a slot, by engine name; all others have none."""
        self._waiting.clear()
        for engine_name, number in requests.items():
            self._waiting.labels(self._adapter(engine_name)).inc(number)

    def standing(self, versions: Mapping[str, int]) -> None:
        """How many versions there are in each state, all states included."""
        for state, number in versions.items():
            self._versions.labels(state).set(number)

    def keep(self, known: Set[tuple[str, str]]) -> None:
        """Remove the series of versions that are not among these (`support`, `v3`) any more."""
        for who in [w for w in self._asked if w[1] and w[:2] not in known]:
            self._remove(who)
        adapters = {adapter for adapter, _ in known}
        for adapter in self._loading - adapters:
            self._loading.discard(adapter)
            for metric in (self._loads, self._evictions):
                metric.remove_by_labels({"adapter": adapter})

    def _who(self, noted: Exchange) -> Who:
        if not noted.route:
            return ("", "", "")
        version, arm = noted.route.version, noted.route.arm
        who = (
            version.name if version else noted.engine_name,
            f"v{version.number}" if version else "",
            arm.name if arm else "",
        )
        now = time.monotonic()
        if who not in self._asked and len(self._asked) >= MOST_SERIES:
            longest = min(self._asked, key=self._asked.__getitem__)
            if now - self._asked[longest] < _IDLE_S:
                return _OTHER
            self._remove(longest)
        self._asked[who] = now
        return who

    def _adapter(self, engine_name: str) -> str:
        adapter, _ = _version(engine_name)
        if adapter not in self._loading and len(self._loading) >= MOST_SERIES:
            return _OTHER[0]
        self._loading.add(adapter)
        return adapter

    def _remove(self, who: Who) -> None:
        del self._asked[who]
        for metric in self._of_requests:
            metric.remove_by_labels(dict(zip(_WHO, who, strict=True)))


def _version(engine_name: str) -> tuple[str, str]:
    found = _ENGINE_NAME.match(engine_name)
    return (found["adapter"], found["version"]) if found else (engine_name, "")
