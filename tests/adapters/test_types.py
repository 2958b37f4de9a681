"""The grammar of names and refs: all that a person or a client types passes through it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.errors import InvalidName
from adapters.types import BaseModel, Manifest, Ref, Version, check_alias, check_name, parse_number
from tests.conftest import BASE

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
NUMBERS = st.integers(1, 999_999_999)
HEX = "0123456789abcdef"
TYPED = st.text() | st.text("./\\@:+-_~%v0123abf sh256\0\n\rAé", max_size=80)
"""Anything, and things that look like refs."""

NOT_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "x/../../y",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "%2e%2e",
    "~",
    "A",
    "Support",
    "süß",
    "ｓupport",
    "supp\u200bort",
    "-x",
    ".x",
    "_x",
    "a b",
    "a\n",
    "a\r\n",
    "\na",
    "a\0",
    "a\0/../b",
    "x" * 65,
    "a:b",
    "a+b",
]
NOT_REFS = [
    *NOT_NAMES,
    "x@",
    "@x",
    "@",
    "x@@y",
    "x@y@z",
    "x@v0",
    "x@v01",
    "x@v1.5@",
    "x@v1234567890",
    "x@V1",
    "x@v1\n",
    "x@../y",
    "x@sha256:",
    "x@sha256:abc",
    "x@sha256:ABCD",
    "x@sha256:" + "a" * 65,
    "x@md5:abcd",
    "x@v1+abc",
    "x@v1+" + "a" * 13,
    "x@v1+" + "G" * 12,
    "x@v0+" + "a" * 12,
    "x@" + "y" * 65,
]


@pytest.mark.parametrize("text", NOT_NAMES)
def test_not_a_name(text: str) -> None:
    with pytest.raises(InvalidName, match="Use 1 to 64 of a-z"):
        check_name(text)


@pytest.mark.parametrize("text", NOT_REFS)
def test_not_a_ref(text: str) -> None:
    with pytest.raises(InvalidName):
        Ref.parse(text)


@pytest.mark.parametrize("alias", ["latest", "base", "v1", "v0", "v01", "v9999999999", "", "../x"])
def test_not_an_alias(alias: str) -> None:
    with pytest.raises(InvalidName):
        check_alias(alias)


@given(NAMES)
@example("x" * 64)
@example("a..")
@example("0")
def test_a_name_is_a_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("support", Ref("support")),
        ("support@v3", Ref("support", number=3)),
        ("support@production", Ref("support", alias="production")),
        ("support@latest", Ref("support", alias="latest")),
        ("support@v3-rc.1", Ref("support", alias="v3-rc.1")),
        ("support@sha256:1a2b", Ref("support", digest="1a2b")),
        ("support@v3+1a2b3c4d5e6f", Ref("support", number=3, digest="1a2b3c4d5e6f")),
    ],
)
def test_every_form_of_a_ref(text: str, meant: Ref) -> None:
    assert Ref.parse(text) == meant


@given(TYPED | st.builds("{}@{}".format, NAMES, NAMES | TYPED))
@example("x@v1")
@example("x@sha256:abcd")
def test_whatever_parses_is_written_as_it_was_read_and_stays_in_its_folder(text: str) -> None:
    try:
        ref = Ref.parse(text)
    except InvalidName:
        return
    assert str(ref) == text
    root = Path("/registry")
    for word in filter(None, (ref.name, ref.alias)):
        joined = Path(str(root / word))
        assert joined.parent == root
        assert joined.name == word
        assert ".." not in joined.parts


@given(NAMES, NUMBERS, st.text(HEX, min_size=64, max_size=64))
def test_an_engine_name_is_a_ref_to_its_version(name: str, number: int, digest: str) -> None:
    version = Version(Manifest(name, number, digest, "", "", {}, BASE, {}), Path())
    assert Ref.parse(version.engine_name) == Ref(name, number=number, digest=digest[:12])
    assert Ref.parse(version.ref) == Ref(name, number=number)


@given(NUMBERS)
def test_a_version_number_is_read_as_it_is_written(number: int) -> None:
    assert parse_number(f"v{number}") == number


@pytest.mark.parametrize("text", ["", "3", "v0", "v03", "V3", "v3 ", "v3\n", "production", "v٣"])
def test_not_a_version_number(text: str) -> None:
    with pytest.raises(InvalidName, match=r"Write v1"):
        parse_number(text)


@pytest.mark.parametrize(
    ("id_", "revision", "name"),
    [
        ("tiny", "sha256:1a", "tiny"),
        ("/srv/models/mine", "sha256:1a", "mine"),
        ("Qwen/Qwen3-0.6B", "c1899de289a04d12100db370d81485cdf75e47ca", "Qwen/Qwen3-0.6B"),
    ],
)
def test_a_base_is_called_by_its_hub_id_or_its_folders_last_part(
    id_: str, revision: str, name: str
) -> None:
    assert BaseModel(id_, revision, "", "", "").name == name
