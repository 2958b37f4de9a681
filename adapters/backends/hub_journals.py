"""Journals of an adapter's repo on the Hub: a branch each, one commit a line.

What the layout is and why, `adapters.backends.hub` says. Knows nothing of publishing.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from adapters.backends.base import Line
from adapters.backends.encoding import encoded
from adapters.backends.hub_calls import Calls, Commit, Refs
from adapters.errors import Conflict, InvalidName

MAIN = "main"
DELETED = "_deleted-"
VERSION_TAG = re.compile(r"v([1-9][0-9]{0,8})")
_NO_BRANCH = re.compile(r"main|[0-9a-f]{40}|.*\.\..*|.*\.lock|.*\.")
_ATTRIBUTES = ".gitattributes"


class Journals:
    """Reads and appends; a journal whose branch has not moved is not read again."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._read: dict[tuple[str, str], tuple[str, list[tuple[str, Line]]]] = {}

    def read(self, name: str, journal: str, refs: Refs) -> list[Line]:
        """Return a journal's lines, oldest first; empty where it does not exist."""
        branch = branch_of(journal)
        if branch is None or branch not in refs.branches:
            return []
        return [line for _, line in self._lines(name, journal, refs.branches[branch])]

    def append(
        self,
        name: str,
        journal: str,
        line: Line,
        create: Callable[[], Refs],
        expect: int | None,
    ) -> None:
        """Add a line, once; `create` makes the repo where there is none.

        Raises:
            Conflict: there are not `expect` lines, or other writers were first for too long.
            InvalidName: Git would have no such branch.
            UsageError: the line holds what JSON cannot.
        """
        encoded(line)  # before anything is created: is it JSON at all?
        branch, write_id = branch_of(journal), secrets.token_hex(16)
        if branch is None:
            raise InvalidName(
                f"{journal!r} can be no branch on the Hub.",
                fix="Choose another name: not main, no '..', and no '.' or '.lock' at its end.",
            )

        def attempt(first: bool) -> None:
            refs = self._calls.refs(name) or create()
            head = refs.branches.get(branch)
            if head and (expect is not None or not first):
                lines = self._lines(name, journal, head)
                if any(written == write_id for written, _ in lines):
                    return
            else:
                lines = []
            if expect is not None and len(lines) != expect:
                raise Conflict(f"{name}: {journal} changed meanwhile.", fix="Look, and try again.")
            if head is None:
                head = self._calls.commits(name, MAIN)[0].sha  # the repo's first, without files
                self._calls.branch(name, branch, head)
            operations = self._line_operations(name, journal, line, write_id, refs, head)
            title, message = f"{journal}: {_title(line)}", message_of(write_id, line=line)
            self._calls.commit(name, branch, head, operations, title, message)

        self._calls.persist(f"write {journal} of {self._calls.repo(name)}", attempt)

    def _lines(self, name: str, journal: str, head: str) -> list[tuple[str, Line]]:
        """Return write ids and lines of a journal, oldest first; read once for each head."""
        known = self._read.get((name, journal))
        if known is None or known[0] != head:
            lines = []
            for commit in self._calls.commits(name, head):
                said = said_by(commit)
                if "line" not in said and commit.title.startswith(f"{journal}: "):
                    said = self._from_file(name, journal, commit.sha)
                if "line" in said:
                    lines.append((said["write_id"], said["line"]))
            known = self._read[name, journal] = head, lines
        return known[1]

    def _from_file(self, name: str, journal: str, sha: str) -> dict[str, Any]:
        raw = self._calls.content(name, sha, _line_file(journal))
        line = json.loads(raw) if raw else {}
        return {"write_id": line.pop("write_id", ""), "line": line} if raw else {}

    def _line_operations(
        self, name: str, journal: str, line: Line, write_id: str, refs: Refs, head: str
    ) -> list[Any]:
        """Return what one line's commit does: its file, and an alias's files beside it."""
        from huggingface_hub import CommitOperationAdd, CommitOperationCopy

        written = encoded({**line, "write_id": write_id}, indent=2)
        operations: list[Any] = [CommitOperationAdd(_line_file(journal), written)]
        if journal.startswith("aliases/") and "to" in line:
            to = line["to"]
            source = versions_of(refs).get(to) if isinstance(to, int) else None
            there = set(self._calls.files(name, source)) - {_ATTRIBUTES} if source else set()
            gone = set(self._calls.files(name, head)) - there - {_line_file(journal)}
            copies = (CommitOperationCopy(p, p, src_revision=source) for p in sorted(there))
            operations += [*copies, *deletions(gone)]
        return operations


def versions_of(refs: Refs) -> dict[int, str]:
    """Return the commits of the versions that exist, by number."""
    found = ((VERSION_TAG.fullmatch(tag), tag, sha) for tag, sha in refs.tags.items())
    return {int(v[1]): sha for v, tag, sha in found if v and f"{DELETED}{tag}" not in refs.tags}


def deleted_of(refs: Refs) -> set[int]:
    """Return the numbers of the versions that were deleted."""
    tags = (tag.removeprefix(DELETED) for tag in refs.tags if tag.startswith(DELETED))
    return {int(found[1]) for tag in tags if (found := VERSION_TAG.fullmatch(tag))}


def branch_of(journal: str) -> str | None:
    """Return the branch of a journal; None where Git or the Hub would not have it."""
    kind, _, stem = journal.partition("/")
    if kind == "aliases":
        return None if _NO_BRANCH.fullmatch(stem) else stem
    branch = f"_{kind}-{stem}" if stem else f"_{kind}"
    return None if _NO_BRANCH.fullmatch(branch) else branch


def journal_of(branch: str) -> str:
    """Return the journal that a branch is; empty for main."""
    if not branch.startswith("_"):
        return "" if branch == MAIN else f"aliases/{branch}"
    return branch[1:].replace("-", "/", 1)


def _line_file(journal: str) -> str:
    return "alias.json" if journal.startswith("aliases/") else "line.json"


def deletions(paths: set[str]) -> Sequence[Any]:
    """Return what takes files away in a commit; the repo's own attributes stay."""
    from huggingface_hub import CommitOperationDelete

    return [CommitOperationDelete(path) for path in sorted(paths - {_ATTRIBUTES})]


def message_of(write_id: str, **said: Any) -> str:
    """Return the message of a commit of ours: JSON, ASCII, with the id to know it by."""
    return json.dumps({"write_id": write_id, **said})


def said_by(commit: Commit) -> dict[str, Any]:
    """Return what a commit of ours says of itself; empty for those of others."""
    try:
        said = json.loads(commit.message)
    except ValueError:
        return {}
    return said if isinstance(said, dict) and "write_id" in said else {}


def _title(line: Line) -> str:
    said = [str(line.get(key)) for key in ("action", "status") if line.get(key)]
    target = [f"v{line['to']}"] if line.get("to") else []
    return " ".join([*said, *target])[:60] or "line"
