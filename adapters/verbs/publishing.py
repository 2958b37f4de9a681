"""Versions come in: made here, or brought from another registry. What lint refuses does not."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters import __version__
from adapters.errors import InvalidAdapter, NotFound, RegistryUnavailable, Rejected
from adapters.files import SERVING_FILE, differences, digest, is_prompt_only, version_files
from adapters.journals import LOG, entry_line
from adapters.lint import Report, check_adapter, read_base_config
from adapters.serving import Serving
from adapters.types import BaseModel, File, Manifest, Version, check_name
from adapters.verbs.writer import Writer, now


class Publishing(Writer):
    """The verbs that make versions."""

    def check_writable(self) -> None:
        """Find out, before hours of work, whether `publish` could write.

        Raises:
            RegistryUnavailable: it could not; the message names the folder and the fix.
        """
        self._backend.check_writable()

    def publish(
        self,
        name: str,
        folder: Path,
        *,
        base: BaseModel,
        base_path: Path | None = None,
        recipe: Mapping[str, Any] | None = None,
        dataset: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        code: Mapping[str, str] | None = None,
        parents: Sequence[str] = (),
        tags: Sequence[str] = (),
        notes: str = "",
    ) -> Version:
        """Make a folder the adapter's next version. Atomic; `folder` is left as it is.

        A PEFT folder, beside it `serving.json` where the server is to apply defaults; or that
        file alone, of a prompt-only version. `base_path`: the base's folder, where it is on this
        machine; modules and shapes are then checked against its config.json.

        Raises:
            InvalidName: `name` is not an adapter name.
            InvalidAdapter: lint refuses it; the message names the findings.
            Rejected: `base_path` holds no readable config.json.
            NotFound, Rejected: what a prompt-only version stands on is not here, or not served.
            UsageError: metrics, recipe and the like that JSON cannot hold (NaN, a path …).
            RegistryUnavailable: the registry cannot be written.
            Then nothing was published, or all of it and only its line in the log is missing.
        """
        check_name(name)
        paths = version_files(folder)
        report = check_adapter(
            folder,
            read_base_config(base_path) if base_path else None,
            base_id=base.id,
            base_path=base_path,
        )
        _refuse_findings(report, str(folder))
        draft = Manifest(
            name=name,
            version=0,
            digest="",
            publish_id=secrets.token_hex(16),
            created_at=now(),
            files={},
            base=base,
            peft=report.peft,
            recipe=recipe or {},
            dataset=dataset or {},
            metrics=metrics or {},
            code={"lora-switchyard": __version__, **(code or {})},
            parents=tuple(parents),
            lint=report.as_json(),
            serving=_serving(folder, paths),
            tags=tuple(tags),
            notes=notes,
            kind="prompt" if is_prompt_only(paths) else "lora",
        )

        def manifest(number: int, files: Mapping[str, File]) -> Manifest:
            return replace(draft, version=number, digest=digest(files), files=files)

        self._check_ground(name, draft)
        version = self._backend.publish(name, folder, paths, manifest)
        self._stand(version)
        self._note(name, "publish", version=version.number, digest=version.manifest.digest)
        return version

    def receive(self, version: Version) -> Version:
        """Publish a version of another registry here, with all that it says of itself, once.

        One of its digest that is here is the same version, and is returned; so of several who
        bring it at once, one does. It keeps its number where that is above every number used here;
        else it gets the next. Atomic, as `publish` is; its files are hashed and linted again first.

        Raises:
            InvalidAdapter: its files are not what was published, or lint refuses them.
            NotFound, Rejected: what a prompt-only version stands on is not here, or not served.
            RegistryUnavailable: this registry cannot be written.
        """
        folder, theirs = version.path, version.manifest
        if wrong := differences(folder, theirs.files):
            raise InvalidAdapter(
                f"{version.ref} is not what was published: {'; '.join(wrong)}.",
                fix="Restore its files there first: adapters verify",
            )
        paths = version_files(folder)
        _refuse_findings(check_adapter(folder), version.ref)
        self._check_ground(version.ref, theirs)
        draft = replace(theirs, publish_id=secrets.token_hex(16))

        def manifest(number: int, files: Mapping[str, File]) -> Manifest:
            with self._backend.writing(version.name):  # what was written up to now counts
                for here in self._backend.numbers(version.name):
                    with suppress(NotFound, RegistryUnavailable):  # deleted, or damaged
                        held = self._backend.open(version.name, here)
                        if held.manifest.digest == theirs.digest:
                            raise _AlreadyHere(held)
            return replace(draft, version=number, digest=digest(files), files=files)

        try:
            received = self._backend.publish(
                version.name, folder, paths, manifest, at_least=version.number
            )
        except _AlreadyHere as found:
            return found.version
        self._stand(received)
        as_theirs = version.engine_name
        self._note(version.name, "publish", version=received.number, received=as_theirs)
        return received

    def _stand(self, version: Version) -> None:
        """Take a prompt-only version back whose ground went while it was published."""
        try:
            self._check_ground(version.ref, version.manifest)
        except (NotFound, Rejected):
            entry = self._entry("delete", version=version.number, reason="its ground is gone")
            self._backend.delete(version.name, version.number, entry_line(entry))
            self._backend.append(version.name, LOG, entry_line(entry))
            raise


def _serving(folder: Path, paths: Sequence[str]) -> dict[str, Any]:
    return Serving.read(folder / SERVING_FILE).as_json() if SERVING_FILE in paths else {}


class _AlreadyHere(Exception):
    """Ends a publication before it is made: its version is here."""

    def __init__(self, version: Version) -> None:
        super().__init__(version.ref)
        self.version = version


def _refuse_findings(report: Report, what: str) -> None:
    if report.findings:
        shown = report.findings[:5]
        listed = " ".join(f"{f.where}: {f.message}." for f in shown)
        more = len(report.findings) - len(shown)
        also = f" And {more} more." if more else ""
        fixes = " ".join(dict.fromkeys(f.fix for f in shown))
        raise InvalidAdapter(f"{what} cannot be served. {listed}{also}", fix=fixes)
