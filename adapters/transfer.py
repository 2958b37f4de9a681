"""A version goes from one registry to another: folders, organisations of the Hub, either way.

What arrives is the version itself, byte for byte, with its manifest; aliases, experiments and
standing stay behind, for they are decisions about one place. Knows nothing of where registries
are kept (`adapters.backends`) nor of what a version must be (`Registry.receive`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adapters.backends import backend_for
from adapters.errors import NotFound, UsageError
from adapters.registry import Registry
from adapters.types import Version


@dataclass(frozen=True, slots=True)
class Transfer:
    """What became of one version."""

    state: Literal["sent", "already there", "would be sent"]
    source: str
    """Its engine name where it came from."""
    target: str
    """Its engine name where it is or, of a dry run, would be."""
    location: str
    """The registry it went to."""
    renumbered: bool
    """Whether its number was taken or passed there, so that it got another."""
    files: int
    size_bytes: int


def open_target(location: str, *, private: bool = True) -> Registry:
    """Open a registry to send to. `private`: how repos are made on the Hub, where none is yet.

    Raises:
        UsageError: a location no backend serves.
    """
    return Registry(backend_for(location, private=private))


def open_source(source: str) -> tuple[Registry, str]:
    """Read `LOCATION/REF`, e.g. `hf://acme/support@v3`; return the registry and the ref.

    Raises:
        UsageError: not of that form, or a location no backend serves.
    """
    location, slash, ref = source.rstrip("/").rpartition("/")
    if not slash or not ref or location in ("hf:/", "hf:"):
        raise UsageError(
            f"{source[:80]!r} names no registry and ref.",
            fix="Write hf://your-org/support@v3, or FOLDER/support@v3.",
        )
    return Registry(backend_for(location or "/")), ref


def transfer(source: Registry, ref: str, target: Registry, *, dry_run: bool = False) -> Transfer:
    """Bring the version that `ref` means in `source` to `target`, once.

    A version of the same digest there is the same version: then nothing is done, so repeating a
    transfer that was cut short is safe. Its number is kept where it is above all used there.

    Raises:
        InvalidName, NotFound, UsageError: as `Registry.resolve`.
        InvalidAdapter: damaged at its source, or lint refuses it.
        RegistryUnavailable: one of the two cannot be read or written.
    """
    version = source.resolve(ref)
    there = _versions(target, version.name)
    same = [held for held in there if held.manifest.digest == version.manifest.digest]
    if same:
        return _told("already there", version, same[-1].number, target)
    if dry_run:
        following = max((held.number for held in there), default=0) + 1
        return _told("would be sent", version, max(version.number, following), target)
    return _told("sent", version, target.receive(version).number, target)


def _versions(registry: Registry, name: str) -> list[Version]:
    try:
        return registry.survey(name).versions
    except NotFound:
        return []


def _told(
    state: Literal["sent", "already there", "would be sent"],
    version: Version,
    number: int,
    target: Registry,
) -> Transfer:
    files = version.manifest.files.values()
    return Transfer(
        state=state,
        source=version.engine_name,
        target=f"{version.name}@v{number}+{version.manifest.digest[:12]}",
        location=target.location,
        renumbered=number != version.number,
        files=len(files),
        size_bytes=sum(file.size_bytes for file in files),
    )
