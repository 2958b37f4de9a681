"""`RegistryBackend` on the Hugging Face Hub: `hf://org` is a registry, each adapter a repo of it.

    org/support
        main            one commit a version; its manifest.json says which
        tags v1, v2, …  name those commits; _deleted-v2 beside it: a version that is no more
        production      the alias: files of the version it points at, plus alias.json
        _log, _experiments-ab-1, _tombstones    the other journals, a line.json each

A version is exactly one commit upon the head that its writer saw (`parent_commit`), so two
writers never get one number: the commit allocates it, the tag only names it. A writer killed in
between leaves a commit without a tag, which the next writer names before it adds its own.

A journal is a branch, a line is one commit of it, its history is the branch's. The line stands
in the commit's message, so that one call reads a whole journal, and in the branch's own file, so
that it survives a Hub that would shorten messages. The line of an alias also carries the files
of its version over, in the same commit: whoever loads `revision="production"`, with any tool,
gets that version. A branch's head is a lock: `append` commits upon the head it counted.

A version that has no README.md gets a model card beside it, which is not of its digest.

Deletion hides a version for ever; the Hub's own history keeps its bytes.

Every commit has a `write_id` in its message. After an error (409, 412, 429, 5xx, a lost reply)
the writer looks for its own id before it tries again, so each write happens once. Design after
`huggingface_hub`'s `create_commit`; never `upload_folder`, which makes several commits.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from adapters.backends.base import Line
from adapters.backends.encoding import encoded
from adapters.backends.hub_cache import Cache
from adapters.backends.hub_calls import Calls, Refs
from adapters.backends.hub_journals import (
    DELETED,
    MAIN,
    VERSION_TAG,
    Journals,
    deleted_of,
    deletions,
    journal_of,
    message_of,
    said_by,
    versions_of,
)
from adapters.card import hub_card
from adapters.errors import NotFound, RegistryUnavailable, UsageError
from adapters.files import CARD_FILE, MANIFEST_FILE, write_durably
from adapters.lint import rank_class
from adapters.types import File, Manifest, Version, is_name

_TOMBSTONES = "tombstones"
FRESH_S = 10.0
"""So long a process trusts what it last saw of a repo: servers look four times a second, and the
Hub counts calls. What the process itself writes it sees at once."""
ADAPTERS_A_LOOK = 16
"""With more adapters than this it is trusted longer in proportion: a look is a call for each, and
the Hub allows 1000 in five minutes, of which a server then takes half."""


class HubVersion(Version):
    """A version on the Hub; its files are fetched when `path` is first asked for.

    So a list of a thousand versions costs their manifests. `path` raises what `Cache.folder`
    does, and belongs on a thread.
    """

    __slots__ = ("_fetch", "commit")

    def __init__(self, manifest: Manifest, commit: str, fetch: Callable[[], Path]) -> None:
        object.__setattr__(self, "manifest", manifest)
        object.__setattr__(self, "commit", commit)
        object.__setattr__(self, "_fetch", fetch)

    @property
    def path(self) -> Path:
        """The PEFT folder in this machine's cache."""
        return self._fetch()  # type: ignore[attr-defined,no-any-return]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HubVersion) and self.manifest == other.manifest

    def __hash__(self) -> int:
        return hash(self.engine_name)

    def __repr__(self) -> str:
        return f"HubVersion({self.engine_name})"


class HubBackend:
    """A registry in an organisation of the Hub. See the module's docstring and the port."""

    def __init__(
        self,
        org: str,
        *,
        private: bool = True,
        fresh_s: float = FRESH_S,
        calls: Calls | None = None,
    ) -> None:
        """`private`: how repos are created; those that exist stay as they are."""
        self._org, self._private, self._fresh_s = org, private, fresh_s
        self._calls = calls or Calls(org)
        self._cache = Cache(self._calls)
        self._seen: dict[str, tuple[float, Refs | None]] = {}
        self._listed: tuple[float, list[str]] = (float("-inf"), [])
        self._opened: dict[str, HubVersion] = {}
        self._journals = Journals(self._calls)

    @property
    def location(self) -> str:
        return f"hf://{self._org}"

    @property
    def exclusive(self) -> bool:
        return False

    # -- versions -----------------------------------------------------------------------------

    def names(self) -> list[str]:
        now = time.monotonic()
        if now - self._listed[0] >= self._trusted_s:
            repos = self._calls.repos(MANIFEST_FILE)
            self._listed = now, [name for name in repos if is_name(name)]
            if not self._listed[1]:
                self._check_readable()
        names = self._listed[1]
        # A call each, which whoever lists versions or aliases needs anyway: the list has no tags.
        with ThreadPoolExecutor(8) as several:
            return [
                n for n, has in zip(names, several.map(self.numbers, names), strict=True) if has
            ]

    def numbers(self, name: str) -> list[int]:
        refs = self._refs(name)
        return sorted(versions_of(refs)) if refs else []

    def open(self, name: str, number: int) -> Version:
        refs = self._refs(name)
        sha = versions_of(refs).get(number) if refs else None
        if sha is None:
            deleted = refs is not None and f"{DELETED}v{number}" in refs.tags
            raise NotFound(
                f"{name}@v{number} {'was deleted' if deleted else 'does not exist'}.",
                fix=f"See: adapters list {name}",
            )
        if sha not in self._opened:
            content = self._cache.manifest(name, sha)
            if (content.name, content.version) != (name, number):
                raise RegistryUnavailable(
                    f"The tag v{number} of {self._calls.repo(name)} names "
                    f"{content.name}@v{content.version}.",
                    fix="Give the repo or the tag its old name back on the Hub.",
                )
            self._opened[sha] = self._version(content, sha)
        return self._opened[sha]

    def publish(
        self,
        name: str,
        folder: Path,
        paths: list[str],
        manifest: Callable[[int, Mapping[str, File]], Manifest],
        *,
        at_least: int = 1,
    ) -> Version:
        write_id = secrets.token_hex(16)
        with self._cache.staging(name, folder, paths) as (staged, files):

            def attempt(first: bool) -> tuple[Manifest, str]:
                if not first and (taken := self._find(name, MAIN, write_id)):
                    return self._cache.manifest(name, taken), taken
                refs = self._calls.refs(name)
                if refs is None:
                    # Whatever is wrong with it is found before anything is created. Then look
                    # again: another writer may have created the repo, and published.
                    encoded(manifest(at_least, files).as_json())
                    refs = self._created(name)
                number = max(1 + self._highest(name, refs), at_least)
                content = manifest(number, files)
                # Were all files those of the head, the client would skip the commit and say it
                # was made: two writers would have one number. The id makes each manifest another.
                assert content.publish_id, "every publication has an id of its own"
                (staged / MANIFEST_FILE).unlink(missing_ok=True)
                write_durably(staged / MANIFEST_FILE, encoded(content.as_json(), indent=2))
                head = refs.branches[MAIN]
                additions = _additions(staged, files)
                if CARD_FILE not in files:
                    additions.append(_card(content, self._org))
                written = {operation.path_in_repo for operation in additions}
                gone = set(self._calls.files(name, head)) - written
                operations = [*additions, *deletions(gone)]
                message = message_of(write_id, version=number, publish_id=content.publish_id)
                title = f"{name}@v{number}"
                return content, self._calls.commit(name, MAIN, head, operations, title, message)

            content, sha = self._calls.persist(f"publish {self._calls.repo(name)}", attempt)
            self._calls.tag(name, f"v{content.version}", sha)
            self._cache.keep(name, sha, staged)
        self._forget(name)
        return self._version(content, sha)

    def delete(self, name: str, number: int, line: Line) -> None:
        """Delete a version, as the port says; its bytes stay in the repo's history on the Hub."""
        self._forget(name)
        if number not in self.numbers(name):
            self.open(name, number)  # says whether it ever was
        self.append(name, _TOMBSTONES, {**line, "version": number})
        refs = self._known(name)
        # From this tag on it is deleted. It is what counts, so a kill before untagging is healed.
        self._calls.tag(name, f"{DELETED}v{number}", refs.branches[f"_{_TOMBSTONES}"])
        self._calls.untag(name, f"v{number}")
        self._forget(name)

    def sweep(self, name: str, held: Collection[int] = ()) -> int:
        """Finish as the port says; the bytes that it frees are this machine's copies."""
        refs = self._calls.refs(name)
        if refs is None:
            return self._cache.sweep(name)
        self._highest(name, refs)  # names a version whose writer was killed
        for tag in refs.tags:
            if tag.startswith(DELETED) and (left := tag.removeprefix(DELETED)) in refs.tags:
                self._calls.untag(name, left)
        self._forget(name)
        return self._cache.sweep(name, deleted_of(refs) - {*held})

    # -- journals -----------------------------------------------------------------------------

    def journals(self, name: str, kind: str) -> list[str]:
        refs = self._refs(name)
        found = sorted(journal_of(branch) for branch in refs.branches) if refs else []
        return [each for each in found if each.startswith(f"{kind}/") and self.read(name, each)]

    def read(self, name: str, journal: str) -> list[Line]:
        refs = self._refs(name)
        return self._journals.read(name, journal, refs) if refs else []

    def append(self, name: str, journal: str, line: Line, *, expect: int | None = None) -> None:
        try:
            self._journals.append(name, journal, line, lambda: self._created(name), expect)
        finally:
            self._forget(name)  # also after a conflict: the next look shows who was first

    def check_writable(self) -> None:
        member, role = self._membership()
        if not member or role == "read":
            why = "is for reading only" if member else f"is not of {self._org}"
            raise RegistryUnavailable(
                f"Cannot write to {self.location}: the token {why}.",
                fix="Log in with one that may: hf auth login",
            )

    def writing(self, name: str) -> AbstractContextManager[object]:
        """Return a null context: there are no locks on the Hub, `expect` decides.

        What is read inside the block is what the Hub says now, not `fresh_s` ago.
        """
        self._forget(name)
        return nullcontext()

    # -- inside -------------------------------------------------------------------------------

    def _membership(self) -> tuple[bool, str | None]:
        """Say whether the token is of the organisation, and for what it is: read, write …"""
        told = self._calls.persist("ask who you are", lambda _: self._calls.api.whoami())
        names = {told.get("name"), *(org.get("name") for org in told.get("orgs", []))}
        return self._org in names, told.get("auth", {}).get("accessToken", {}).get("role")

    def _check_readable(self) -> None:
        """Tell a registry that is empty from one whose repos are hidden: to the Hub both are."""
        from huggingface_hub import get_token

        if get_token() is None:
            why = "there is no token"
        elif not self._membership()[0]:
            why = "the token is not of it"
        else:
            return
        raise RegistryUnavailable(
            f"Nothing is to be seen in {self.location}: {why}, and private repos are hidden.",
            fix="Log in with a token that may read there: hf auth login",
        )

    def _version(self, content: Manifest, sha: str) -> HubVersion:
        return HubVersion(content, sha, lambda: self._cache.folder(content.name, sha))

    @property
    def _trusted_s(self) -> float:
        """How long what was seen is trusted: longer where a look costs very many calls."""
        return self._fresh_s * max(1.0, len(self._listed[1]) / ADAPTERS_A_LOOK)

    def _refs(self, name: str) -> Refs | None:
        """Return a repo's refs as they were `_trusted_s` ago at the earliest."""
        now, seen = time.monotonic(), self._seen.get(name)
        if seen is None or now - seen[0] >= self._trusted_s:
            seen = self._seen[name] = now, self._calls.refs(name)
        return seen[1]

    def _known(self, name: str) -> Refs:
        refs = self._calls.refs(name)
        assert refs is not None, "it was there a moment ago"
        return refs

    def _forget(self, name: str) -> None:
        self._seen.pop(name, None)
        self._listed = float("-inf"), []

    def _created(self, name: str) -> Refs:
        self._calls.create_repo(name, private=self._private)
        return self._known(name)

    def _highest(self, name: str, refs: Refs) -> int:
        """Return the last number used, and tag its commit where a killed writer did not."""
        tagged = {t.removeprefix(DELETED) for t in refs.tags}
        numbers = [int(found[1]) for tag in tagged if (found := VERSION_TAG.fullmatch(tag))]
        head = refs.branches[MAIN]
        if MANIFEST_FILE in self._calls.files(name, head):
            number = self._cache.manifest(name, head).version
            if f"v{number}" not in tagged:
                made = [
                    commit.sha
                    for commit in self._calls.commits(name, MAIN)
                    if said_by(commit).get("version") == number
                ]
                self._calls.tag(name, f"v{number}", made[-1] if made else head)
            numbers.append(number)
        return max(numbers, default=0)

    def _find(self, name: str, branch: str, write_id: str) -> str | None:
        commits = self._calls.commits(name, branch) if self._calls.refs(name) else []
        return next((c.sha for c in commits if said_by(c).get("write_id") == write_id), None)


def hub_backend(location: str, *, private: bool = True) -> HubBackend:
    """Return the backend of `hf://org`.

    Raises:
        UsageError: not of that form.
    """
    org = location.removeprefix("hf://").rstrip("/")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", org):
        raise UsageError(
            f"{location[:80]!r} names no organisation of the Hub.", fix="Write hf://your-org."
        )
    return HubBackend(org, private=private)


def _additions(staged: Path, files: Mapping[str, File]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(MANIFEST_FILE, staged / MANIFEST_FILE)]
    for path, file in files.items():
        operations.append(CommitOperationAdd(path, staged / path))
        operations[-1].upload_info.sha256 = bytes.fromhex(file.sha256)  # known: hashed once only
    return operations


def _card(content: Manifest, org: str) -> Any:
    """Return what gives a version without README.md one; like the manifest not of its digest."""
    from huggingface_hub import CommitOperationAdd

    rank = content.peft.get("r")
    text = hub_card(content, org, rank_class(rank if isinstance(rank, int) else 1))
    return CommitOperationAdd(CARD_FILE, text.encode())
