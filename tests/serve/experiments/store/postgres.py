"""A real PostgreSQL: the one that DATABASE_URL names, or one of the tests' own."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import psycopg

_USERS = ("postgres", "nobody")
_START_S = 30
_numbers = count(1)


def binaries() -> Path | None:
    """Return the folder with initdb and postgres, the newest one, if there is one."""
    known = sorted(
        glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: float(path.split("/")[-2])
    )
    folders = [Path(found).parent for found in [shutil.which("initdb")] if found]
    folders += [Path(path) for path in reversed(known)]
    return next((each for each in folders if (each / "initdb").exists()), None)


class Postgres:
    """Databases on a server; each test takes one of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        """Of the server, any database; psycopg's form."""

    def database(self) -> str:
        """Make an empty database; return its URL."""
        name = f"switchyard_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._of(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected."""
        name = url.partition("?")[0].rpartition("/")[2]
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def _of(self, name: str) -> str:
        server, mark, options = self._url.partition("?")
        given = server.split("://")[1].partition("/")[0]
        return f"postgresql+psycopg://{given}/{name}{mark}{options}"


class OwnPostgres(Postgres):
    """A server in a folder of its own, by socket alone; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path is short
        self._bin = folder
        self._server: subprocess.Popen[bytes] | None = None
        self._user = _unprivileged()
        if self._user:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        super().__init__(f"postgresql://switchyard@/postgres?host={self._folder}")
        arguments = ["-D", str(self._cluster), "-U", "switchyard", "-A", "trust", "-E", "UTF8"]
        made = self._start(["initdb", *arguments, "--no-locale", "--no-sync"])
        assert made.wait() == 0, self.log

    @property
    def _cluster(self) -> Path:
        return self._folder / "cluster"

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, after a kill too; returns once it answers."""
        arguments = ["-D", str(self._cluster), "-k", str(self._folder), "-c", "listen_addresses="]
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._server is None or self._server.poll() is not None:
                self._server = self._start(["postgres", *arguments, "-c", "max_connections=40"])
            try:
                psycopg.connect(self._url).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.05)  # not yet, or what was killed has not let go of its memory
        raise AssertionError(self.log[-2000:])

    def kill(self) -> None:
        """Kill it as the kernel does when memory runs out; its children notice and end."""
        assert self._server
        self._server.kill()
        self._server.wait()

    def remove(self) -> None:
        """Stop it, and leave nothing."""
        if self._server and self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)
            try:
                self._server.wait(20)
            except subprocess.TimeoutExpired:
                self._server.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        user = self._user
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._bin / command[0]), *command[1:]],
                cwd=self._folder,
                env={"LC_ALL": "C", "PATH": os.defpath},
                stdout=log,
                stderr=log,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
            )


def _unprivileged() -> pwd.struct_passwd | None:
    """Return whom to run it as where we are root, which PostgreSQL refuses."""
    if os.getuid() != 0:
        return None
    known = {each.pw_name: each for each in pwd.getpwall()}
    return next(known[name] for name in _USERS if name in known)
