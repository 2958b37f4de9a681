"""Prompt-only versions: published, held, moved and deleted as any other, on both backends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adapters import bases
from adapters.diff import compare
from adapters.errors import (
    BaseMismatch,
    Conflict,
    InvalidAdapter,
    InvalidDataset,
    NotFound,
    Rejected,
    Retired,
    UsageError,
)
from adapters.examine import examine
from adapters.files import differences
from adapters.prompts import publish_prompt, read_settings, read_shots
from adapters.registry import Registry
from adapters.retention import Retention
from adapters.serving import Serving
from adapters.transfer import transfer
from adapters.types import Version
from tests.adapters.conftest import Run
from tests.conftest import BASE, MakeAdapter
from tests.contract.registry_backends import KINDS

BRIEF = Serving.from_json({"system": "Be brief.", "temperature": 0})


@pytest.fixture(params=sorted(KINDS))
def house(request: pytest.FixtureRequest, tmp_path: Path, make_adapter: MakeAdapter) -> Retention:
    """A registry with `support@v1` and `v2`, the first with defaults of its own."""
    if request.param == "hub":
        request.getfixturevalue("hub")
    house = Retention(KINDS[request.param].open(tmp_path / "registry"))
    folder = make_adapter(seed=1)
    (folder / "serving.json").write_text('{"temperature": 0.5, "stop": ["END"]}')
    house.publish("support", folder, base=BASE)
    house.publish("support", make_adapter(seed=2), base=BASE)
    return house


def over(house: Registry, on: str, name: str = "support", chosen: Serving = BRIEF) -> Version:
    return publish_prompt(house, name, chosen, on=on)


def test_it_is_an_immutable_version_with_lineage(house: Retention) -> None:
    ground = house.resolve("support@v1")
    version = over(house, "support@v1")
    reread = Retention(house._backend).resolve("support@v3")
    assert reread.manifest == version.manifest
    assert (version.number, version.manifest.kind, version.manifest.base) == (3, "prompt", BASE)
    assert version.manifest.parents == (ground.engine_name,)
    assert version.manifest.serving == {
        "system": "Be brief.",
        "temperature": 0,
        "stop": ["END"],
        "on": f"support@sha256:{ground.manifest.digest}",
    }, "all that it adds: its own, and what the version below adds"
    assert house.ground(version) == ground
    assert sorted(version.manifest.files) == ["README.md", "serving.json"]
    assert differences(version.path, version.manifest.files) == []
    assert house.verify("support@v3") == version
    assert examine("support@v3", registry=house.location).report.findings == ()
    assert [entry.action for entry in house.log("support")] == ["publish"] * 3


def test_over_the_base_it_stands_on_nothing_else(house: Retention) -> None:
    version = publish_prompt(house, "terse", BRIEF, base="tiny")
    assert house.ground(version) is None
    assert version.manifest.base == bases.resolve("tiny").model
    assert (version.manifest.parents, version.manifest.on) == ((), None)


def test_other_text_or_another_ground_is_another_digest(house: Retention) -> None:
    other = Serving.from_json({"system": "Be polite.", "temperature": 0, "stop": "END"})
    same = Serving.from_json({"system": "Be brief.", "temperature": 0, "stop": "END"})
    versions = [
        over(house, "support@v1"),
        over(house, "support@v1", chosen=other),
        over(house, "support@v2", chosen=same),
        over(house, "support@v1"),
    ]
    digests = [version.manifest.digest for version in versions]
    assert len(set(digests)) == 3
    assert digests[0] == digests[3]


def test_what_makes_no_prompt_is_refused(house: Retention) -> None:
    over(house, "support@v1")
    with pytest.raises(Rejected, match="no weights") as refused:
        over(house, "support@v3")
    assert "support@v1" in refused.value.fix
    for on, base in ((None, None), ("support@v1", "tiny")):
        with pytest.raises(UsageError, match="a base or on a version"):
            publish_prompt(house, "terse", BRIEF, on=on, base=base)
    with pytest.raises(UsageError, match="revision"):
        publish_prompt(house, "terse", BRIEF, on="support@v1", revision="main")
    elsewhere = Serving.from_json({"on": "support@sha256:" + "0" * 64, "seed": 1})
    with pytest.raises(UsageError, match="`on`"):
        publish_prompt(house, "terse", elsewhere, base="tiny")
    with pytest.raises(InvalidAdapter, match="changes nothing"):
        over(house, "support@v1", chosen=Serving())
    with pytest.raises(NotFound):
        over(house, "support@v9")
    house.retire("support@v2")
    with pytest.raises(Rejected, match="retired"):
        over(house, "support@v2")
    assert house._backend.numbers("support") == [1, 2, 3], "nothing is left of what was refused"


def test_ground_and_prompt_are_of_one_base(house: Retention, tmp_path: Path) -> None:
    on = over(house, "support@v1").manifest.on
    folder = tmp_path / "prompt"
    folder.mkdir()
    (folder / "serving.json").write_text(json.dumps({"seed": 1, "on": str(on)}))
    with pytest.raises(BaseMismatch, match="two bases"):
        house.publish("stranger", folder, base=replace(BASE, revision="f" * 40))
    assert house.names() == ["support"]


def test_it_moves_with_aliases_as_any_other(house: Retention) -> None:
    house.promote("support@v1")
    over(house, "support@v1")
    house.promote("support@v3")
    assert house.resolve("support").manifest.kind == "prompt"
    house.rollback("support")
    assert house.resolve("support").number == 1


def test_what_it_stands_on_is_held(house: Retention) -> None:
    version = over(house, "support@v1", name="terse")
    for verb in (house.retire, house.delete):
        with pytest.raises(Conflict, match="terse@v1 stands on it"):
            verb("support@v1")
    house.retire("support@v2")
    house.retire("terse@v1")
    house.retire("support@v1")
    with pytest.raises(Rejected, match="support@v1 was retired"):
        house.restore("terse@v1")
    house.restore("support@v1")
    house.restore("terse@v1")
    house.delete("terse@v1")
    house.delete("support@v1")
    with pytest.raises(NotFound):
        house.ground(version)


def test_garbage_is_never_what_a_kept_version_stands_on(house: Retention) -> None:
    over(house, "support@v1", name="terse")
    assert [version.ref for version in house.garbage(keep_last=1)] == []
    house.publish("support", house.resolve("support@v2").path, base=BASE)
    assert [version.ref for version in house.garbage(keep_last=1)] == ["support@v2"]
    house.collect(keep_last=1)
    assert house.ground(house.resolve("terse")) == house.resolve("support@v1")


def test_one_whose_ground_goes_meanwhile_is_taken_back(
    house: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = house._backend.publish

    def slowly(*arguments: object, **options: object) -> Version:
        version = publish(*arguments, **options)  # type: ignore[arg-type]
        with monkeypatch.context() as unseen:
            unseen.setattr(house, "_standing_on", lambda *_: [])
            house.delete("support@v1")
        return version

    monkeypatch.setattr(house._backend, "publish", slowly)
    with pytest.raises(NotFound):
        over(house, "support@v1", name="terse")
    assert house._backend.numbers("terse") == []


def test_it_goes_to_another_registry_after_its_ground(house: Retention, tmp_path: Path) -> None:
    there = Retention.open(tmp_path / "there")
    there.publish("support", house.resolve("support@v2").path, base=BASE)
    version = over(house, "support@v1", name="terse")
    with pytest.raises(NotFound):
        transfer(house, "terse", there)
    assert there.names() == ["support"]
    transfer(house, "support@v1", there)  # as v2: v1 is taken there
    transfer(house, "terse", there)
    received = there.resolve("terse")
    assert received.manifest.digest == version.manifest.digest
    ground = there.ground(received)
    assert ground is not None
    assert ground.ref == "support@v2"
    assert transfer(house, "terse", there).state == "already there"
    with pytest.raises(Conflict, match="terse@v1 stands on it"):
        there.delete("support@v2")


def test_a_comparison_reads_no_weights_where_there_are_none(house: Retention) -> None:
    version = over(house, "support@v1")
    found = compare(house.resolve("support@v1"), version)
    assert found.serving["system"] == (None, "Be brief.")
    assert found.serving["temperature"] == (0.5, 0)
    assert found.modules
    assert compare(version, over(house, "support@v1")).modules == ()


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def registry(make_adapter: MakeAdapter) -> Registry:
    """The registry that commands use when none is named: `support@v1`."""
    registry = Registry.open()
    registry.publish("support", make_adapter(seed=1), base=BASE)
    return registry


def test_new_takes_files_and_settings(run: Run, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "tone.txt").write_text("Be brief.\n")
    (tmp_path / "more.json").write_text('{"temperature": 0.1, "top_k": 5}')
    (tmp_path / "shots.jsonl").write_text(
        '{"prompt": "Hi", "completion": "Hello."}\n\n'
        '{"messages": [{"role": "user", "content": "Bye"},'
        ' {"role": "assistant", "content": "Bye."}]}\n'
    )
    code, said, _ = run(
        f"prompt new support --on support@v1 --system-file {tmp_path}/tone.txt "
        f"--shots {tmp_path}/shots.jsonl --serving {tmp_path}/more.json "
        "--set temperature=0.2 --set stop=END --tag tone=brief --notes fine"
    )
    version = registry.resolve("support@v2")
    assert (code, said.splitlines()[0]) == (0, version.engine_name)
    serving = dict(version.manifest.serving)
    assert [turn["content"] for turn in serving.pop("shots")] == ["Hi", "Hello.", "Bye", "Bye."]
    serving.pop("on")
    assert serving == {
        "system": "Be brief.", "temperature": 0.2, "top_k": 5, "stop": ["END"]
    }  # fmt: skip
    assert (version.manifest.tags, version.manifest.notes) == (("tone=brief",), "fine")
    _, shown, _ = run("show support@v2")
    assert "system=Be brief., " in shown
    assert "temperature=0.2" in shown
    _, listed, _ = run("list support")
    assert "support@v2" in listed


def test_new_says_what_is_wrong(run: Run, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "shots.jsonl").write_text('{"prompt": "Hi"}\n')
    for line, code, said in (
        ("prompt new support --on support@v1 --set temprature=1", 2, "Did you mean temperature"),
        ("prompt new support --on support@v1 --set temperature", 2, "sets nothing"),
        ("prompt new support --on support@v1", 4, "changes nothing"),
        ("prompt new support --set top_k=1", 2, "a base or on a version"),
        (f"prompt new support --on support@v1 --shots {tmp_path}/shots.jsonl", 4, "jsonl:1"),
        (f"prompt new support --on support@v1 --system-file {tmp_path}/none", 2, "cannot be read"),
    ):
        assert (run(line)[0], said in run(line)[2]) == (code, True), run(line)[2]
    assert [version.number for version in registry.versions("support")] == [1]


def test_lint_says_that_there_is_nothing_to_fit(run: Run, registry: Registry) -> None:
    version = publish_prompt(registry, "terse", BRIEF, on="support@v1")
    assert run("lint terse@v1")[:2] == (0, "Servable: it has no weights.\n")
    file = version.path / "serving.json"
    file.chmod(0o644)
    file.write_text('{"sistem": "Be brief."}')
    code, said, _ = run("lint terse@v1")
    assert (code, "Did you mean system" in said) == (4, True)
    code, said, _ = run("verify terse@v1")
    assert (code, "serving.json was changed" in said) == (4, True)


def test_settings_are_json_or_else_text() -> None:
    assert read_settings(["a=0.5", 'b={"c": true}', "stop=END", "e="]) == {
        "a": 0.5, "b": {"c": True}, "stop": "END", "e": ""
    }  # fmt: skip


@pytest.mark.parametrize("row", ["[]", '{"messages": 1}', "{", '{"prompt": "x", "answer": "y"}'])
def test_shots_of_another_form_are_refused(row: str, tmp_path: Path) -> None:
    (tmp_path / "shots.jsonl").write_text(f"\n{row}\n")
    with pytest.raises(InvalidDataset, match=r"shots\.jsonl:2"):
        read_shots(tmp_path / "shots.jsonl")


def test_merging_needs_weights(run: Run, registry: Registry) -> None:
    publish_prompt(registry, "terse", BRIEF, on="support@v1")
    code, _, said = run("merge support@v1 terse@v1 --name both")
    assert code == 4
    assert "terse@v1 has no weights" in said


def test_a_retired_ground_is_said(house: Retention) -> None:
    house.retire("support@v1")
    house.retire("support@v2")
    with pytest.raises(Retired):
        over(house, "support")
