"""A registry of which something cannot be read: all the rest is listed, and it can be mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.errors import NotFound, RegistryUnavailable
from adapters.housekeeping import Housekeeping
from tests.adapters.conftest import Run
from tests.conftest import BASE, MakeAdapter


@pytest.fixture
def house(make_adapter: MakeAdapter) -> Housekeeping:
    """`support@v1` to `v3` and `tone@v1`; the manifest of `support@v3` is damaged."""
    house = Housekeeping.open()
    for seed in (1, 2, 3):
        house.publish("support", make_adapter(seed=seed), base=BASE)
    house.publish("tone", make_adapter(seed=4), base=BASE)
    manifest = house.resolve("support@v3").path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    return Housekeeping.open()


def test_a_list_shows_all_the_others_and_marks_it(run: Run, house: Housekeeping) -> None:
    for line, versions in (
        ("list", ["tone@v1", "support@v3"]),
        ("list support", ["support@v1", "support@v2", "support@v3"]),
        ("list --all", ["support@v1", "support@v2", "tone@v1", "support@v3"]),
    ):
        code, out, err = run(f"{line} --json")
        assert (code, "Traceback" in err) == (1, False)
        rows = json.loads(out)
        assert [row["version"] for row in rows] == versions
        assert [row["damaged"] for row in rows] == [False] * (len(rows) - 1) + [True]
        assert rows[-1].keys() == rows[0].keys()
        assert "Damaged: support@v3" in err
        assert "adapters verify support@v3 --quarantine" in err
        code, out, _ = run(line)
        assert code == 1
        assert out.splitlines()[-1].split()[:3] == ["support@v3", "–", "damaged"]


def test_labels_that_cannot_be_read_keep_no_other_adapter_from_the_list(
    run: Run, house: Housekeeping
) -> None:
    house.label("tone@v1", add=["x"])
    labels = Path(house.location) / "adapters" / "tone" / "labels.jsonl"
    labels.write_text("7\n")
    code, out, err = run("list support --json")
    assert (code, len(json.loads(out))) == (1, 3)
    code, out, err = run("list --json")
    assert (code, "Traceback" in err) == (1, False)
    assert [(row["version"], row["damaged"]) for row in json.loads(out)] == [
        ("support@v3", True),
        ("tone", True),
    ]


def test_what_points_at_it_is_said(run: Run, house: Housekeeping) -> None:
    house.promote("support@v2", "canary")
    journal = Path(house.location) / "adapters" / "support" / "aliases" / "canary.jsonl"
    journal.write_text(journal.read_text().replace('"to": 2', '"to": 3'))
    assert json.loads(run("list --json")[1])[-1]["aliases"] == ["canary"]


def test_quarantined_it_is_out_of_the_way(run: Run, house: Housekeeping) -> None:
    with pytest.raises(RegistryUnavailable):
        house.resolve("support")
    for ref in ("support", "support@v3"):
        assert run(f"verify {ref} --quarantine")[0] == 4
    assert house.resolve("support").number == 2
    code, out, _ = run("list --json")
    assert (code, [row["version"] for row in json.loads(out)]) == (0, ["support@v2", "tone@v1"])
    row = json.loads(run("list support --json")[1])[-1]
    assert (row["standing"], row["damaged"]) == ("quarantined", True)


def test_it_can_be_deleted(run: Run, house: Housekeeping) -> None:
    code, out, _ = run("delete support@v3 --yes --reason damaged --json")
    assert (code, json.loads(out)) == (
        0,
        {"version": "support@v3", "digest": None, "reason": "damaged"},
    )
    assert run("list support")[0] == 0
    assert [path.name for path in Path(house.location).glob("adapters/support/v3/*")] == [
        "tombstone.json"
    ]
    with pytest.raises(NotFound, match="was deleted"):
        house.resolve("support@v3")


def test_it_hides_no_digest_of_another(house: Housekeeping) -> None:
    digest = house.resolve("support@v1").manifest.digest
    assert house.resolve(f"support@sha256:{digest}").number == 1
    with pytest.raises(RegistryUnavailable, match=r"v3/manifest\.json"):
        house.resolve("support@sha256:" + "0" * 64)


def test_a_damaged_journal_hides_its_adapter_and_no_other(run: Run, house: Housekeeping) -> None:
    house.delete("support@v3")
    (Path(house.location) / "adapters" / "support" / "standing.jsonl").write_text("{}\n")
    code, out, err = run("list --json")
    rows = json.loads(out)
    assert (code, [row["version"] for row in rows]) == (1, ["tone@v1", "support"])
    assert [row["damaged"] for row in rows] == [False, True]
    assert "cannot be understood" in err


def test_a_list_shows_what_is_not_served_too(run: Run, house: Housekeeping) -> None:
    house.delete("support@v3")
    for number in (1, 2):
        house.retire(f"support@v{number}")
    code, out, _ = run("list --json")
    assert (code, [row["standing"] for row in json.loads(out)]) == (0, ["retired", None])
