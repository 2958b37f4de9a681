"""API keys: what is kept of them, who may hold which, and many writers at once."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from adapters.errors import AdaptersError, Conflict, NotFound, Unavailable, UsageError
from adapters.keys import Key, KeyJournal, hash_of


@pytest.fixture
def journal(tmp_path: Path) -> KeyJournal:
    return KeyJournal(tmp_path / "keys.jsonl")


def test_the_secret_is_kept_nowhere_and_its_hash_is(journal: KeyJournal) -> None:
    key, secret = journal.create("web", allow=["support*"], rpm=600, tpm=100_000, expires="90d")
    assert secret.startswith("sk-swy-")
    assert len(secret) == len("sk-swy-") + 43, "256 bits"
    assert (key.sha256, key.ending) == (hash_of(secret).hex(), secret[-4:])
    assert secret not in journal.path.read_text()
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert journal.read() == (key,) == KeyJournal(journal.path).read()
    another, other = journal.create("batch", allow=["*"])
    assert len({secret, other, key.id, another.id}) == 4
    assert key.name not in key.id


def test_a_key_expires_when_it_was_said_to(journal: KeyJournal) -> None:
    key, _ = journal.create("web", allow=["*"], expires="12h")
    made = datetime.fromisoformat(key.created_at)
    assert key.state(made + timedelta(hours=12, seconds=-1)) == "active"
    assert key.state(made + timedelta(hours=12)) == "expired"
    forever, _ = journal.create("ever", allow=["*"])
    assert forever.state(datetime.max.replace(tzinfo=UTC)) == "active"


def test_a_revoked_key_is_over_and_its_name_is_free(journal: KeyJournal) -> None:
    first, _ = journal.create("web", allow=["*"])
    with pytest.raises(Conflict, match="web"):
        journal.create("web", allow=["*"])
    assert journal.revoke("web").state() == "revoked"
    for name, said in (("web", "keys list"), ("wob", "keys list")):
        with pytest.raises(NotFound, match=name) as refused:
            journal.revoke(name)
        assert said in refused.value.fix
    second, _ = journal.create("web", allow=["*"])
    assert [key.state() for key in journal.read()] == ["revoked", "active"]
    assert first.id != second.id
    with pytest.raises(NotFound) as refused:
        journal.revoke("wob")
    assert "web" in refused.value.fix


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Web"},
        {"name": ""},
        {"name": "a b"},
        {"allow": []},
        {"allow": ["support@v1"]},
        {"allow": [""]},
        {"allow": ["two words"]},
        {"allow": ["größe"]},
        {"allow": ["x" * 201]},
        {"role": "infr"},
        {"role": "admin"},
        {"rpm": 0},
        {"tpm": -1},
        {"expires": "0d"},
        {"expires": "soon"},
        {"expires": "90"},
        {"expires": "99999w"},
        {"expires": "-1d"},
    ],
    ids=str,
)
def test_what_cannot_be_meant_makes_no_key(journal: KeyJournal, wrong: dict[str, Any]) -> None:
    meant: dict[str, Any] = {"name": "web", "allow": ["*"]}
    with pytest.raises(UsageError) as refused:
        journal.create(**meant | wrong)
    assert refused.value.fix
    assert not journal.path.exists()


def test_an_admin_needs_no_pattern(journal: KeyJournal) -> None:
    key, _ = journal.create("ops", role="admin", expires="9999w")
    assert (key.role, key.allow) == ("admin", ())


def test_a_line_cut_short_by_a_crash_never_was(journal: KeyJournal) -> None:
    journal.create("web", allow=["*"])
    journal.create("lost", allow=["*"])
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-3])
    assert [key.name for key in journal.read()] == ["web"]
    journal.create("next", allow=["*"])
    assert [key.name for key in KeyJournal(journal.path).read()] == ["web", "next"]


def _with(key: dict[str, Any], **fields: Any) -> str:
    return json.dumps(key | fields)


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: "{",
        lambda line: "[]",
        lambda line: "7",
        lambda line: '{"action": "revoke", "actor": "x", "id": "key-unknown", "time": "now"}',
        lambda line: _with(line, action="promote"),
        lambda line: _with(line, role="root"),
        lambda line: _with(line, role="infer", allow=[]),
        lambda line: _with(line, allow=7),
        lambda line: _with(line, allow=[7]),
        lambda line: _with(line, sha256="00"),
        lambda line: _with(line, sha256="x" * 64),
        lambda line: _with(line, rpm="many"),
        lambda line: _with(line, tpm=True),
        lambda line: _with(line, expires_at="soon"),
        lambda line: _with(line, expires_at="2026-01-01T00:00:00"),
        lambda line: _with(line, id=7),
        lambda line: _with(line, revoked_at="2026-01-01T00:00:00+00:00"),
        lambda line: _with(line, later=1),
        lambda line: json.dumps({k: v for k, v in line.items() if k != "allow"}),
    ],
)
def test_a_file_that_is_not_understood_opens_nothing(journal: KeyJournal, damage: Any) -> None:
    journal.create("web", allow=["*"])
    line = json.loads(journal.path.read_text())
    journal.path.write_text(damage(line) + "\n")
    with pytest.raises(Unavailable, match="understood"):
        KeyJournal(journal.path).read()


def test_a_file_that_is_none_or_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "link", "pipe"):
        with pytest.raises(Unavailable, match=name):
            KeyJournal(tmp_path / name).read()


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom adapters.keys import KeyJournal\n"
        "journal = KeyJournal(Path(sys.argv[1]))\n"
        "for n in range(5):\n"
        "    journal.create(f'{sys.argv[2]}-{n}', allow=['*'])\n"
        "    journal.revoke(f'{sys.argv[2]}-{n}') if n % 2 else None\n"
    )
    path = tmp_path / "keys.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in "abcd"]
    assert [writer.wait() for writer in writers] == [0] * 4
    keys = KeyJournal(path).read()
    assert sorted(key.name for key in keys) == sorted(f"{w}-{n}" for w in "abcd" for n in range(5))
    assert {key.name[-1] for key in keys if key.revoked_at} == {"1", "3"}


class Histories(RuleBasedStateMachine):
    """Keys made, revoked, cut short and read by others, against a plain dict."""

    names = st.sampled_from(["web", "batch", "ops"])

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "home" / "keys.jsonl"
        self.reader = KeyJournal(self.path)
        self.made: dict[str, Key] = {}
        self.revoked: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def _active(self, name: str) -> list[str]:
        return [i for i, k in self.made.items() if k.name == name and i not in self.revoked]

    @rule(name=names, rpm=st.none() | st.integers(1, 9), role=st.sampled_from(["infer", "admin"]))
    def create(self, name: str, rpm: int | None, role: Any) -> None:
        allow = ["*"] if role == "infer" else []
        try:
            key, _ = KeyJournal(self.path).create(name, allow=allow, rpm=rpm, role=role)
        except Conflict:
            assert self._active(name)
        else:
            assert not self._active(name)
            self.made[key.id] = key

    @rule(name=names)
    def revoke(self, name: str) -> None:
        try:
            KeyJournal(self.path).revoke(name)
        except NotFound:
            assert not self._active(name)
        else:
            assert self._active(name)
            self.revoked.update(self._active(name))

    @rule(cut=st.integers(1, 40))
    def crash(self, cut: int) -> None:
        """A writer dies in the middle of its line."""
        if self.path.exists():
            with self.path.open("ab") as stream:
                stream.write(b'{"action": "create", "actor": "x", "name": "lost"'[:cut])

    @invariant()
    def everybody_reads_the_same(self) -> None:
        for journal in (self.reader, KeyJournal(self.path)):
            found = {key.id: key for key in journal.read()}
            assert list(found) == list(self.made)
            assert {i for i, key in found.items() if key.revoked_at} == self.revoked
            for i, key in self.made.items():
                assert (found[i].name, found[i].sha256, found[i].rpm) == (
                    key.name,
                    key.sha256,
                    key.rpm,
                )


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


def test_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    from adapters.cli import main

    def run(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(line.split())
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    assert "adapters keys create" in run("keys list")[1]
    code, secret, told = run("keys create --name web --allow support* --allow tone --rpm 600")
    assert code == 0
    (key,) = KeyJournal().read()
    assert hash_of(secret.strip()).hex() == key.sha256, "alone on stdout, for a variable"
    assert "not shown again" in told
    listed = run("keys list")[1]
    for word in ("web", key.id, f"…{key.ending}", "support* tone", "600", "active"):
        assert word in listed
    for shown in (listed, run("keys list --json")[1]):
        assert secret.strip() not in shown
        assert key.sha256 not in shown
    assert run("keys create --name web --allow *")[0] == Conflict.exit_code
    assert run("keys create --name other")[0] == UsageError.exit_code
    assert run("keys create --name other --allow * --role amdin")[2].count("admin") == 1
    assert run("keys revoke web")[0] == 0
    assert "revoked" in run("keys list")[1]
    assert run("keys revoke web")[0] == NotFound.exit_code


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AdaptersError, match="keys"):
        KeyJournal(tmp_path / "file" / "keys.jsonl").create("web", allow=["*"])
