"""The words of the registry as types: names, refs, versions, aliases, log entries.

No I/O and nothing beyond the standard library. Whatever a person or a client types passes
through `Ref.parse`; nothing else ever reaches a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from adapters.errors import InvalidName

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NUMBER = re.compile(r"v([1-9][0-9]{0,8})")
_ENGINE = re.compile(r"v([1-9][0-9]{0,8})\+([0-9a-f]{12})")
_DIGEST = re.compile(r"sha256:([0-9a-f]{4,64})")

LATEST = "latest"
PRODUCTION = "production"
BASE_ARM = "base"
_NOT_ALIASES = frozenset({LATEST, BASE_ARM})
_LIKE_A_NUMBER = re.compile(r"v[0-9]+")
MANIFEST_SCHEMA = 1


def is_name(text: str) -> bool:
    """Say whether `text` is an adapter name: `[a-z0-9][a-z0-9._-]{0,63}`, full match."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """Return `name` if it is an adapter name: `[a-z0-9][a-z0-9._-]{0,63}`, full match.

    Raises:
        InvalidName: anything else, e.g. `../x`, an empty string, upper case, a space.
    """
    if not is_name(name):
        raise InvalidName(
            f"{name[:80]!r} is not an adapter name.",
            fix="Use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit.",
        )
    return name


def check_alias(alias: str) -> str:
    """Return `alias` if an alias may be called so: a name, not like a version, not `latest`.

    Raises:
        InvalidName: not a name, or a word that already means something else in a ref.
    """
    check_name(alias)
    if alias in _NOT_ALIASES or _LIKE_A_NUMBER.fullmatch(alias):
        raise InvalidName(
            f"{alias!r} cannot be an alias, it already means something in a ref.",
            fix="Choose another word, e.g. production or canary.",
        )
    return alias


def parse_number(text: str) -> int:
    """Return the number of a version written as `v3`.

    Raises:
        InvalidName: anything else, `3`, `v0` and `v03` included.
    """
    if not (found := _NUMBER.fullmatch(text)):
        raise InvalidName(f"{text[:80]!r} is not a version number.", fix="Write v1, v2, ….")
    return int(found[1])


@dataclass(frozen=True, slots=True)
class Ref:
    """What a person types to mean one version: at most one way of choosing it is set.

    `support` | `support@v3` | `support@production` | `support@latest` | `support@sha256:1a2b…`
    | the engine name `support@v3+1a2b3c4d5e6f` (number and digest must then agree).
    """

    name: str
    number: int | None = None
    alias: str | None = None
    digest: str | None = None
    """Hex digits the version's digest begins with, 4 to 64 of them."""

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read a ref.

        Raises:
            InvalidName: `text` is not a ref by the grammar.
        """
        name, at, selector = text.partition("@")
        check_name(name)
        if not at:
            return cls(name)
        if found := _NUMBER.fullmatch(selector):
            return cls(name, number=int(found[1]))
        if found := _ENGINE.fullmatch(selector):
            return cls(name, number=int(found[1]), digest=found[2])
        if found := _DIGEST.fullmatch(selector):
            return cls(name, digest=found[1])
        if is_name(selector) and not _LIKE_A_NUMBER.fullmatch(selector):
            return cls(name, alias=selector)
        raise InvalidName(
            f"{text[:80]!r} is not a ref.",
            fix="Write NAME, NAME@v3, NAME@production or NAME@sha256:1a2b….",
        )

    def __str__(self) -> str:
        if self.alias:
            return f"{self.name}@{self.alias}"
        if self.number and self.digest:
            return f"{self.name}@v{self.number}+{self.digest}"
        if self.number:
            return f"{self.name}@v{self.number}"
        return f"{self.name}@sha256:{self.digest}" if self.digest else self.name


def versions_named(engine_names: Iterable[str]) -> set[tuple[str, int]]:
    """Return the names and numbers of versions; what is no engine name stands for none."""
    found = set()
    for engine_name in engine_names:
        with suppress(InvalidName):
            ref = Ref.parse(engine_name)
            if ref.number:
                found.add((ref.name, ref.number))
    return found


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The base that an adapter was trained on, and so the only one it may be served on.

    `revision` is a commit sha on the Hub, or `sha256:…` over the files of a local folder: two
    bases are the same if and only if their revisions are equal, whatever they are called.
    """

    id: str
    revision: str
    config_sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str

    @property
    def local(self) -> bool:
        """Whether it is a folder of some machine, not a model of the Hub."""
        return self.revision.startswith("sha256:")

    @property
    def name(self) -> str:
        """What requests and answers call it: the Hub id, or a local folder's last part."""
        return Path(self.id).name if self.local else self.id


@dataclass(frozen=True, slots=True)
class File:
    """One file of a version."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """`manifest.json` of a version: where it came from and what it must still be.

    `digest` is the sha256 of `sha256sum` lines (`<file sha256>  <path>`) sorted by path, over
    every file but the manifest itself, so coreutils can check it.
    """

    name: str
    version: int
    digest: str
    publish_id: str
    created_at: str
    """UTC, ISO 8601, seconds."""
    files: Mapping[str, File]
    base: BaseModel
    peft: Mapping[str, Any]
    """r, lora_alpha, target_modules and the like, out of adapter_config.json; empty without."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    """Path as given, sha256, row counts: the data receipt."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    """Package versions and the commit that trained it."""
    parents: tuple[str, ...] = ()
    """Engine names of the versions this one was made from."""
    lint: Mapping[str, Any] = field(default_factory=dict)
    serving: Mapping[str, Any] = field(default_factory=dict)
    """What `serving.json` holds: the defaults that the server applies (`adapters.serving`)."""
    tags: tuple[str, ...] = ()
    notes: str = ""
    kind: Literal["lora", "prompt"] = "lora"
    """`prompt`: it has no weights, only text over the base or, as `serving` says, a version."""
    schema: int = MANIFEST_SCHEMA

    @property
    def on(self) -> Ref | None:
        """What a prompt-only version stands on, by its digest; None: the base."""
        said = self.serving.get("on") if self.kind == "prompt" else None
        return None if said is None else Ref.parse(str(said))

    def as_json(self) -> dict[str, Any]:
        """Return what `manifest.json` holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Manifest:
        """Read what `as_json` wrote.

        Raises:
            TypeError, KeyError, ValueError: not a manifest, or of a later schema.
        """
        known = dict(content)
        if known.get("schema") != MANIFEST_SCHEMA:
            raise KeyError(f"schema {known.get('schema')!r}, this release reads {MANIFEST_SCHEMA}")
        known["files"] = {path: File(**entry) for path, entry in content["files"].items()}
        known["base"] = BaseModel(**content["base"])
        known["parents"] = tuple(content["parents"])
        known["tags"] = tuple(content["tags"])
        manifest = cls(**known)
        _check_kinds(manifest)
        return manifest


def _check_kinds(manifest: Manifest) -> None:
    """Refuse a manifest that somebody else wrote, or wrote over."""
    texts = [manifest.name, manifest.digest, manifest.publish_id, manifest.notes]
    texts += [*manifest.parents, *manifest.tags, *asdict(manifest.base).values()]
    texts += [*manifest.files, *(file.sha256 for file in manifest.files.values())]
    numbers = [manifest.version, *(file.size_bytes for file in manifest.files.values())]
    kinds = ("peft", "recipe", "dataset", "metrics", "code", "lint", "serving")
    mappings = [getattr(manifest, kind) for kind in kinds]
    for found, kind in ((texts, str), (numbers, int), (mappings, dict)):
        if wrong := [each for each in found if type(each) is not kind]:
            raise TypeError(f"{str(wrong[0])[:40]!r} is no {kind.__name__}")
    if manifest.kind not in ("lora", "prompt"):
        raise ValueError(f"its kind is {manifest.kind!r:.40}")
    try:
        _ = manifest.on
    except InvalidName as error:
        raise ValueError(error.message) from error
    if not all(isinstance(value, int | float) for value in manifest.metrics.values()):
        raise TypeError("a metric is no number")
    datetime.fromisoformat(manifest.created_at)


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable, numbered publication of an adapter, on this machine's disk."""

    manifest: Manifest
    path: Path
    """Its folder, a PEFT one if it has weights. Read-only; never changed or moved."""

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def number(self) -> int:
        return self.manifest.version

    @property
    def ref(self) -> str:
        """`support@v3`, for people."""
        return f"{self.name}@v{self.number}"

    @property
    def engine_name(self) -> str:
        """`support@v3+1a2b3c4d5e6f`, what vLLM is told: unique for ever."""
        return f"{self.ref}+{self.manifest.digest[:12]}"


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One line of `aliases/<alias>.jsonl`; the last line is the alias.

    `from_version` is what the alias pointed at before, `to_version` what it points at since
    (None: nowhere). A rollback is a line too, so the file is the whole history.
    """

    from_version: int | None
    to_version: int | None
    action: Literal["promote", "rollback", "demote"]
    actor: str
    time: str
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    """How many promotions and demotions a rollback undid."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of `log.jsonl`: publish, promote, demote, rollback, retire, delete …"""

    action: str
    time: str
    actor: str
    version: int | None = None
    alias: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
