"""Holds every answer against the ledger and the references, on a thread of its own."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

from adapters.errors import InvalidName
from adapters.types import Ref
from loadtests.stress.customers import Asked
from loadtests.stress.findings import Findings
from loadtests.stress.ledger import FOLLOW_S, Ledger, Published
from loadtests.stress.references import TOLERANCE, References

_Question = tuple[str, str, bool]
"""Who was asked (an engine name, or the base), the message, and whether it was a chat."""


class Checker:
    """Give it requests that are over; as a context it ends once all are checked."""

    def __init__(self, ledger: Ledger, base: Path, base_name: str, findings: Findings) -> None:
        self._ledger = ledger
        self._base_name = base_name
        self._findings = findings
        self._references = References(base)
        self._right: dict[_Question, list[tuple[int, ...]]] = {}
        self._last: tuple[Path | None, tuple[int, ...], tuple[int, ...]] | None = None
        self._queue: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="checker")
        self.ties = 0
        self.worst_tie = 0.0
        """Of a logit."""
        self.told_apart = 0
        self.not_told_apart = 0
        """Answers that another version's reference would have taken, too."""

    def __enter__(self) -> Checker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def put(self, asked: Asked) -> None:
        """Have a request checked."""
        self._queue.put(asked)

    @property
    def waiting(self) -> int:
        """How many are not checked yet."""
        return self._queue.qsize()

    @property
    def questions(self) -> int:
        """How many different pairs of version and prompt were answered."""
        return len(self._right)

    def _run(self) -> None:
        while (asked := self._queue.get()) is not None:
            try:
                self._look(asked)
            except Exception as error:
                self._findings.violation("checker", f"{asked}: {error!r}")

    def _look(self, asked: Asked) -> None:
        if not asked.status:
            return  # left before anything was said
        if asked.leaves_after is None and asked.leaves_after_s is None:
            self._findings.waits_s.append(asked.done - asked.sent)
        self._findings.count(f"status {asked.status}")
        if asked.model != self._base_name:
            self._check_route(asked)
        elif asked.status != 200:
            self._findings.violation("base", f"is {asked.status}: {asked.error}")
        if asked.status == 200:
            self._check_answer(asked)

    def _check_route(self, asked: Asked) -> None:
        try:
            ref = Ref.parse(asked.model)
        except InvalidName:
            if asked.status != 404:
                self._findings.violation("no name", f"{asked.model!r} is {asked.status}")
            return
        with self._ledger.still(ref.name):  # a change that had begun is over, and written down
            expected = self._ledger.expected(ref, asked.sent, asked.done)
        if asked.status != 200:
            if asked.status not in expected.statuses:
                self._findings.violation(
                    f"status {asked.status}",
                    f"{asked.model}: {asked.error}; expected: {expected}",
                )
            return
        served = self._ledger.published(asked.served_by)
        number = served.version.number if served else -1
        if number not in expected.versions or (served and served.version.name != ref.name):
            self._findings.violation(
                "wrong version",
                f"{asked.model} was answered by {asked.served_by}; expected: {expected}",
            )
            return
        if not expected.waits:
            self._findings.lags_s.append(expected.versions[number])
        if expected.versions[number] > FOLLOW_S:
            self._findings.count("answers before an alias had moved")

    def _check_answer(self, asked: Asked) -> None:
        served = self._ledger.published(asked.served_by)
        if asked.error:
            self._findings.violation("broken stream", f"{asked.model}: {asked.error}")
        if asked.named - {asked.served_by}:
            self._findings.violation("name", f"{asked.served_by} is named {asked.named}")
        stays = asked.leaves_after is None and asked.leaves_after_s is None
        if stays and not asked.whole:
            self._findings.violation("broken off", f"{asked.model}, {len(asked.tokens)} tokens")
        if stays and not asked.tokens:
            self._findings.violation("empty", f"{asked.model}, {asked.text!r}")
        if asked.tokens:
            self._check_tokens(asked, served)
        if asked.whole and not asked.stream and asked.text != self._references.text(asked.tokens):
            self._findings.violation("text", f"{asked.served_by} said {asked.text!r}")

    def _check_tokens(self, asked: Asked, served: Published | None) -> None:
        self._findings.count("answers checked")
        question = (asked.served_by, asked.message, asked.chat)
        said = tuple(asked.tokens)
        known = self._right.setdefault(question, [])
        if any(said == right[: len(said)] for right in known):
            return
        weights = served.weights if served else None
        system = served.system if served else None
        prompt = self._references.prompt(asked.message, chat=asked.chat, system=system)
        shortfall = self._references.shortfall(weights, prompt, said)
        if shortfall > TOLERANCE:
            self._findings.violation(
                "wrong answer",
                f"{question}, {'sound' if self._ledger.sound(asked.served_by) else 'damaged'}, "
                f"said {self._references.text(said)!r}, {shortfall:.3f} below greedy; "
                f"{self._whose(prompt, said)}",
            )
            return
        if shortfall > 0:
            self.ties += 1
            self.worst_tie = max(self.worst_tie, shortfall)
        known.append(said)
        self._tell_apart(weights, prompt, said)

    def _tell_apart(
        self, weights: Path | None, prompt: tuple[int, ...], said: tuple[int, ...]
    ) -> None:
        """See that the reference before this one would have said something else."""
        if self._last and self._last[0] != weights and len(said) > 1:
            apart = self._references.shortfall(self._last[0], prompt, said) > TOLERANCE
            self.told_apart += apart
            self.not_told_apart += not apart
        self._last = (weights, prompt, said)

    def _whose(self, prompt: tuple[int, ...], said: tuple[int, ...]) -> str:
        """Say whose answer it is, where it is another version's."""
        candidates: dict[str, Path | None] = {self._base_name: None}
        for name in self._ledger.names:
            for number in self._ledger.now(name).versions:
                if (found := self._ledger.of(name, number)) and found.weights:
                    candidates[found.version.engine_name] = found.weights
        found_in = [
            name
            for name, weights in candidates.items()
            if self._references.shortfall(weights, prompt, said) <= TOLERANCE
        ]
        return f"it is the answer of {found_in}" if found_in else "it is nobody's answer"
