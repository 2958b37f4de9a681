"""Rows that are there twice, or nearly.

Exact: by a hash of what is trained on. Near: MinHash with locality-sensitive hashing over the
characters' 5-grams (Broder 1997; Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, ch. 3),
through `datasketch`. Both take the first row as the original, so the order of files decides.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from datasketch import MinHash, MinHashLSH

from train.rows.forms import Chat, Row

_SHINGLE = 5
_PERMUTATIONS = 64
_SPACE = re.compile(r"\s+")


def row_key(row: Row) -> bytes:
    """Return 16 bytes that are the same for rows that train the same."""
    return _hash([row.prompt, row.answer, row.rejected, row.label, list(row.tools)])


def prompt_key(row: Row) -> bytes:
    """Return 16 bytes that are the same for rows of one prompt."""
    return _hash([row.prompt, list(row.tools)])


def fraction(key: bytes) -> float:
    """Return a key as a number from 0 to 1, evenly spread; below `test_size` it is held out."""
    return int.from_bytes(key[:8]) / 2**64


class NearDuplicates:
    """Rows seen so far, asked for one that is nearly the same.

    `threshold`: the share of 5-grams that two rows have in common (Jaccard), 0 to 1.
    """

    def __init__(self, threshold: float) -> None:
        self._index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
        self._sketches: dict[int, MinHash] = {}
        self._threshold = threshold

    def find(self, row: Row) -> tuple[int, int | None]:
        """Add a row; return its number and that of an earlier row that is nearly the same."""
        sketch, number = _sketch(row), len(self._sketches)
        twins = (
            twin
            for twin in sorted(self._index.query(sketch))
            if self._sketches[twin].jaccard(sketch) >= self._threshold
        )
        found = next(twins, None)
        self._index.insert(number, sketch)
        self._sketches[number] = sketch
        return number, found


def _sketch(row: Row) -> MinHash:
    text = _SPACE.sub(" ", said([*row.chat, *(row.rejected or [])])).casefold()
    grams = {text[at : at + _SHINGLE] for at in range(max(1, len(text) - _SHINGLE + 1))}
    sketch = MinHash(num_perm=_PERMUTATIONS, seed=1)
    sketch.update_batch([gram.encode() for gram in grams])
    return sketch


def said(chat: Chat) -> str:
    """Return everything that a chat says, calls of tools included, as one text."""
    parts = [
        turn["content"] + (_plain(turn["tool_calls"]) if "tool_calls" in turn else "")
        for turn in chat
    ]
    return "\n".join(parts)


def _hash(content: Any) -> bytes:
    return hashlib.sha256(_plain(content).encode("utf-8", "surrogatepass")).digest()[:16]


def _plain(content: Any) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
