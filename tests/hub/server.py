"""The Hub double's HTTP: the calls of `huggingface_hub` that a registry and a dataset take.

    with Hub() as hub:
        HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN).create_repo("acme/support")

Reading a private repo and writing need a token, as on the Hub. Large files go up in one piece, or
in parts from `part_bytes` on, and come down from another host, which wants no token: a CDN. Old
names of repos lead to new ones. `hub.faults` brings accidents.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.hub.call import READ_TOKEN, WRITE_TOKEN, Call
from tests.hub.faults import Faults
from tests.hub.store import Refused, Repo

ORG = "acme"
__all__ = ["ORG", "READ_TOKEN", "WRITE_TOKEN", "Hub"]


class Hub:
    """The server, on a free port of this machine, while the block runs."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.page_size = 1000
        self.part_bytes = 1 << 40
        """Large files from this size on go up in parts of this size."""
        self.requests: list[str] = []
        self.uploaded_bytes = 0
        """What came of large files, whole or cut short."""
        self.downloaded_bytes = 0
        """What went of files' content, as far as it was written out."""
        self.parts: dict[str, dict[int, bytes]] = {}
        self.moved: dict[str, str] = {}
        self.lock = threading.RLock()
        self.serial = count(time.time_ns())  # no sha twice, also among doubles
        self._server = _Server(("127.0.0.1", 0), type("_Bound", (_Call,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.cdn = f"http://localhost:{self._server.server_port}/_cdn"

    def __enter__(self) -> Hub:
        serve = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        serve.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def rename(self, old: str, new: str) -> None:
        """Rename a repo, as its owner may on the Hub's pages."""
        with self.lock:
            self.repos[new] = self.repos.pop(old)
            self.repos[new].id, self.moved[old] = new, new


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what broke, but not that a client was killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Call(Call):
    def find(self, path: str) -> object:
        for pattern, method, act in _ROUTES:
            if method in (self.command, "ANY") and (found := re.fullmatch(pattern, path)):
                return act(self, *map(unquote, found.groups()))
        raise Refused(404, f"The double knows no {self.command} {path}")

    def _repo(self, repo_id: str, *, write: bool = False) -> Repo:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self._may(write=False)):
            raise Refused(
                404 if self._may(write=False) else 401, "Repository not found", "RepoNotFound"
            )
        if write:
            self._check_write()
        return repo

    def _check_write(self) -> None:
        if not self._may(write=True):
            raise Refused(403, "You don't have the rights to do this with this token")

    def whoami(self) -> object:
        if not self._may(write=False):
            raise Refused(401, "Invalid username or password.")
        role = "write" if self._may(write=True) else "read"
        token = {"type": "access_token", "accessToken": {"displayName": "t", "role": role}}
        return {"type": "user", "name": "tester", "orgs": [{"name": ORG}], "auth": token}

    def validate_yaml(self) -> object:
        if self.body["content"].startswith("---\n: broken"):
            errors = {"errors": [{"message": "broken card"}], "warnings": []}
            raise Refused(400, "Invalid metadata", body=errors)
        return {"errors": [], "warnings": []}

    def create_repo(self) -> object:
        self._check_write()
        asked = self.body
        repo_id = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        url = f"{self.hub.endpoint}/{repo_id}"
        if repo_id in self.hub.repos:
            raise Refused(409, "You already created this model repo", body={"url": url})
        private = asked.get("visibility") == "private"
        self.hub.repos[repo_id] = Repo(repo_id, private, self.hub.serial)
        return {"url": url, "name": repo_id, "id": repo_id}

    def delete_repo(self) -> object:
        repo_id = f"{self.body.get('organization') or 'tester'}/{self.body['name']}"
        del self.hub.repos[self._repo(repo_id, write=True).id]
        return {}

    def models(self) -> object:
        author = self.query.get("author")
        seen = [r for r in self.hub.repos.values() if not r.private or self._may(write=False)]
        mine = [r for r in seen if author is None or r.id.partition("/")[0] == author]
        listed = [{"_id": r.id, "id": r.id, "modelId": r.id, "private": r.private} for r in mine]
        if self.query.get("expand") == "siblings":  # then nothing but what was asked for
            listed = [{"_id": r.id, "id": r.id, "siblings": _siblings(r)} for r in mine]
        return self._page(listed)

    def repo_info(self, repo_id: str, revision: str = "main") -> object:
        repo = self._repo(repo_id)
        return {
            "_id": repo.id,
            "id": repo.id,
            "private": repo.private,
            "sha": repo.at(revision).sha,
            "siblings": [{"rfilename": path} for path in repo.at(revision).files],
        }

    def refs(self, repo_id: str) -> object:
        repo = self._repo(repo_id)
        branches = [_ref("heads", name, sha) for name, sha in repo.branches.items()]
        tags = [_ref("tags", name, sha) for name, sha in repo.tags.items()]
        return {"branches": branches, "converts": [], "tags": tags}

    def commits(self, repo_id: str, revision: str) -> object:
        return self._page(
            [
                {"id": c.sha, "authors": [{"user": "tester"}], "date": c.date, "title": c.title,
                 "message": c.message}
                for c in self._repo(repo_id).history(revision)
            ]
        )  # fmt: skip

    def tree(self, repo_id: str, revision: str) -> object:
        files = self._repo(repo_id).at(revision).files
        return self._page([blob.entry(path) for path, blob in sorted(files.items())])

    def paths_info(self, repo_id: str, revision: str) -> object:
        asked = self.body["paths"] if self.raw[:1] == b"{" else parse_qs(self.raw.decode())["paths"]
        files = self._repo(repo_id).at(revision).files
        return [files[path].entry(path) for path in asked if path in files]

    def resolve(self, repo_id: str, revision: str, path: str) -> object:
        commit = self._repo(repo_id).at(revision)
        self.extra["X-Repo-Commit"] = commit.sha
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        blob = commit.files[path]
        if not blob.large:
            self.extra["ETag"] = f'"{blob.oid}"'
            return self._part_of(blob.content)
        self.status = 302
        self.extra["X-Linked-Size"] = str(len(blob.content))
        self.extra["X-Linked-ETag"] = f'"{blob.sha256}"'
        self.extra["Location"] = f"{self.hub.cdn}/{repo_id}/{blob.sha256}?signature=valid"
        return {}

    def cdn(self, repo_id: str, sha256: str) -> object:
        if "Authorization" in self.headers or self.query.get("signature") != "valid":
            raise Refused(400, "Only one auth mechanism allowed")  # and no token leaves the Hub
        for commit in self.hub.repos[repo_id].commits.values():
            for blob in commit.files.values():
                if blob.large and blob.sha256 == sha256:
                    self.extra["ETag"] = f'"{sha256}"'
                    return self._part_of(blob.content)
        raise Refused(404, "Not there")

    def _part_of(self, content: bytes) -> bytes:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if not asked:
            return content
        size, start = len(content), int(asked[1])
        if start >= size:
            raise Refused(416, "There is no such part")
        self.status = 206
        self.extra["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        return content[start:]

    def preupload(self, repo_id: str, revision: str) -> object:
        repo = self._repo(repo_id, write=True)
        held = repo.at(revision).files
        answers = []
        for file in self.body["files"]:
            mode = "lfs" if repo.is_large(file["path"], file["size"]) else "regular"
            answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if (blob := held.get(file["path"])) is not None:
                answer["oid"] = blob.sha256 if blob.large else blob.oid
            answers.append(answer)
        return {"files": answers}

    def lfs_batch(self, repo_id: str) -> object:
        repo = self._repo(repo_id, write=True)
        answers = []
        for asked in self.body["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in repo.large:
                there = f"{self.hub.endpoint}/_large/{repo_id}/{asked['oid']}"
                upload: dict[str, Any] = {"href": there}
                if asked["size"] >= (size := self.hub.part_bytes):
                    parts = {
                        str(n): f"{there}/{n}" for n in range(1, -(-asked["size"] // size) + 1)
                    }
                    upload["header"] = {"chunk_size": str(size), **parts}
                verify = f"{self.hub.endpoint}/_verify/{repo_id}"
                answer["actions"] = {"upload": upload, "verify": {"href": verify}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def lfs_put(self, repo_id: str, oid: str) -> object:
        if hashlib.sha256(self.raw).hexdigest() != oid:
            raise Refused(400, "The content is not what its oid says")
        self.hub.repos[repo_id].large[oid] = self.raw
        return {}

    def lfs_put_part(self, _: str, oid: str, number: str) -> object:
        self.hub.parts.setdefault(oid, {})[int(number)] = self.raw
        self.extra["ETag"] = f'"{hashlib.md5(self.raw).hexdigest()}"'
        return {}

    def lfs_complete(self, repo_id: str, oid: str) -> object:
        held = self.hub.parts.pop(oid)
        told = [(part["partNumber"], part["etag"]) for part in self.body["parts"]]
        etags = [(n, f'"{hashlib.md5(part).hexdigest()}"') for n, part in sorted(held.items())]
        whole = b"".join(part for _, part in sorted(held.items()))
        if self.body["oid"] != oid or told != etags or hashlib.sha256(whole).hexdigest() != oid:
            raise Refused(400, "The parts are not what the oid says")
        self.hub.repos[repo_id].large[oid] = whole
        return {}

    def lfs_verify(self, repo_id: str) -> object:
        held = self._repo(repo_id, write=True).large.get(self.body["oid"])
        if held is None or len(held) != self.body["size"]:
            raise Refused(404, "Not there")
        return {}

    def commit(self, repo_id: str, branch: str) -> object:
        repo = self._repo(repo_id, write=True)
        commit = repo.commit(branch, [json.loads(line) for line in self.raw.splitlines()])
        return {
            "commitOid": commit.sha,
            "commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{commit.sha}",
        }

    def create_tag(self, repo_id: str, revision: str) -> object:
        repo, tag = self._repo(repo_id, write=True), self.body["tag"]
        if tag in repo.tags:
            raise Refused(409, f"Tag reference exists already: {tag}")
        repo.tags[tag] = repo.at(revision).sha
        return {}

    def create_branch(self, repo_id: str, branch: str) -> object:
        repo = self._repo(repo_id, write=True)
        if branch in repo.branches:
            raise Refused(409, f"Reference already exists: {branch}")
        repo.branches[branch] = repo.at(self.body.get("startingPoint") or "main").sha
        return {}

    def delete_tag(self, repo_id: str, tag: str) -> object:
        if self._repo(repo_id, write=True).tags.pop(tag, None) is None:
            raise Refused(404, f"No tag {tag}", "RevisionNotFound")
        return {}

    def delete_branch(self, repo_id: str, branch: str) -> object:
        repo = self._repo(repo_id, write=True)
        if branch == "main" or repo.branches.pop(branch, None) is None:
            raise Refused(403 if branch == "main" else 404, f"Cannot delete {branch}")
        return {}


def _siblings(repo: Repo) -> list[dict[str, str]]:
    return [{"rfilename": path} for path in repo.at("main").files]


def _ref(kind: str, name: str, sha: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}


_ID = "([^/]+/[^/]+)"
_P = f"/api/(?:models|datasets)/{_ID}"
_ROUTES: list[tuple[str, str, Callable[..., object]]] = [
    ("/api/whoami-v2", "GET", _Call.whoami),
    ("/api/validate-yaml", "POST", _Call.validate_yaml),
    ("/api/repos/create", "POST", _Call.create_repo),
    ("/api/repos/delete", "DELETE", _Call.delete_repo),
    ("/api/models", "GET", _Call.models),
    (_P, "GET", _Call.repo_info),
    (f"{_P}/revision/([^/]+)", "GET", _Call.repo_info),
    (f"{_P}/refs", "GET", _Call.refs),
    (f"{_P}/commits/([^/]+)", "GET", _Call.commits),
    (f"{_P}/tree/([^/]+)/?", "GET", _Call.tree),
    (f"{_P}/paths-info/([^/]+)", "POST", _Call.paths_info),
    (f"{_P}/preupload/([^/]+)", "POST", _Call.preupload),
    (f"{_P}/commit/([^/]+)", "POST", _Call.commit),
    (f"{_P}/tag/([^/]+)", "POST", _Call.create_tag),
    (f"{_P}/tag/([^/]+)", "DELETE", _Call.delete_tag),
    (f"{_P}/branch/([^/]+)", "POST", _Call.create_branch),
    (f"{_P}/branch/([^/]+)", "DELETE", _Call.delete_branch),
    (rf"/{_ID}\.git/info/lfs/objects/batch", "POST", _Call.lfs_batch),
    (f"/_large/{_ID}/([0-9a-f]+)", "PUT", _Call.lfs_put),
    (f"/_large/{_ID}/([0-9a-f]+)/([0-9]+)", "PUT", _Call.lfs_put_part),
    (f"/_large/{_ID}/([0-9a-f]+)", "POST", _Call.lfs_complete),
    (f"/_verify/{_ID}", "POST", _Call.lfs_verify),
    (f"/_cdn/{_ID}/([0-9a-f]+)", "GET", _Call.cdn),
    (f"(?:/datasets)?/{_ID}/resolve/([^/]+)/(.+)", "GET", _Call.resolve),
    (f"(?:/datasets)?/{_ID}/resolve/([^/]+)/(.+)", "HEAD", _Call.resolve),
]
