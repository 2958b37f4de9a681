"""A journal's file: one JSON document a line, only ever appended to, durable line by line.

A writer that was killed leaves at most the beginning of a line, which readers leave out and the
next writer removes. Readers take no lock; writers of one file keep each other out by one of theirs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from adapters.files import fsync_folder, make_folder, open_plain, read_up_to

Mark = tuple[int, int, int]
"""Inode, size in bytes and modification time in ns: a journal that only grows has not changed."""
_MOST_BYTES = 64 << 20
"""Some 300,000 lines; what is larger is none of ours."""


def mark_of(stream: BinaryIO) -> Mark:
    """Return what tells whether an open journal has changed since it was read."""
    status = os.fstat(stream.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_lines(stream: BinaryIO) -> list[Any]:
    """Return the documents of an open journal, oldest first.

    Raises:
        ValueError, RecursionError: it is too large, or a whole line is no JSON.
    """
    complete, _, _ = read_up_to(stream, _MOST_BYTES).rpartition(b"\n")
    return [json.loads(line) for line in complete.split(b"\n") if line]


def append_line(path: Path, line: bytes, *, rights: int = 0o666) -> None:
    """Append one line, which ends in a newline; durable on return. Writers hold a lock.

    `rights`: of the file if it is made, less the umask.

    Raises:
        OSError: it is no plain file, or cannot be written.
    """
    make_folder(path.parent)
    with open_plain(path, "a+b", rights=rights) as stream:
        stream.seek(0)
        whole = stream.read().rpartition(b"\n")
        stream.truncate(len(whole[0]) + len(whole[1]))  # a line cut short by a crash
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())
    fsync_folder(path.parent)
