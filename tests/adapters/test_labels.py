"""Tags and notes that are changed after publication. On every backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.errors import NotFound, UsageError
from adapters.housekeeping import Housekeeping
from adapters.labels import Labels
from adapters.selection import select
from tests.conftest import BASE
from tests.contract.registry_backends import KINDS


@pytest.fixture(params=sorted(KINDS))
def house(request: pytest.FixtureRequest, tmp_path: Path, adapter_folder: Path) -> Housekeeping:
    """`support@v1`, tagged and noted, and `v2`, neither."""
    if request.param == "hub":
        request.getfixturevalue("hub")
    house = Housekeeping(KINDS[request.param].open(tmp_path / "registry"))
    house.publish("support", adapter_folder, base=BASE, tags=["draft", "lang=de"], notes="first")
    house.publish("support", adapter_folder, base=BASE)
    return house


def test_they_are_those_of_the_publication_until_they_are_changed(house: Housekeeping) -> None:
    one = house.resolve("support@v1")
    assert house.labels(one) == Labels(("draft", "lang=de"), "first")
    changed = house.label("support@v1", add=["good", "lang=de"], remove=["draft", "none"])
    assert changed == house.labels(one) == Labels(("lang=de", "good"), "first")
    assert house.label("support@v1", notes="") == Labels(("lang=de", "good"), "")
    assert house.labels(house.resolve("support@v2")) == Labels((), "")


def test_the_version_stays_as_it_was_published(house: Housekeeping) -> None:
    house.label("support@v1", add=["good"])
    assert house.resolve("support@v1").manifest.tags == ("draft", "lang=de")
    assert house.verify("support@v1").number == 1
    assert house.log("support")[-1].action == "label"


def test_what_changes_nothing_is_not_written_down(house: Housekeeping) -> None:
    before = len(house.log("support"))
    house.label("support@v1", add=["draft"], remove=["none"], notes="first")
    assert len(house.log("support")) == before


def test_a_search_goes_by_those_of_now(house: Housekeeping) -> None:
    house.label("support@v2", add=["lang=de"])
    house.label("support@v1", remove=["lang=de"])
    versions = house.versions("support")
    found = select(versions, tags=["lang=de"], tags_of=lambda v: house.labels(v).tags)
    assert [version.number for version in found] == [2]


def test_refusals(house: Housekeeping) -> None:
    with pytest.raises(UsageError, match="another version tomorrow"):
        house.label("support", add=["x"])
    with pytest.raises(UsageError, match="empty"):
        house.label("support@v1", add=[" "])
    with pytest.raises(NotFound):
        house.label("support@v9", add=["x"])
