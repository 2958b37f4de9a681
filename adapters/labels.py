"""Tags and notes of a version: those it was published with, until somebody changes them.

They stand beside the immutable version, in a journal of the adapter: a line holds all tags and
notes of one version, the last line on a version stands. Pure; who writes is
`adapters.housekeeping`'s to say. They stay in their registry when a version is pushed or pulled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapters.types import LogEntry, Version

LABELS = "labels"
"""The journal."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What people wrote upon a version."""

    tags: tuple[str, ...]
    """Words, or `key=value`; in the order they were added."""
    notes: str


def changed(entries: Iterable[LogEntry]) -> dict[int, Labels]:
    """Return the labels of the versions whose labels were changed, by number."""
    return {
        entry.version: Labels(
            tuple(str(tag) for tag in entry.detail.get("tags", ())),
            str(entry.detail.get("notes", "")),
        )
        for entry in entries
        if entry.version is not None
    }


def labels_of(version: Version, later: Mapping[int, Labels]) -> Labels:
    """Return a version's labels as they are now; `later`: what `changed` says of its adapter."""
    published = Labels(version.manifest.tags, version.manifest.notes)
    return later.get(version.number, published)
