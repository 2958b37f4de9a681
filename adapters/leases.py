"""Leases: which versions a running server's engine knows, said in the registry's folder.

    <root>/leases/<host>-<pid>-<start>.json    {host, machine, pid, start, renewed_at, holds}

A server replaces its file as a whole whenever what it has loaded changes and about once a
second, and removes it at its end. One that was killed leaves its file: on the same machine the
lease ends with the process, which /proc knows by id and start time; for other machines, that
cannot be asked, once it has not been renewed for a while. Deletion asks here
(`adapters.housekeeping`). Servers from the Hub run from this machine's copies, and hold those: a
deletion on the Hub sees the servers of the machine that it is asked on, and no others.
"""

from __future__ import annotations

import json
import os
import platform
import re
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from adapters.errors import RegistryUnavailable
from adapters.files import make_folder, open_plain, read_up_to
from adapters.home import hub_cache
from adapters.types import versions_named

_FOLDER = "leases"
_MOST_BYTES = 4 << 20
_SILENT_S = 120
"""How long a server of another machine may be silent: longer than any pause but a dead one's."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True)
class Lease:
    """What one server holds."""

    host: str
    machine: str
    """Where `pid` means what it means here: the boot and the namespace of process ids."""
    pid: int
    start: int
    """The process's start in clock ticks since boot: a process id alone comes again."""
    renewed_at: float
    """Seconds since 1970, by the holder's clock."""
    holds: tuple[str, ...]
    """Engine names, sorted."""

    @property
    def holder(self) -> str:
        """Who it is, for messages."""
        return f"process {self.pid} on {self.host}"

    @property
    def versions(self) -> set[tuple[str, int]]:
        """What it holds, by name and number."""
        return versions_named(self.holds)

    def alive(self) -> bool:
        """Say whether the holder still runs, or may still run where that cannot be asked."""
        if self.machine == _machine():
            return _start_of(self.pid) == self.start
        return time.time() - self.renewed_at < _SILENT_S


class Holding:
    """This process's own lease on a registry. Thread-safe."""

    def __init__(self, location: str) -> None:
        self._folder = folder_of(location)
        self._lock = threading.Lock()
        host, pid, start = platform.node(), os.getpid(), _start_of(os.getpid()) or 0
        self._lease = Lease(host, _machine(), pid, start, 0.0, ())
        plain = re.sub(r"[^A-Za-z0-9.-]", "_", host)[:64]
        self._file = f"{plain}-{pid}-{start}.json"

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def renew(self, names: Iterable[str]) -> None:
        """Say that these are held, and no others. Atomic: readers see the old or the new file.

        Raises:
            RegistryUnavailable: the folder cannot be written.
        """
        fields = asdict(self._lease) | {"renewed_at": time.time(), "holds": sorted(names)}
        try:
            with self._lock:
                make_folder(self._folder)
                written = self._folder / f".{self._file}"
                written.write_text(json.dumps(fields))
                written.replace(self._folder / self._file)
        except OSError as error:
            raise RegistryUnavailable(
                f"Cannot write a lease in {self._folder}: {error.strerror}.",
                fix="Delete nothing from this registry while the server runs, or make it writable.",
            ) from error

    def end(self) -> None:
        """Hold nothing any more."""
        for name in (self._file, f".{self._file}"):
            with suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)


def folder_of(location: str) -> Path:
    """Return where a registry's leases are; on the Hub's they are in this machine's cache."""
    if location.startswith("hf://"):
        return hub_cache(location.removeprefix("hf://")) / f".{_FOLDER}"
    return Path(location) / _FOLDER


def leases(location: str) -> list[Lease]:
    """Return the leases of servers that run.

    Raises:
        RegistryUnavailable: a lease that cannot be read, or is none: who knows what it holds.
    """
    return [lease for _, lease in _read(location) if lease.alive()]


def sweep(location: str) -> None:
    """Remove the leases of servers that were killed."""
    for path, lease in _read(location):
        if not lease.alive():
            with suppress(OSError):
                path.unlink()


def _read(location: str) -> list[tuple[Path, Lease]]:
    folder, found = folder_of(location), []
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            with open_plain(path) as stream:
                fields = json.loads(read_up_to(stream, _MOST_BYTES))
            holds = tuple(fields["holds"])
            if not all(isinstance(name, str) for name in holds):
                raise TypeError("it holds what is no name")
            found.append((path, Lease(**{**fields, "holds": holds})))
        except FileNotFoundError:
            continue  # its server ended just now
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise RegistryUnavailable(
                f"The lease {path} cannot be understood: {error}.",
                fix="Remove the file if its server does not run any more.",
            ) from error
    return found


def _machine() -> str:
    try:
        return f"{_BOOT_ID.read_text().strip()} {_PID_NAMESPACE.readlink()}"
    except OSError:
        return f"unknown, {platform.node()}"


def _start_of(pid: int) -> int | None:
    """Return when a process of this machine started, in clock ticks since boot; None: gone."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2]
    except OSError:
        return None
    state, *fields = after_name.split()
    return None if state in "ZX" else int(fields[18])
