"""The Hub double against the genuine client: what a registry relies on, and the accidents."""

from __future__ import annotations

from pathlib import Path

import pytest
from httpx2 import HTTPError
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.faults import Fault
from tests.hub.server import READ_TOKEN, WRITE_TOKEN, Hub

REPO = "acme/support"


@pytest.fixture
def api(hub: Hub) -> HfApi:
    api = HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN)
    api.create_repo(REPO, private=True)
    return api


def commit(api: HfApi, content: str, *, parent: str | None = None, branch: str = "main") -> str:
    add = CommitOperationAdd("file.txt", content.encode())
    made = api.create_commit(
        REPO, [add], commit_message=content, parent_commit=parent, revision=branch
    )
    return str(made.oid)


def test_small_and_large_files_come_back_as_they_went(api: HfApi, tmp_path: Path) -> None:
    sent = {
        "small.json": b"{}",
        "large.safetensors": bytes(range(256)) * 80,
        "plain.bin": b"x" * 20_000,
    }
    api.create_commit(
        REPO, [CommitOperationAdd(*item) for item in sent.items()], commit_message="a"
    )
    sizes = {file.path: file.size for file in api.list_repo_tree(REPO)}
    assert sizes == {
        ".gitattributes": sizes[".gitattributes"],
        **{k: len(v) for k, v in sent.items()},
    }
    for name, content in sent.items():
        assert Path(api.hf_hub_download(REPO, name, local_dir=tmp_path)).read_bytes() == content
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(REPO, "other", local_dir=tmp_path)


def test_a_large_file_goes_up_in_parts_and_comes_down_from_elsewhere(
    api: HfApi, hub: Hub, tmp_path: Path
) -> None:
    hub.part_bytes, content = 1000, bytes(range(250)) * 10
    add = CommitOperationAdd("large.safetensors", content)
    api.create_commit(REPO, [add], commit_message="a")
    parts = [r.rpartition("/")[2] for r in hub.requests if r.startswith("PUT")]
    assert parts == ["1", "2", "3"]
    hub.repos[REPO].large.clear()
    hub.faults.add(Fault("status", "PUT", "/2$", status=403))
    other = CommitOperationAdd("other.safetensors", content + b"!")
    with pytest.raises(RuntimeError):  # a part is refused, and nothing is taken
        api.create_commit(REPO, [other], commit_message="b")
    assert api.list_repo_files(REPO) == [".gitattributes", "large.safetensors"]
    there = Path(api.hf_hub_download(REPO, "large.safetensors", local_dir=tmp_path))
    assert there.read_bytes() == content
    assert any(request.startswith("GET /_cdn/") for request in hub.requests)


def test_an_old_name_leads_to_the_new_one(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    commit(api, "one")
    hub.rename(REPO, "acme/tone")
    commit(api, "two")
    assert [c.title for c in api.list_repo_commits(REPO)][:2] == ["two", "one"]
    assert Path(api.hf_hub_download(REPO, "file.txt", local_dir=tmp_path)).read_text() == "two"
    assert [m.id for m in api.list_models(author="acme")] == ["acme/tone"]


def test_a_commit_upon_another_parent_than_the_head_is_412(api: HfApi) -> None:
    first = commit(api, "one")
    second = commit(api, "two", parent=first)
    with pytest.raises(HfHubHTTPError) as refused:
        commit(api, "three", parent=first)
    assert refused.value.response.status_code == 412
    titles = [c.title for c in api.list_repo_commits(REPO)]
    assert titles == ["two", "one", "initial commit"]
    assert api.repo_info(REPO, revision="main").sha == second


def test_history_comes_in_pages(api: HfApi, hub: Hub) -> None:
    for n in range(5):
        commit(api, str(n))
    hub.page_size = 2
    assert [c.title for c in api.list_repo_commits(REPO)][:5] == ["4", "3", "2", "1", "0"]


def test_tags_and_branches(api: HfApi) -> None:
    sha = commit(api, "one")
    api.create_tag(REPO, tag="v1", revision=sha)
    with pytest.raises(HfHubHTTPError, match="exists already"):
        api.create_tag(REPO, tag="v1", revision=sha)
    api.create_branch(REPO, branch="production", revision=sha)
    commit(api, "two")
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": sha}
    assert {ref.name: ref.target_commit for ref in refs.branches}["production"] == sha
    api.delete_tag(REPO, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.repo_info(REPO, revision="v1")


def test_files_are_copied_from_another_revision_and_deleted(api: HfApi) -> None:
    files = {"small": b"1", "large.safetensors": b"2" * 100}
    first = api.create_commit(
        REPO, [CommitOperationAdd(*item) for item in files.items()], commit_message="a"
    )
    gone = [CommitOperationDelete(path) for path in files]
    api.create_commit(REPO, gone, commit_message="b")
    assert api.list_repo_files(REPO) == [".gitattributes"]
    back = [CommitOperationCopy(path, path, src_revision=first.oid) for path in files]
    api.create_commit(REPO, back, commit_message="c")
    assert sorted(api.list_repo_files(REPO)) == [".gitattributes", *sorted(files)]


def test_private_repos_and_writing_need_a_token(api: HfApi, hub: Hub) -> None:
    stranger = HfApi(endpoint=hub.endpoint, token=False)
    reader = HfApi(endpoint=hub.endpoint, token=READ_TOKEN)
    with pytest.raises(RepositoryNotFoundError):
        stranger.repo_info(REPO)
    assert [m.id for m in stranger.list_models(author="acme")] == []
    assert [m.id for m in reader.list_models(author="acme")] == [REPO]
    with pytest.raises(HfHubHTTPError, match="rights"):
        commit(reader, "mine")
    api.delete_repo(REPO)
    with pytest.raises(RepositoryNotFoundError):
        reader.repo_info(REPO)


@pytest.mark.parametrize(
    ("fault", "taken"),
    [
        (Fault("status", status=409), False),
        (Fault("status", status=429, retry_after_s=1), False),
        (Fault("status", status=500), False),
        (Fault("lost request"), False),
        (Fault("lost reply"), True),
    ],
    ids=lambda value: f"{value.kind} {value.status}" if isinstance(value, Fault) else str(value),
)
def test_an_accident_happens_once_and_does_what_it_says(
    api: HfApi, hub: Hub, fault: Fault, taken: bool
) -> None:
    hub.faults.add(fault)
    with pytest.raises(HTTPError):  # of the transport, or HfHubHTTPError
        commit(api, "one")
    assert [c.title for c in api.list_repo_commits(REPO)] == ["one"] * taken + ["initial commit"]
    assert hub.faults.happened == 1
    commit(api, "two")


def test_a_slow_answer_arrives_whole(api: HfApi, hub: Hub, tmp_path: Path) -> None:
    commit(api, "slowly")
    hub.faults.add(Fault("slow", "GET", "/resolve/", pause_s=0.01))
    assert Path(api.hf_hub_download(REPO, "file.txt", local_dir=tmp_path)).read_text() == "slowly"
    assert hub.faults.happened == 1
