"""Which backend keeps a registry, by the form of its location. Imported on use."""

from __future__ import annotations

from pathlib import Path

from adapters.backends.base import Line, RegistryBackend
from adapters.errors import UsageError

__all__ = ["Line", "RegistryBackend", "backend_for"]


def backend_for(location: str, *, private: bool = True) -> RegistryBackend:
    """Return the backend of a location: a folder, or `hf://org` on the Hugging Face Hub.

    `private`: how the Hub's repos are created; in a folder it plays no part.

    Raises:
        UsageError: a scheme that no backend serves.
    """
    from adapters.backends.local import LocalBackend

    scheme, separator, _ = location.partition("://")
    if scheme == "hf" and separator:
        from adapters.backends.hub import hub_backend

        return hub_backend(location, private=private)
    if separator:
        raise UsageError(
            f"No registry backend for {scheme}://.",
            fix="Name a folder, e.g. ~/.adapters, or hf://your-org.",
        )
    return LocalBackend(Path(location).expanduser().absolute())
