"""`/v1/experiments`: the verbs of `adapters ab`, for programs. For admins alone.

GET    /v1/experiments                  {"object": "list", "data": [phase, …]}: those not over
GET    /v1/experiments/NAME             the phase of the one on NAME that is not over
GET    /v1/experiments/NAME/log         {"object": "list", "data": [phase, …]}: all there were
GET    /v1/experiments/NAME/report      what is known of it, or of the last one, by now
POST   /v1/experiments                  creates one: {"adapter": NAME, "arms": …, "start": true, …}
POST   /v1/experiments/NAME/start       starts a draft, or goes on
POST   /v1/experiments/NAME/ramp        {"arms": {"v1": 25, "v2": 75}}
POST   /v1/experiments/NAME/take-out    {"arm": "v2"}
POST   /v1/experiments/NAME/pause
POST   /v1/experiments/NAME/stop
POST   /v1/experiments/NAME/promote     {}; or {"arm": "v2", "force": true, "reason": "…"}
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from adapters.designs import read_arm, read_design
from adapters.errors import NotFound
from adapters.experiments import Phase
from adapters.registry import Registry
from adapters.verbs.writer import acting
from serve.experiments.analysis import Report, analyse
from serve.experiments.promotion import promote_winner
from serve.experiments.store.base import Store
from serve.http.access import EXPERIMENTS_PATH
from serve.http.failures import RequestRefused

_FIX = f"See GET {EXPERIMENTS_PATH}."
_FIELDS = {"ramp": ("arms",), "take-out": ("arm",), "promote": ("arm", "force")}
_READ = ("", "log", "report")


class Control:
    """Answers from the registry, on a thread: the event loop waits for no disk and no Hub."""

    def __init__(self, registry: Registry, store: Store) -> None:
        self._registry = registry
        self._store = store
        self._verbs: Mapping[str, Callable[[str, Mapping[str, Any]], Phase]] = {
            "start": self._start,
            "ramp": self._ramp,
            "take-out": self._take_out,
            "pause": self._pause,
            "stop": self._stop,
            "promote": self._promote,
        }

    async def answer(
        self, method: str, path: str, content: Mapping[str, Any], by: str
    ) -> dict[str, Any]:
        """Return the document for a request to `path`, which begins with `/v1/experiments`.

        `by`: who asks, for the journal.

        Raises:
            RequestRefused: 404 or 405, or 400: a field that is none or of the wrong type.
            AdaptersError: as the registry's verbs.
        """
        name, _, action = path.removeprefix(EXPERIMENTS_PATH).removeprefix("/").partition("/")
        if action not in (*_READ, *self._verbs) or (action and not name):
            raise RequestRefused(404, f"Nothing is at {path[:80]!r}.", fix=_FIX)
        reads = action in _READ
        writes = action in self._verbs or not name
        if not (reads and method in ("GET", "HEAD")) and not (writes and method == "POST"):
            raise RequestRefused(405, f"{path[:80]!r} takes no {method}.", fix=_FIX)
        if method == "POST":
            return await asyncio.to_thread(self._change, name, action, content, by)
        return await asyncio.to_thread(self._read, name, action)

    def _read(self, name: str, action: str) -> dict[str, Any]:
        registry = self._registry
        if not name:
            found = [(each, registry.experiment(each)) for each in registry.names()]
            return _listed([_document(each, phase) for each, phase in found if phase])
        if action == "report":
            _, report = self._analysed(name)
            return {"object": "experiment.report", **report.as_json()}
        if action == "log":
            ran = registry.experiments(name)
            return _listed([_document(name, phase) for phases in ran for phase in phases])
        registry.versions(name)  # says which adapters there are, where there is none of that name
        if phase := registry.experiment(name):
            return _document(name, phase)
        raise NotFound(f"No experiment is on {name}.", fix=_FIX)

    def _change(
        self, name: str, action: str, content: Mapping[str, Any], by: str
    ) -> dict[str, Any]:
        with acting(by):
            if not name:
                name = _text(content, "adapter")
                return _document(name, self._create(name, content))
            known = _FIELDS.get(action, ())
            for key in content.keys() - {*known, "reason"}:
                raise RequestRefused(400, f"{action} takes no {key[:40]!r}.", fix=_FIX, param=key)
            return _document(name, self._verbs[action](name, content))

    def _create(self, name: str, content: Mapping[str, Any]) -> Phase:
        ours = ("adapter", "experiment", "start", "reason")
        start = _flag(content, "start")
        arms, design = read_design(name, {k: v for k, v in content.items() if k not in ours})
        return self._registry.start_experiment(
            name,
            arms,
            design=design,
            experiment=_text(content, "experiment") if "experiment" in content else None,
            reason=_reason(content),
            status="running" if start else "draft",
        )

    def _start(self, name: str, content: Mapping[str, Any]) -> Phase:
        return self._registry.resume_experiment(name, reason=_reason(content))

    def _ramp(self, name: str, content: Mapping[str, Any]) -> Phase:
        arms = content.get("arms")
        if not isinstance(arms, dict):
            fix = 'Send {"arms": {"v1": 25, "v2": 75}}.'
            raise RequestRefused(400, "`arms` names no shares.", fix=fix, param="arms")
        shares = {arm: read_arm(name, arm, share)[0].weight for arm, share in arms.items()}
        return self._registry.ramp_experiment(name, shares, reason=_reason(content))

    def _take_out(self, name: str, content: Mapping[str, Any]) -> Phase:
        return self._registry.take_out(name, _text(content, "arm"), reason=_reason(content))

    def _pause(self, name: str, content: Mapping[str, Any]) -> Phase:
        return self._registry.pause_experiment(name, reason=_reason(content))

    def _stop(self, name: str, content: Mapping[str, Any]) -> Phase:
        return self._registry.stop_experiment(name, reason=_reason(content))

    def _promote(self, name: str, content: Mapping[str, Any]) -> Phase:
        phases, report = self._analysed(name)
        promote_winner(
            self._registry,
            name,
            phases,
            report,
            arm=_text(content, "arm") if "arm" in content else None,
            force=_flag(content, "force"),
            reason=_reason(content),
        )
        return self._registry.phases(name)[-1]

    def _analysed(self, name: str) -> tuple[list[Phase], Report]:
        phases = self._registry.phases(name)
        return phases, analyse(name, phases, self._store, now_s=time.time())


def _listed(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": documents}


def _document(name: str, phase: Phase) -> dict[str, Any]:
    return {"object": "experiment", "adapter": name, **asdict(phase)}


def _reason(content: Mapping[str, Any]) -> str:
    return _text(content, "reason") if "reason" in content else ""


def _flag(content: Mapping[str, Any], key: str) -> bool:
    found = content.get(key, False)
    if not isinstance(found, bool):
        raise RequestRefused(400, f"`{key}` is not true or false.", fix=_FIX, param=key)
    return found


def _text(content: Mapping[str, Any], key: str) -> str:
    found = content.get(key)
    if not isinstance(found, str):
        said = "is missing" if found is None else f"is {found!r:.40}, not a text"
        raise RequestRefused(400, f"`{key}` {said}.", fix=_FIX, param=key)
    return found
