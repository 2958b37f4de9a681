"""Lint of anything: a folder as it lies there, or a version, against a base that may be here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import bases
from adapters.errors import InvalidAdapter
from adapters.lint import Report, check_folder, read_base_config, read_config
from adapters.registry import Registry


@dataclass(frozen=True, slots=True)
class Examined:
    """What was checked, against what, and what was found."""

    folder: Path
    base: str | None
    """The base whose configuration it was held against; None where it is not on this machine."""
    report: Report
    base_path: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as `adapters lint --json` prints it."""
        found = self.report.as_json()
        servable = found.pop("passed")
        return {"path": str(self.folder), "base": self.base, "servable": servable, **found}


def examine(target: str, *, base: str | None = None, registry: str | None = None) -> Examined:
    """Check a folder, or the version that a ref names.

    `base`: None takes the one that the version's manifest or adapter_config.json names, if its
    config.json is on this machine; nothing is downloaded for that.

    Raises:
        InvalidName, NotFound: `target` is neither a folder nor a version's ref.
        NotFound, Unavailable, Rejected: `base` was named and is not to be had.
    """
    folder, named = _locate(target, registry)
    base_id = base or named or ""
    path = _here(base_id) if base_id else None
    if base and path is None:
        path = bases.resolve(base).path
    config = read_base_config(path) if path else None
    report = check_folder(folder, config, base_id=base_id, base_path=path)
    return Examined(folder, base_id if path else None, report, path)


def _locate(target: str, registry: str | None) -> tuple[Path, str | None]:
    folder = Path(target).expanduser()
    if "/" in target or target.startswith((".", "~")) or folder.is_dir():
        try:
            named = read_config(folder).get("base_model_name_or_path")
        except InvalidAdapter:  # which lint will say
            named = None
        return folder.absolute(), named if isinstance(named, str) else None
    version = Registry.open(registry).resolve(target)
    return version.path, version.manifest.base.id


def _here(base: str) -> Path | None:
    """Return the folder with a base's config.json if it is on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = Path(bases.__file__).parent / base if base == bases.TINY else Path(base).expanduser()
    if (folder / "config.json").is_file():
        return folder
    try:
        found = try_to_load_from_cache(base, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None
