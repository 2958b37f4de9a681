"""The port `RegistryBackend`: where versions and journals are kept.

An implementation keeps bytes safe and numbers unique. It knows nothing of refs, aliases'
meaning, lint or experiments: those are the registry's (`adapters.registry`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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

    @property
    def exclusive(self) -> bool:
        """Whether `writing` keeps other writers out. Where not, look again after writing."""

    def names(self) -> list[str]:
        """Return the adapters that have at least one version, sorted."""

    def numbers(self, name: str) -> list[int]:
        """Return the numbers of the versions that exist, ascending; empty for an unknown name."""

    def open(self, name: str, number: int) -> Version:
        """Return a version whose `path` is a local folder that stays as it is.

        A backend may fetch its files only when `path` is first asked for; that may then raise
        `RegistryUnavailable`, or `InvalidAdapter` where they are not what was published.

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
        *,
        at_least: int = 1,
    ) -> Version:
        """Copy `paths` out of `folder` and give them the next number, or `at_least` if above it.

        Atomic: at every instant, also after a kill, readers see the whole version or none.
        Numbers are unique among any number of concurrent writers, grow, and are never used
        again. `manifest` is called with the number and the files as copied, perhaps more than
        once where another writer takes the number first; what it returns has a `publish_id`
        that no other publication has.

        Raises:
            UsageError: the manifest holds what JSON cannot (NaN, an object of no JSON type).
        """

    def delete(self, name: str, number: int, line: Line) -> None:
        """Delete a version for good; `line` stays in its place, and its number stays taken.

        Atomic: at every instant, also after a kill, readers see the whole version or, for ever
        after, none: `numbers` leaves it out, `open` says that it was deleted, and `publish`
        never gives its number again. Durable on return. One whose manifest cannot be read is
        deleted, too. Asks nobody whether the version is in use, that is the caller's to know:
        folders that `open` returned stay until the next `sweep`.

        Raises:
            NotFound: never published, or deleted already.
            UsageError: the line holds what JSON cannot.
        """

    def sweep(self, name: str, held: Collection[int] = ()) -> int:
        """Remove the bytes of deleted versions but the `held`, and what killed writers left.

        Finishes what those began. Never touches what a living writer is at. Returns how many
        bytes that freed; a backend that keeps nothing of either returns 0.
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
