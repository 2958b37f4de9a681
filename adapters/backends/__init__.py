"""Which backend keeps a registry, by the form of its location. Imported on use."""

from __future__ import annotations

from pathlib import Path

from adapters.backends.base import Line, RegistryBackend
from adapters.errors import UsageError

__all__ = ["Line", "RegistryBackend", "backend_for"]


def backend_for(location: str) -> RegistryBackend:
    """Return the backend of a location: a folder.

    Raises:
        UsageError: a scheme that no backend serves.
    """
    from adapters.backends.local import LocalBackend

    scheme, separator, _ = location.partition("://")
    if separator:
        raise UsageError(
            f"No registry backend for {scheme}://.", fix="Name a folder, e.g. ~/.adapters."
        )
    return LocalBackend(Path(location).expanduser().absolute())
