"""The data receipt: where each row went, with its line.

rows = kept + exact duplicates + near duplicates + empty + too long + fully masked + malformed.
Rows that are too long are trained on shortened, or left out; either way they are counted here.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.errors import InvalidDataset

REASONS: Mapping[str, str] = {
    "exact_duplicate": "the same as an earlier row",
    "near_duplicate": "nearly the same as an earlier row",
    "empty": "nothing for the assistant to say",
    "too_long": "longer than max_length",
    "masked": "longer than max_length before the assistant says a word",
    "malformed": "cannot be read as a row",
}
FLAGS: Mapping[str, str] = {
    "near_duplicate": "nearly the same as an earlier row, and kept",
    "conflict": "the prompt of an earlier row with another answer",
    "leak": "held out, with a training row that is nearly the same",
    "secret": "looks like a password, a key or a token",
    "placeholder": "a placeholder that nobody filled in",
}
_LABELS = 200
_LABEL_CHARACTERS = 60


@dataclass(slots=True)
class Receipt:
    """Counts that grow while rows are read; complete once they all are."""

    form: str = ""
    rows: int = 0
    train_rows: int = 0
    eval_rows: int = 0
    kept_rows: int = 0
    """Trained on or held out as they are."""
    cut_rows: int = 0
    """Trained on or held out, but shortened to `max_length`; among the too long."""
    cut_tokens: int = 0
    train_tokens: int = 0
    longest_tokens: int = 0
    places: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """By reason (`REASONS`), then by file: lines of rows that were not kept as they are."""
    flags: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """By flag (`FLAGS`), then by file: lines of rows to look at; these rows are kept."""
    malformed: list[str] = field(default_factory=list)
    """What is wrong with each malformed row, with its place."""
    flagged: Counter[str] = field(default_factory=Counter)
    """What the flags found, by kind: `secret: GitHub Token`, `placeholder: {{name}}`."""
    labels: Counter[str] | None = field(default_factory=Counter)
    """Answers and how often each occurs, where they are few and short; None where they are not."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Rows by length: those of at most this many tokens, and more than half as many."""
    languages: Counter[str] = field(default_factory=Counter)
    """ISO 639-1 codes; `short` where there is too little text to say."""

    def leave_out(self, reason: str, file: str, line: int, why: str = "") -> None:
        """Count a row that is not kept as it is."""
        assert reason in REASONS
        self.places.setdefault(reason, {}).setdefault(file, []).append(line)
        if why:
            self.malformed.append(f"{file}:{line}: {why}")

    def flag(self, name: str, file: str, line: int, what: str = "") -> None:
        """Note a row that somebody should look at."""
        assert name in FLAGS
        self.flags.setdefault(name, {}).setdefault(file, []).append(line)
        if what:
            self.flagged[f"{name}: {what}"] += 1

    def count_answer(self, answer: str) -> None:
        """Count an answer for the histogram of labels, while answers are few and short."""
        if self.labels is None:
            return
        if len(answer) > _LABEL_CHARACTERS or len(self.labels) > _LABELS:
            self.labels = None
        else:
            self.labels[answer] += 1

    def count_tokens(self, length: int) -> None:
        """Count a row's length before it is cut."""
        self.longest_tokens = max(self.longest_tokens, length)
        self.lengths[1 << max(length - 1, 0).bit_length()] += 1

    def left_out(self, reason: str) -> int:
        """Return how many rows a reason holds."""
        return _count(self.places.get(reason, {}))

    def as_json(self) -> dict[str, int]:
        """Return the counts alone, which the manifest keeps."""
        reasons = {f"{reason}_rows": self.left_out(reason) for reason in REASONS}
        assert self.rows == self.kept_rows + sum(reasons.values())
        return {
            "rows": self.rows,
            "train_rows": self.train_rows,
            "eval_rows": self.eval_rows,
            "kept_rows": self.kept_rows,
            **reasons,
            "cut_rows": self.cut_rows,
            "cut_tokens": self.cut_tokens,
            "train_tokens": self.train_tokens,
            "longest_tokens": self.longest_tokens,
            **{f"{flag}_flags": _count(places) for flag, places in sorted(self.flags.items())},
        }

    def details(self) -> dict[str, Any]:
        """Return all of it: lines, histograms, and what is wrong; `data_receipt.json`."""
        return {
            "form": self.form,
            **self.as_json(),
            "left_out": _ranges(self.places),
            "flags": _ranges(self.flags),
            "flagged": dict(self.flagged.most_common()),
            "malformed": self.malformed,
            "labels": dict(self.labels.most_common()) if self.labels else None,
            "lengths": {str(most): self.lengths[most] for most in sorted(self.lengths)},
            "languages": dict(self.languages.most_common()),
        }

    def digest(self) -> str:
        """Return the sha256 of the details, which the lineage keeps."""
        return hashlib.sha256(to_bytes(self.details())).hexdigest()

    def check(self, **shares: float | None) -> None:
        """Refuse a dataset of which too much is lost.

        `shares`: `max_<reason>` or `max_cut`, the largest share of the rows (0 to 1) that may be
        such; None where any may.

        Raises:
            InvalidDataset: one of them is exceeded, or nothing is left to train on.
        """
        for name, share in shares.items():
            reason = name.removeprefix("max_")
            lost = self.cut_rows if reason == "cut" else self.left_out(reason)
            if share is not None and lost > share * self.rows:
                raise InvalidDataset(
                    f"{lost} of {self.rows} rows {_are(reason)} ({lost / self.rows:.1%}, where "
                    f"--max-{reason.replace('_', '-')} allows {share:.1%}): {self._first(reason)}.",
                    fix=_FIXES.get(reason, "Mend or remove them.")
                    + f" Or allow more: --max-{reason.replace('_', '-')} {lost / self.rows:.3f}",
                )
        if not self.train_rows:
            counts = [f"{self.left_out(r)} {r.replace('_', ' ')}" for r in REASONS]
            raise InvalidDataset(
                f"None of {self.rows} rows can be trained on: {', '.join(counts)}, "
                f"{self.eval_rows} held out.",
                fix="Raise --max-length, lower --test-size, or give it more rows.",
            )

    def _first(self, reason: str) -> str:
        if reason == "malformed":
            return "; ".join(self.malformed[:3])
        places = self.places.get("too_long" if reason == "cut" else reason, {})
        return "; ".join(f"{file}:{spans(lines[:5])}" for file, lines in list(places.items())[:3])


_FIXES = {
    "cut": "Raise --max-length, or shorten them.",
    "too_long": "Raise --max-length, or shorten them.",
    "masked": "Raise --max-length, or shorten their prompts.",
}


def _are(reason: str) -> str:
    return "would be cut" if reason == "cut" else f"are {reason.replace('_', ' ')}"


def _count(places: Mapping[str, list[int]]) -> int:
    return sum(map(len, places.values()))


def _ranges(places: Mapping[str, Mapping[str, list[int]]]) -> dict[str, dict[str, str]]:
    return {
        name: {file: spans(lines) for file, lines in sorted(files.items())}
        for name, files in sorted(places.items())
    }


def spans(lines: Iterable[int]) -> str:
    """Write lines as spans.

    >>> spans([1, 2, 3, 7, 9, 10])
    '1-3, 7, 9-10'
    """
    spans: list[list[int]] = []
    for line in sorted(lines):
        if spans and line == spans[-1][1] + 1:
            spans[-1][1] = line
        else:
            spans.append([line, line])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def to_bytes(details: Mapping[str, Any]) -> bytes:
    """Return the receipt as the file `data_receipt.json` holds it."""
    return (json.dumps(details, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
