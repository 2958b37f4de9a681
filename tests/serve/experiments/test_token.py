"""The assignment token: ours verify everywhere, and nobody else's anywhere."""

from __future__ import annotations

import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.errors import ExpiredToken, InvalidToken, Unavailable, UsageError
from adapters.home import home
from serve.experiments.token import Assignment, Tokens

_OPEN_AND_SIGN = """
import sys
from pathlib import Path
from serve.experiments.token import Assignment, Tokens
print("ready", flush=True)
sys.stdin.read()
print(Tokens(Path(sys.argv[1])).sign(Assignment("a/ab-1", 1, "v1", "5f" * 16, "r", 2_000)))
"""
OURS = Assignment("support/ab-1", 3, "v2", "5f" * 16, "r-1", expires_at_s=2_000)
KEY = "0123456789abcdef" * 2
tokens = Tokens(keys=[KEY])


def test_what_was_signed_is_read_without_asking_anybody() -> None:
    token = tokens.sign(OURS)
    assert tokens.verify(token, now_s=1_000) == OURS
    assert Tokens(keys=[KEY]).verify(token, now_s=1_000) == OURS
    assert token.isascii()
    assert token.isprintable()
    assert len(token) < 300


def test_it_is_as_written_down() -> None:
    """By openssl: clients and other servers may count on the form."""
    signed, _, signature = tokens.sign(OURS).rpartition(".")
    # printf %s "$signed" | openssl dgst -sha256 -hmac "$KEY" -binary | basenc --base64url
    assert signed == (
        "v1.WyJzdXBwb3J0L2FiLTEiLDMsInYyIiwiNWY1ZjVmNWY1"
        "ZjVmNWY1ZjVmNWY1ZjVmNWY1ZjVmNWYiLCJyLTEiLDIwMDBd"
    )
    assert signature == "Kt_5ODJaESD1AiSPw68JvZGy0AMBNI6OmBiTuvO4RcM"


@given(st.text(), st.text(), st.integers(1, 1 << 40))
@example("\ud800", "a.b", 1)
def test_whatever_a_unit_or_a_request_is_called(unit: str, request_id: str, expires: int) -> None:
    said = replace(OURS, unit=unit, request_id=request_id, expires_at_s=expires)
    assert tokens.verify(tokens.sign(said), now_s=expires - 1) == said


@given(st.data())
def test_changed_anywhere_it_is_not_ours(data: st.DataObject) -> None:
    token = tokens.sign(OURS)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda sign: sign != token[place]))
    with pytest.raises(InvalidToken, match="not one of ours"):
        tokens.verify(token[:place] + other + token[place + 1 :], now_s=1_000)


@given(st.text() | st.from_regex(r"v1\.[A-Za-z0-9_-]*\.[A-Za-z0-9_=-]*", fullmatch=True))
@example("")
@example("v1..")
@example("\ud800.\ud800")
@example("v1." + "x" * 100_000)
def test_what_was_never_signed_is_not_ours(text: str) -> None:
    with pytest.raises(InvalidToken, match="not one of ours"):
        tokens.verify(text)


def test_foreign_and_later_ones_are_not_ours_and_expired_ones_are_told_so() -> None:
    foreign = Tokens(keys=["x" * 32]).sign(OURS)
    for refused in (foreign, "v2" + tokens.sign(OURS)[2:], tokens.sign(OURS)[:-1]):
        with pytest.raises(InvalidToken, match="not one of ours") as told:
            tokens.verify(refused, now_s=1_000)
        assert not isinstance(told.value, ExpiredToken)
    with pytest.raises(ExpiredToken):
        tokens.verify(tokens.sign(OURS), now_s=2_000)
    with pytest.raises(InvalidToken, match="not one of ours"):
        tokens.verify(foreign, now_s=2_000)


def test_a_clock_that_goes_backwards_spoils_no_token() -> None:
    assert tokens.verify(tokens.sign(OURS), now_s=-5_000) == OURS


def test_signatures_are_compared_in_constant_time_by_every_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[int] = []

    def counted(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return one == other

    several = Tokens(keys=["a" * 32, KEY, "c" * 32])
    monkeypatch.setattr("serve.experiments.token.hmac.compare_digest", counted)
    several.verify(tokens.sign(OURS), now_s=1_000)
    for refused in ("v1.e30.AAAA", tokens.sign(OURS)[:-2] + "AA", "nonsense"):
        with pytest.raises(InvalidToken):
            several.verify(refused, now_s=1_000)
    assert compared == [43] * 12


def test_the_keys_are_made_once_for_their_owner_alone() -> None:
    made = Tokens()
    token = made.sign(OURS)
    assert stat.S_IMODE((home() / "assignment.keys").stat().st_mode) == 0o600
    assert Tokens().verify(token, now_s=1_000) == OURS


def test_servers_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    path = tmp_path / "home" / "assignment.keys"
    command = [sys.executable, "-c", _OPEN_AND_SIGN, str(path)]
    servers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for server in servers:  # each has imported what it needs
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
    for server in servers:
        assert server.stdin
        server.stdin.close()
    signed = {server.stdout.read() for server in servers if server.stdout}
    assert [server.wait() for server in servers] == [0] * 4
    assert len(signed) == 1
    assert path.read_bytes().count(b"\n") == 1


def test_after_a_rotation_old_tokens_verify_and_running_servers_follow(tmp_path: Path) -> None:
    path = tmp_path / "assignment.keys"
    one, other = Tokens(path), Tokens(path)
    before = one.sign(OURS)
    one.rotate()
    after = one.sign(OURS)
    assert before != after
    for token in (before, after):
        assert other.verify(token, now_s=1_000) == OURS
    assert other.sign(OURS) == after
    path.write_bytes(path.read_bytes().split(b"\n")[1] + b"\n")
    with pytest.raises(InvalidToken):
        other.verify(before, now_s=1_000)


def test_a_line_cut_short_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "assignment.keys"
    token = Tokens(path).sign(OURS)
    with path.open("ab") as stream:
        stream.write(b"f" * 40)
    assert Tokens(path).sign(OURS) == token


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "assignment.keys"
    Tokens(path)
    path.chmod(0o644)
    with pytest.raises(Unavailable, match="chmod 600"):
        Tokens(path)


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 100_000 + b"\n"])
def test_a_file_that_holds_no_keys_is_said_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "assignment.keys"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(Unavailable, match="cannot be used"):
        Tokens(path)


def test_given_keys_are_long_and_turned_by_whoever_gave_them() -> None:
    with pytest.raises(UsageError, match="under 32 characters"):
        Tokens(keys=[KEY, "short"])
    with pytest.raises(UsageError, match="in no file"):
        tokens.rotate()
    both = Tokens(keys=["x" * 32, KEY])
    assert both.sign(OURS) == tokens.sign(OURS)
    assert both.verify(Tokens(keys=["x" * 32]).sign(OURS), now_s=1_000) == OURS
