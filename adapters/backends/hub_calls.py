"""Calls to the Hub: one repo an adapter, patience where it is busy, errors in our own tree.

Knows repos, refs and commits; nothing of versions and journals (`adapters.backends.hub`).

The Hub's answers are not to be trusted in one way: a commit that fails may have been taken (the
reply was lost). So every commit carries a `write_id` in its message, and whoever repeats one
looks for that id first. Tokens come from where `huggingface_hub` looks (HF_TOKEN, `hf auth
login`); no message of ours repeats a URL, a header or a token.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.backends.hub_errors import on_disk, plain, repeatable, translated
from adapters.errors import InvalidAdapter

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_T = TypeVar("_T")

PATIENCE_S = 60.0
"""How long a call is repeated before its error counts."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 8.0
REQUEST_TIMEOUT_S = 60.0
"""Silence on a connection for so long is an error; the client itself would wait for ever."""


@dataclass(frozen=True, slots=True)
class Refs:
    """Where a repo's branches and tags point: commit shas by name."""

    branches: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of a branch."""

    sha: str
    title: str
    message: str


class Calls:
    """The calls that a registry makes in one organisation (or user) of the Hub."""

    def __init__(
        self,
        org: str,
        *,
        endpoint: str | None = None,
        patience_s: float = PATIENCE_S,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self.org = org
        self._endpoint = endpoint
        self._patience_s, self._first_pause_s = patience_s, first_pause_s

    @property
    def api(self) -> HfApi:
        """The client; it reads the token anew, which may have come since.

        It shows progress to people at a terminal, on stderr, and to nobody else.
        """
        from huggingface_hub import HfApi, get_session
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        if not sys.stderr.isatty():
            disable_progress_bars()
        session = get_session()
        if session.timeout.read is None:
            session.timeout = REQUEST_TIMEOUT_S
        return HfApi(endpoint=self._endpoint, library_name="lora-switchyard")

    def repo(self, name: str) -> str:
        return f"{self.org}/{name}"

    def persist(self, doing: str, attempt: Callable[[bool], _T]) -> _T:
        """Call `attempt` until the Hub takes it; it is told whether this is the first time.

        Raises:
            Conflict: other writers were first every time.
            RegistryUnavailable: refused, out of reach or too busy, for `patience_s` at least.
        """
        from httpx2 import TransportError
        from huggingface_hub.errors import HfHubHTTPError

        until = time.monotonic() + self._patience_s
        with translated(doing):
            for turn in count():
                try:
                    return attempt(turn == 0)
                except (HfHubHTTPError, TransportError, RuntimeError) as error:
                    told = repeatable(error)
                    if told is None or time.monotonic() > until:
                        raise
                    time.sleep(self._pause_s(turn, told))
        raise AssertionError("unreachable")

    def _pause_s(self, turn: int, error: Exception) -> float:
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            parse_ratelimit_headers,
        )

        longest = min(LONGEST_PAUSE_S, self._first_pause_s * 2.0 ** min(turn, 16))
        headers = getattr(getattr(error, "response", None), "headers", {})
        asked, limit = str(headers.get("Retry-After")), parse_ratelimit_headers(headers)
        least = float(asked) if re.fullmatch(r"\d+(\.\d+)?", asked) else 0.0
        if limit and not limit.remaining:
            least = max(least, limit.reset_in_seconds)
        return min(least, self._patience_s) + random.uniform(0.1, 1) * longest

    # -- reading; each repeats itself ----------------------------------------------------------

    def repos(self, holding: str) -> list[str]:
        """Return the names of the organisation's repos that the token may see.

        Left out are those without a file `holding` on main, at no further call: a thousand repos
        are one.
        """
        found = self.persist(
            f"list the repos of {self.org}",
            lambda _: list(self.api.list_models(author=self.org, expand=["siblings"])),
        )
        return sorted(
            model.id.partition("/")[2]
            for model in found
            if model.siblings is None or holding in [file.rfilename for file in model.siblings]
        )

    def refs(self, name: str) -> Refs | None:
        """Return branches and tags; None where there is no such repo, or none we may see."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def attempt(_: bool) -> Refs | None:
            try:
                found = self.api.list_repo_refs(self.repo(name))
            except RepositoryNotFoundError:
                return None
            branches, tags = (
                {ref.name: ref.target_commit for ref in refs}
                for refs in (found.branches, found.tags)
            )
            return Refs(branches, tags)

        return self.persist(f"read {self.repo(name)}", attempt)

    def commits(self, name: str, revision: str) -> list[Commit]:
        """Return a revision's commits, oldest first."""
        found = self.persist(
            f"read the history of {self.repo(name)}",
            lambda _: self.api.list_repo_commits(self.repo(name), revision=revision),
        )
        return [Commit(c.commit_id, c.title, c.message) for c in reversed(found)]

    def files(self, name: str, sha: str) -> dict[str, int]:
        """Return the size in bytes of each file of a commit."""
        from huggingface_hub import RepoFile

        found = self.persist(
            f"read {self.repo(name)}",
            lambda _: list(self.api.list_repo_tree(self.repo(name), revision=sha, recursive=True)),
        )
        return {file.path: file.size for file in found if isinstance(file, RepoFile)}

    def content(self, name: str, sha: str, path: str) -> bytes | None:
        """Return a small file of a commit; None where it has none of that name."""
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(self.repo(name), path, revision=sha, endpoint=self.api.endpoint)

        def attempt(_: bool) -> bytes | None:
            response = get_session().get(url, headers=build_hf_headers())
            try:
                hf_raise_for_status(response)
            except EntryNotFoundError:
                return None
            return bytes(response.content)

        return self.persist(f"read {path} of {self.repo(name)}", attempt)

    def download(self, name: str, sha: str, path: str, target: Path, size_bytes: int) -> None:
        """Fetch a file of a commit, going on from what `target` holds of it.

        `hf_hub_download` would begin anew after a kill; its own `http_get` need not.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(self.repo(name), path, revision=sha, endpoint=self.api.endpoint)

        def attempt(_: bool) -> None:
            with on_disk(target):
                there = target.stat().st_size if target.exists() else 0
                if there == size_bytes:
                    return
                with target.open("ab" if there < size_bytes else "wb") as stream:
                    http_get(
                        url,
                        stream,
                        resume_size=stream.tell(),
                        headers=build_hf_headers(),
                        expected_size=size_bytes,
                        displayed_filename=path,
                    )

        self.persist(f"fetch {path} of {self.repo(name)}", attempt)

    # -- writing -------------------------------------------------------------------------------

    def create_repo(self, name: str, *, private: bool) -> None:
        """Create the repo where there is none."""
        self._ensure(
            f"create {self.repo(name)}",
            lambda: self.api.create_repo(self.repo(name), private=private),
            lambda: self.refs(name) is not None,
        )

    def tag(self, name: str, tag: str, sha: str) -> None:
        """Name a commit; a tag that exists stays where it is."""
        self._ensure(
            f"tag {self.repo(name)}",
            lambda: self.api.create_tag(self.repo(name), tag=tag, revision=sha),
            lambda: (refs := self.refs(name)) is not None and tag in refs.tags,
        )

    def branch(self, name: str, branch: str, sha: str) -> None:
        """Create a branch at a commit where there is none of that name."""
        self._ensure(
            f"create a branch of {self.repo(name)}",
            lambda: self.api.create_branch(self.repo(name), branch=branch, revision=sha),
            lambda: (refs := self.refs(name)) is not None and branch in refs.branches,
        )

    def _ensure(self, doing: str, create: Callable[[], object], exists: Callable[[], bool]) -> None:
        """Create what may exist. A 409 says either so or "busy", and the client's `exist_ok`
        takes both for the first: so look."""
        from huggingface_hub.errors import HfHubHTTPError

        def attempt(_: bool) -> None:
            try:
                create()
            except HfHubHTTPError as error:
                if error.response.status_code != 409 or not exists():
                    raise

        self.persist(doing, attempt)

    def untag(self, name: str, tag: str) -> None:
        """Take a tag away where there is one."""
        from huggingface_hub.errors import RevisionNotFoundError

        def attempt(_: bool) -> None:
            try:
                self.api.delete_tag(self.repo(name), tag=tag)
            except RevisionNotFoundError:
                return

        self.persist(f"delete the tag {tag} of {self.repo(name)}", attempt)

    def commit(
        self,
        name: str,
        branch: str,
        parent: str,
        operations: Sequence[Any],
        title: str,
        message: str,
    ) -> str:
        """Make one commit upon `parent`, if that is the branch's head; return its sha.

        Not repeated and not translated: run it inside `persist`, which looks for it first.
        """
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            made = self.api.create_commit(
                self.repo(name),
                operations,
                commit_message=title,
                commit_description=message,
                revision=branch,
                parent_commit=parent,
            )
        except (HfHubHTTPError, HFValidationError, JSONDecodeError):
            raise
        except ValueError as error:  # the client looks at the head of the model card
            raise InvalidAdapter(
                f"The Hub refuses {title}: {plain(str(error))}.", fix="Correct README.md's head."
            ) from error
        return str(made.oid)
