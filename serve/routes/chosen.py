"""What each version chose as its serving defaults: read once, from the file of its digest.

The manifest repeats them for people. What is served is the file, so that whoever edits a manifest
by hand, or a disk that forgets a bit, changes no answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from adapters.errors import AdaptersError, Unavailable
from adapters.files import SERVING_FILE, digest, open_plain
from adapters.serving import Serving
from adapters.types import Version
from serve.engines.asking import Terms
from serve.routes.defaults import GENERATING, apply

_MOST_KEPT = 4096


class Chosen:
    """The defaults of versions, by engine name, which stands for one content for ever."""

    def __init__(self) -> None:
        self._known: dict[str, Serving] = {}

    async def filled(
        self, version: Version | None, name: str, path: str, content: dict[str, Any]
    ) -> tuple[dict[str, Any], Terms]:
        """Return a request with what a version chose, and the terms to ask the engine on.

        `name`: what the answer is to bear. `version` None: the base, which chose nothing.

        Raises:
            As `of`.
        """
        if version is None:
            return content, Terms(name)
        serving = await self.of(version)
        longest = serving.max_model_len if path in GENERATING else None
        return apply(path, content, serving), Terms(name, longest)

    async def of(self, version: Version) -> Serving:
        """Return what a version chose; the first time off the event loop.

        Raises:
            Unavailable: its serving.json is not what was published, or of a later release.
        """
        name = version.engine_name
        if name not in self._known:
            self._known[name] = await asyncio.to_thread(_read, version)
            if len(self._known) > _MOST_KEPT:
                del self._known[next(iter(self._known))]
        return self._known[name]


def _read(version: Version) -> Serving:
    manifest = version.manifest
    try:
        if SERVING_FILE not in manifest.files:
            return Serving.from_json(manifest.serving)
        if digest(manifest.files) != manifest.digest:
            raise ValueError("the manifest's digest is not that of its files")
        with open_plain(version.path / SERVING_FILE) as stream:
            content = stream.read(manifest.files[SERVING_FILE].size_bytes + 1)
        if hashlib.sha256(content).hexdigest() != manifest.files[SERVING_FILE].sha256:
            raise ValueError(f"{SERVING_FILE} was changed")
        return Serving.from_json(json.loads(content))
    except (OSError, ValueError, AdaptersError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise Unavailable(
            f"{version.ref} cannot be served as it was published: {reason}.",
            fix="Restore its files from a copy, or publish it again as a new version.",
        ) from error
