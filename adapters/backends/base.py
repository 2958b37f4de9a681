"""The port `RegistryBackend`: where versions and journals are kept.

An implementation keeps bytes safe and numbers unique. It knows nothing of refs, aliases'
meaning, lint or experiments: those are the registry's (`adapters.registry`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from adapters.types import File, Manifest, Version

Line = Mapping[str, Any]
"""One journal line: a JSON object."""


class RegistryBackend(Protocol):
    """Numbered, immutable versions and append-only journals, by adapter name.

    Names given to these methods have passed `adapters.types.check_name`. Every method may
    raise `RegistryUnavailable` (place not readable or not writable).
    """

    @property
    def location(self) -> str:
        """What a person would type to name this registry."""

    def names(self) -> list[str]:
        """Return the adapters that have at least one version, sorted."""

    def numbers(self, name: str) -> list[int]:
        """Return the numbers of the versions that exist, ascending; empty for an unknown name."""

    def open(self, name: str, number: int) -> Version:
        """Return a version whose `path` is a local folder that stays as it is.

        Raises:
            NotFound: never published, or deleted.
            RegistryUnavailable: its manifest cannot be read.
        """

    def publish(
        self,
        name: str,
        folder: Path,
        paths: list[str],
        manifest: Callable[[int, Mapping[str, File]], Manifest],
    ) -> Version:
        """Copy `paths` out of `folder` and give them the next number.

        Atomic: at every instant, also after a kill, readers see the whole version or none.
        Numbers are unique among any number of concurrent writers, grow, and are never used
        again. `manifest` is called with the number and the files as copied, perhaps more than
        once where another writer takes the number first.

        Raises:
            UsageError: the manifest holds what JSON cannot (NaN, an object of no JSON type).
        """

    def journals(self, name: str, kind: str) -> list[str]:
        """Return the journals below `kind` (`aliases`, `experiments`), sorted."""

    def read(self, name: str, journal: str) -> list[Line]:
        """Return a journal's lines, oldest first; empty where it does not exist.

        A line that a crash cut short was never acknowledged and is left out.
        """

    def append(self, name: str, journal: str, line: Line, *, expect: int | None = None) -> None:
        """Add a line; it is durable on return. `expect`: only if so many lines exist.

        Raises:
            Conflict: another writer appended since the caller read.
            UsageError: the line holds what JSON cannot.
        """

    def check_writable(self) -> None:
        """Find out, before hours of work, whether a publication could be written.

        Raises:
            RegistryUnavailable: it could not. Leaves nothing behind but the registry's folder.
        """

    def writing(self, name: str) -> AbstractContextManager[object]:
        """Serialise writers of one adapter while the block runs. Readers never wait.

        A backend without locks returns a null context: `append`'s `expect` then decides.
        """
