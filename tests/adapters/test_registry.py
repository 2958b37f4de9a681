"""The registry's verbs: what refs mean, how aliases move, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.errors import Conflict, InvalidAdapter, InvalidName, NotFound, Rejected, UsageError
from adapters.experiments import Arm
from adapters.registry import Registry
from adapters.types import Ref
from tests.conftest import BASE, LLAMA, MakeAdapter, lora_tensors

HALVES = (Arm("v1", 1, 50), Arm("v2", 2, 50))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(tmp_path / "registry")


@pytest.fixture
def support(registry: Registry, make_adapter: MakeAdapter) -> Registry:
    """A registry with `support@v1` to `v3`, each of its own content."""
    for seed in (1, 2, 3):
        registry.publish("support", make_adapter(seed=seed), base=BASE)
    return registry


# -- publishing -------------------------------------------------------------------------------


def test_a_version_says_where_it_came_from(registry: Registry, adapter_folder: Path) -> None:
    (adapter_folder / "serving.json").write_text('{"stop": "\\n"}')
    published = registry.publish(
        "support",
        adapter_folder,
        base=BASE,
        recipe={"r": 4, "learning_rate": 2e-4},
        dataset={"train_rows": 90},
        metrics={"eval_loss": 0.25},
        code={"torch": "2.13"},
        parents=["support@v1+000000000000"],
        tags=["first"],
        notes="süß",
    )
    reread = Registry.open(registry.location).resolve("support@v1")
    assert reread == published
    manifest = reread.manifest
    assert (manifest.name, manifest.version, manifest.base) == ("support", 1, BASE)
    assert manifest.recipe == {"r": 4, "learning_rate": 2e-4}
    assert (manifest.dataset, manifest.metrics) == ({"train_rows": 90}, {"eval_loss": 0.25})
    assert manifest.code["torch"] == "2.13"
    assert "lora-switchyard" in manifest.code
    assert manifest.parents == ("support@v1+000000000000",)
    assert (manifest.serving, manifest.tags, manifest.notes) == (
        {"stop": ["\n"]},
        ("first",),
        "süß",
    )
    tensors = lora_tensors(0)
    assert manifest.peft["r"] == 4
    assert manifest.peft["num_parameters"] == sum(values.size for values in tensors.values())
    assert manifest.lint == {
        "passed": True,
        "modules": len(tensors) // 2,
        "matched": None,
        "max_lora_rank": 8,
        "findings": [],
        "warnings": [],
    }
    assert reread.engine_name == f"support@v1+{manifest.digest[:12]}"


def test_the_same_content_has_the_same_digest(
    registry: Registry, make_adapter: MakeAdapter
) -> None:
    first, again, other = (
        registry.publish(name, make_adapter(seed=seed), base=BASE).manifest.digest
        for name, seed in (("support", 1), ("tone", 1), ("support", 2))
    )
    assert first == again != other


def test_a_published_folder_can_be_published_again(support: Registry) -> None:
    original = support.resolve("support@v2")
    copy = support.publish("tone", original.path, base=BASE)
    assert (copy.ref, copy.manifest.digest) == ("tone@v1", original.manifest.digest)


@pytest.mark.parametrize(
    "lineage",
    [
        {"metrics": {"eval_loss": float("nan")}},
        {"recipe": {"path": Path("/tmp")}},
        {"notes": "\ud800"},
    ],
)
def test_lineage_that_json_cannot_hold_is_refused(
    registry: Registry, adapter_folder: Path, lineage: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="JSON"):
        registry.publish("support", adapter_folder, base=BASE, **lineage)  # type: ignore[arg-type]
    assert registry.names() == []


def test_names_that_are_none_reach_no_path(registry: Registry, adapter_folder: Path) -> None:
    for name in ("../x", "", "A", "a/b", "a\n"):
        with pytest.raises(InvalidName):
            registry.publish(name, adapter_folder, base=BASE)
        for verb in (registry.versions, registry.aliases, registry.log, registry.experiment):
            with pytest.raises(InvalidName):
                verb(name)
        with pytest.raises(InvalidName):
            registry.resolve(Ref(name))
        with pytest.raises(InvalidName):
            registry.rollback(name)
    assert not Path(registry.location).exists()


def test_a_base_that_is_known_is_compared(
    registry: Registry, adapter_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    registry.publish("support", adapter_folder, base=BASE, base_path=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "hidden_size": 64}))
    with pytest.raises(InvalidAdapter, match=r"Train on this base, or name the right one\."):
        registry.publish("support", adapter_folder, base=BASE, base_path=tmp_path)
    with pytest.raises(Rejected, match=r"config\.json cannot be read"):
        registry.publish("support", adapter_folder, base=BASE, base_path=tmp_path / "none")
    assert [version.number for version in registry.versions("support")] == [1]


# -- refs -------------------------------------------------------------------------------------


def test_what_each_form_of_a_ref_means(support: Registry) -> None:
    support.promote("support@v2", "canary")
    digest = support.resolve("support@v1").manifest.digest
    engine_name = support.resolve("support@v2").engine_name
    meant = {
        "support": 3,
        "support@latest": 3,
        "support@v1": 1,
        "support@canary": 2,
        f"support@sha256:{digest}": 1,
        f"support@sha256:{digest[:8]}": 1,
        engine_name: 2,
    }
    assert {ref: support.resolve(ref).number for ref in meant} == meant


def test_a_bare_name_means_production_once_there_is_one(
    support: Registry, adapter_folder: Path
) -> None:
    support.promote("support@v1")
    assert support.resolve("support").number == 1
    support.publish("support", adapter_folder, base=BASE)
    assert support.resolve("support").number == 1, "a publication moves nothing"
    assert support.resolve("support@latest").number == 4


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("suport", "Did you mean support?"),
        ("support@v4", "does not exist"),
        ("support@prod", "has no alias"),
        ("support@produktion", "Did you mean production?"),
        ("support@sha256:ffff00", "No version is"),
        ("support@v1+000000000000", "No version is"),
        ("support@v9+000000000000", "No version is"),
    ],
)
def test_a_ref_to_nothing_names_what_there_is(support: Registry, ref: str, said: str) -> None:
    support.promote("support@v1")
    with pytest.raises(NotFound) as refused:
        support.resolve(ref)
    assert said in str(refused.value)


def test_an_engine_name_with_another_versions_digest_is_not_found(support: Registry) -> None:
    first, second = support.resolve("support@v1"), support.resolve("support@v2")
    with pytest.raises(NotFound):
        support.resolve(f"{first.ref}+{second.manifest.digest[:12]}")


def test_a_digest_that_several_versions_begin_with(
    registry: Registry, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = iter(["abcd" + "0" * 60, "abcd" + "1" * 60, "abcd" + "1" * 60])
    monkeypatch.setattr("adapters.verbs.publishing.digest", lambda files: next(digests))
    for seed in (1, 2, 2):
        registry.publish("support", make_adapter(seed=seed), base=BASE)
    with pytest.raises(UsageError, match="means several versions"):
        registry.resolve("support@sha256:abcd")
    assert registry.resolve("support@sha256:abcd0").number == 1
    assert registry.resolve("support@sha256:abcd1").number == 3, "one content: its last version"


def test_an_empty_registry_says_what_to_do(registry: Registry) -> None:
    with pytest.raises(NotFound, match="adapters train"):
        registry.resolve("support")


def test_where_a_registry_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADAPTERS_HOME", str(tmp_path / "by-home"))
    assert Registry.open().location == str(tmp_path / "by-home")
    monkeypatch.setenv("ADAPTERS_REGISTRY", str(tmp_path / "by-registry"))
    assert Registry.open().location == str(tmp_path / "by-registry")
    assert Registry.open(tmp_path / "named").location == str(tmp_path / "named")
    monkeypatch.delenv("ADAPTERS_HOME")
    monkeypatch.delenv("ADAPTERS_REGISTRY")
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    assert Registry.open().location == str(tmp_path / "person" / ".adapters")
    with pytest.raises(UsageError, match="No registry backend for s3"):
        Registry.open("s3://bucket/registry")


# -- aliases ----------------------------------------------------------------------------------


def test_rollback_goes_back_step_by_step_and_never_undoes_itself(support: Registry) -> None:
    for number in (1, 2, 3):
        support.promote(f"support@v{number}")
    assert support.rollback("support").to_version == 2
    assert support.rollback("support").to_version == 1
    support.promote("support@v3")
    assert support.rollback("support").to_version == 1
    support.promote("support@v2")
    support.promote("support@v3")
    assert support.rollback("support", steps=2).to_version == 1
    assert support.resolve("support@production").number == 1
    with pytest.raises(NotFound, match=r"cannot go back 1 step\(s\), only 0"):
        support.rollback("support")
    with pytest.raises(UsageError, match="Use --steps 1 or more"):
        support.rollback("support", steps=0)


def test_promoting_what_is_there_already_is_nothing_to_go_back_to(support: Registry) -> None:
    for number in (1, 2, 2):
        support.promote(f"support@v{number}")
    assert support.rollback("support").to_version == 1


def test_a_rollback_never_points_at_a_deleted_version(support: Registry) -> None:
    support.promote("support@v1")
    support.promote("support@v2")
    gone = support.resolve("support@v1").path
    gone.chmod(0o755)
    (gone / "tombstone.json").write_text("{}")
    (gone / "manifest.json").unlink()
    with pytest.raises(NotFound, match="was deleted"):
        support.rollback("support")
    assert support.resolve("support").number == 2
    assert [version.number for version in support.versions("support")] == [2, 3]


def test_an_alias_that_was_never_promoted(support: Registry) -> None:
    with pytest.raises(NotFound, match="has no alias 'production'"):
        support.rollback("support")
    assert support.history("support") == []
    assert support.aliases("support") == {}


@pytest.mark.parametrize("alias", ["latest", "base", "v1", "v0", "../x", ""])
def test_words_that_mean_something_else_are_no_aliases(support: Registry, alias: str) -> None:
    with pytest.raises(InvalidName):
        support.promote("support@v1", alias)
    assert support.aliases("support") == {}


def test_promotion_only_from_what_was_seen(support: Registry) -> None:
    with pytest.raises(Conflict, match="points nowhere, not at v1"):
        support.promote("support@v2", if_current=1)
    support.promote("support@v1")
    assert support.promote("support@v2", if_current=1).from_version == 1
    with pytest.raises(Conflict, match="points at v2, not at v1"):
        support.promote("support@v3", if_current=1)
    assert [move.to_version for move in support.history("support")] == [1, 2]


def test_a_move_says_who_when_and_why(support: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERS_ACTOR", "ci")
    evidence = {"exact_match": 0.93}
    support.promote("support@v1")
    move = support.promote("support@v2", reason="better", evidence=evidence)
    assert (move.from_version, move.to_version, move.action) == (1, 2, "promote")
    assert (move.actor, move.reason, move.evidence) == ("ci", "better", evidence)
    assert move.time.endswith("+00:00")
    assert support.history("support")[-1] == move


def test_the_log_is_complete_and_in_order(support: Registry) -> None:
    support.promote("support@v1")
    support.promote("support@v2", "canary")
    support.promote("support@v2")
    support.rollback("support")
    support.start_experiment("support", HALVES)
    support.stop_experiment("support")
    assert [(e.action, e.version, e.alias) for e in support.log("support")] == [
        ("publish", 1, None),
        ("publish", 2, None),
        ("publish", 3, None),
        ("promote", 1, "production"),
        ("promote", 2, "canary"),
        ("promote", 2, "production"),
        ("rollback", 1, "production"),
        ("experiment running", None, None),
        ("experiment stopped", None, None),
    ]


PROMOTER = """
import sys
from adapters.registry import Registry
registry = Registry.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for turn in range(12):
    registry.promote(f"support@v{turn % 3 + 1}", reason=f"{sys.argv[2]} {turn}")
"""


def test_promotions_from_many_processes_lose_no_line(support: Registry) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTER, support.location, str(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for writer in range(4)
    ]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:  # all at once
        assert process.stdin
        process.stdin.close()
    assert [process.wait() for process in processes] == [0] * 4
    moves = support.history("support")
    assert sorted(move.reason for move in moves) == sorted(
        f"{writer} {turn}" for writer in range(4) for turn in range(12)
    )
    pointed = None
    for move in moves:  # each move says truly what stood there before
        assert move.from_version == pointed
        pointed = move.to_version
    assert support.aliases("support") == {"production": pointed}
    assert [entry.action for entry in support.log("support")].count("promote") == len(moves)


# -- experiments ------------------------------------------------------------------------------


def test_an_experiment_starts_runs_and_stops(support: Registry) -> None:
    assert support.experiment("support") is None
    started = support.start_experiment("support", HALVES, reason="tone")
    assert (started.experiment, started.number, started.status) == ("ab-1", 1, "running")
    assert Registry.open(support.location).experiment("support") == started
    stopped = support.stop_experiment("support", reason="enough")
    assert (stopped.number, stopped.status, stopped.salt) == (2, "stopped", started.salt)
    assert support.experiment("support") is None
    again = support.start_experiment("support", HALVES)
    assert again.experiment == "ab-2"
    assert again.salt != started.salt


def test_one_experiment_at_a_time(support: Registry) -> None:
    support.start_experiment("support", HALVES, experiment="tone")
    with pytest.raises(Conflict, match="tone is running"):
        support.start_experiment("support", HALVES)
    support.stop_experiment("support")
    with pytest.raises(NotFound, match="No experiment is running"):
        support.stop_experiment("support")
    with pytest.raises(Conflict, match="had an experiment tone"):
        support.start_experiment("support", HALVES, experiment="tone")


def test_an_experiment_is_ramped_paused_and_goes_on(support: Registry) -> None:
    started = support.start_experiment("support", HALVES)
    ramped = support.ramp_experiment("support", {"v1": 25, "v2": 75}, reason="v2 does well")
    assert [(arm.name, arm.weight) for arm in ramped.arms] == [("v1", 25), ("v2", 75)]
    with pytest.raises(Conflict, match="running already"):
        support.resume_experiment("support")
    paused = support.pause_experiment("support")
    assert support.experiment("support") == paused
    with pytest.raises(Conflict, match="paused already"):
        support.pause_experiment("support")
    with pytest.raises(Conflict, match="ab-1 is paused"):
        support.start_experiment("support", HALVES)
    resumed = support.resume_experiment("support")
    assert {each.salt for each in (ramped, paused, resumed)} == {started.salt}
    assert resumed.arms == ramped.arms
    stopped = support.stop_experiment("support")
    (phases,) = support.experiments("support")
    assert phases == [started, ramped, paused, resumed, stopped]
    assert [each.number for each in phases] == [1, 2, 3, 4, 5]
    for change in (support.pause_experiment, support.resume_experiment):
        with pytest.raises(NotFound, match="No experiment is running"):
            change("support")


@pytest.mark.parametrize("shares", [{}, {"v1": 1}, {"v1": 1, "v3": 1}, {"v1": 0, "v2": 1}])
def test_a_ramp_names_every_arm_and_leaves_it_something(
    support: Registry, shares: dict[str, float]
) -> None:
    started = support.start_experiment("support", HALVES)
    with pytest.raises(UsageError):
        support.ramp_experiment("support", shares)
    assert support.experiment("support") == started


def test_a_name_nobody_chose_is_never_taken(support: Registry) -> None:
    support.start_experiment("support", HALVES, experiment="ab-2")
    support.stop_experiment("support")
    names = []
    for _ in range(2):
        names.append(support.start_experiment("support", HALVES).experiment)
        support.stop_experiment("support")
    assert names == ["ab-1", "ab-3"]


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ((), "two arms"),
        ((Arm("v1", 1, 50),), "two arms"),
        ((Arm("v1", 1, 50), Arm("v1", 2, 50)), "one name"),
        ((Arm("v1", 1, 0), Arm("v2", 2, 50)), "weight"),
        ((Arm("v1", 1, -1), Arm("v2", 2, 50)), "weight"),
        ((Arm("v1", 1, float("nan")), Arm("v2", 2, 50)), "weight"),
        ((Arm("v1", 1, float("inf")), Arm("v2", 2, 50)), "weight"),
        ((Arm("base", 1, 50), Arm("v2", 2, 50)), "names no version"),
        ((Arm("v1", None, 50), Arm("v2", 2, 50)), "names no version"),
        ((Arm("v1\r\nset-cookie: x", 1, 50), Arm("v2", 2, 50)), "not an adapter name"),
        ((Arm("v1", 1, 50), Arm("v9", 9, 50)), "does not exist"),
    ],
)
def test_arms_that_cannot_be_meant(support: Registry, arms: tuple[Arm, ...], said: str) -> None:
    with pytest.raises((UsageError, NotFound)) as refused:
        support.start_experiment("support", arms)
    assert said in str(refused.value)
    assert support.experiment("support") is None


# -- verification -----------------------------------------------------------------------------


def test_verify_finds_every_change(support: Registry) -> None:
    assert support.verify("support@v1") == support.resolve("support@v1")
    folder = support.resolve("support@v1").path
    folder.chmod(0o755)
    weights = folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    (folder / "more.txt").write_text("")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(InvalidAdapter) as found:
        support.verify("support@v1")
    for said in (
        "adapter_model.safetensors was changed",
        "more.txt was added",
        "adapter_config.json is missing",
    ):
        assert said in str(found.value)
    assert support.verify("support@v2").number == 2


def test_verify_trusts_no_link(support: Registry, tmp_path: Path) -> None:
    folder = support.resolve("support@v1").path
    config = folder / "adapter_config.json"
    (tmp_path / "elsewhere.json").write_bytes(config.read_bytes())
    folder.chmod(0o755)
    config.unlink()
    config.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InvalidAdapter, match=r"adapter_config\.json is not a plain file"):
        support.verify("support@v1")


def test_verify_finds_a_manifest_that_lists_other_files(support: Registry) -> None:
    path = support.resolve("support@v1").path / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["digest"] = "0" * 64
    path.chmod(0o644)
    path.write_text(json.dumps(manifest))
    with pytest.raises(InvalidAdapter, match=r"manifest\.json was changed"):
        Registry.open(support.location).verify("support@v1")
