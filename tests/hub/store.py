"""What the Hub double keeps: repos with commits, branches, tags and large files, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

LARGE_BYTES = 10_000
"""Where .gitattributes says nothing, files from this size on are kept as large files (LFS)."""


class Refused(Exception):
    """An HTTP answer that is an error; `code` is the Hub's X-Error-Code."""

    def __init__(
        self, status: int, said: str, code: str = "", body: Mapping[str, Any] | None = None
    ):
        super().__init__(said)
        self.status, self.said, self.code = status, said, code
        self.body = {"error": said, **(body or {})}


@dataclass(frozen=True)
class Blob:
    """One file's content as a commit holds it."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        head = "version https://git-lfs.github.com/spec/v1\noid sha256:"
        return f"{head}{self.sha256}\nsize {len(self.content)}\n".encode()

    @property
    def oid(self) -> str:
        """Git's own: of the pointer, where the file is a large one."""
        stored = self.pointer if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """Return the file as `tree` and `paths-info` list it."""
        listed = {"type": "file", "path": path, "oid": self.oid, "size": len(self.content)}
        if self.large:
            pointer_size = len(self.pointer)
            size = len(self.content)
            listed["lfs"] = {"oid": self.sha256, "size": size, "pointerSize": pointer_size}
        return listed


@dataclass(frozen=True)
class Commit:
    """One commit; its sha is unique, as a clock and an author make it on the Hub."""

    sha: str
    parent: str | None
    title: str
    message: str
    date: str
    files: Mapping[str, Blob]


@dataclass
class Repo:
    """One model repo. Not safe among threads: the server holds a lock."""

    id: str
    private: bool
    serial: Iterator[int]
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        attributes = Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", large=False)
        self._add("main", None, "initial commit", "", {".gitattributes": attributes})

    def copied(self) -> Repo:
        """Return another that is as this one now; no sha of either comes again in the other."""
        other = copy(self)
        other.commits, other.large = dict(self.commits), dict(self.large)
        other.branches, other.tags = dict(self.branches), dict(self.tags)
        return other

    def at(self, revision: str) -> Commit:
        """Return the commit that a branch, a tag or a sha names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def history(self, revision: str) -> list[Commit]:
        """Return a revision's commits, newest first."""
        found: list[Commit] = [self.at(revision)]
        while parent := found[-1].parent:
            found.append(self.commits[parent])
        return found

    def is_large(self, path: str, size: int) -> bool:
        return path.endswith(".safetensors") or size >= LARGE_BYTES

    def commit(self, branch: str, lines: Sequence[Mapping[str, Any]]) -> Commit:
        """Apply the lines of a commit request, all or none.

        Raises:
            Refused: 412 where the head is not `parentCommit`; 404, 400 for what cannot be.
        """
        if branch not in self.branches:
            raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        header, head = lines[0]["value"], self.branches[branch]
        expected = header.get("parentCommit")
        if expected and not head.startswith(expected):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(self.commits[head].files)
        for line in lines[1:]:
            self._apply(files, line["key"], line["value"])
        return self._add(branch, head, header["summary"], header.get("description", ""), files)

    def _apply(self, files: dict[str, Blob], key: str, value: Mapping[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = Blob(base64.b64decode(value["content"]), large=False)
        elif key == "lfsFile":
            if value["oid"] not in self.large:
                raise Refused(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = Blob(self.large[value["oid"]], large=True)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        else:
            raise Refused(400, f"The double knows no {key}: {json.dumps(value)[:200]}")

    def _add(
        self, branch: str, parent: str | None, title: str, message: str, files: Mapping[str, Blob]
    ) -> Commit:
        sha = hashlib.sha1(f"{self.id} {next(self.serial)}".encode()).hexdigest()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.commits[sha] = Commit(sha, parent, title, message, now, dict(files))
        self.branches[branch] = sha
        return self.commits[sha]
