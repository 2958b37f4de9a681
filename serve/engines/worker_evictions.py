"""Adapters that a worker's memory evicted while a request may still need them.

vLLM evicts whatever was used least recently, and knows nothing of the requests that wait to be
scheduled. The step that comes to one whose adapter is gone reads its files again: in the engine's
loop, unchecked, and where they are damaged the engine dies of it. So what was evicted stays here
until no request is for it, and no step ever reads a file.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from adapters.files import MANIFEST_FILE, differences, digest
from adapters.types import Manifest

_MOMENT_S = 5.0
"""How long a request may be on its way to the engine after its version was seen in memory."""

_WAIT_S = 600.0
"""Longer than a version waits to be read once its files were checked."""

log = logging.getLogger(__name__)


class Evictions:
    """Takes the place of reading and evicting in vLLM's `LRUCacheWorkerLoRAManager`."""

    def __init__(self, loras: Any) -> None:
        self._memory = loras._adapter_manager
        self._read, self._evict = loras._load_adapter, self._memory.remove_oldest_adapter
        self._kept: dict[int, tuple[Any, float]] = {}
        loras._load_adapter = self._load_in_step
        self._memory.remove_oldest_adapter = self.evict

    def load(self, request: Any) -> Any:
        """Return the adapter that was evicted, or read it.

        Raises:
            ValueError: its files are not those that its name stands for.
            Exception: as vLLM's `_load_adapter`.
        """
        if kept := self._kept.get(request.lora_int_id):
            return kept[0]
        adapter = self._read(request)
        _check_unchanged(request.lora_name, Path(request.lora_path))
        return adapter

    def evict(self) -> bool:
        """Make a place in memory; what it held is kept for now."""
        before = self._memory.list_adapters()
        evicted: bool = self._evict()
        for number in before.keys() - self._memory.list_adapters().keys():
            self._kept[number] = (before[number], time.monotonic())
        return evicted

    def forget(self, used: Collection[int]) -> None:
        """Let go of what is back in memory, or used by no request and evicted a while ago."""
        held, since = self._memory.list_adapters(), time.monotonic() - _MOMENT_S
        self._kept = {
            number: (adapter, evicted)
            for number, (adapter, evicted) in self._kept.items()
            if number not in held and (number in used or evicted > since)
        }

    def _load_in_step(self, request: Any) -> Any:
        if request.lora_int_id not in self._kept:
            log.warning("A step reads %s from its files", request.lora_name)
        return self.load(request)


def _check_unchanged(engine_name: str, folder: Path) -> None:
    """Hash files that were changed since they may have been checked, by their digest in the name.

    Between the server's check and a worker's turn to read lie seconds where much is loaded.
    """
    _, named, expected = engine_name.partition("+")
    changed = max(path.lstat().st_ctime for path in (folder, *folder.iterdir()))
    if not named or changed < time.time() - _WAIT_S:
        return
    try:
        files = Manifest.from_json(json.loads((folder / MANIFEST_FILE).read_bytes())).files
    except (OSError, ValueError, LookupError, TypeError):
        return  # damaged itself; the server checked by what it had read of it before
    if not digest(files).startswith(expected) or differences(folder, files):
        raise ValueError(f"{engine_name}: its files were changed before they were read")
