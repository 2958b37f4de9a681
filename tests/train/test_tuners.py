"""What learns, by every tuner, and what comes out: plain LoRA, or a model that is a base."""

from __future__ import annotations

import errno
import json
import shutil
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from adapters import bases
from adapters.cli import main
from adapters.errors import Rejected, UsageError
from adapters.files import WEIGHTS_FILE
from adapters.lint import check_folder, read_base_config
from adapters.registry import Registry
from adapters.types import Version
from tests.train import methods
from tests.train.runs import support_rows
from train import plain, tuners
from train.full import place, write_weights
from train.recipe import CONVERTED, LOW_RANK, TUNERS, Recipe, keys
from train.run import Job, run, run_full
from train.unservable import _NOT_SERVED

TINY = bases.resolve("tiny").path
BRIEF: dict[str, Any] = {"max_steps": 4, "r": 8, "lora_alpha": 16.0, "learning_rate": 3e-3}
HELD_OUT = 0.2
TOKENS = torch.tensor([[5, 77, 431, 12, 90, 1033, 7]])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return support_rows(tmp_path_factory.mktemp("dataset"), 48)


def base_model(folder: Path = TINY) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.inference_mode()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=TOKENS).logits


def served(folder: Path) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(base_model(), folder))


# -- recipes --------------------------------------------------------------------------------------

SOME = {"r": 8, "lora_alpha": 8.0, "lora_dropout": 0.1, "use_rslora": True, "convert_rank": 8}
SOME |= {"loraplus_lr_ratio": 16.0, "target_modules": ("q_proj",)}


@pytest.mark.parametrize("name", [name for name, (_, key) in keys().items() if key.tuners])
def test_a_key_is_taken_by_the_tuners_that_use_it_and_by_no_other(name: str) -> None:
    used = keys()[name][1].tuners
    for tuner in TUNERS:
        assert getattr(Recipe(tuner=tuner), name) == used.get(tuner)
        if tuner in used:
            assert getattr(Recipe(tuner=tuner, **{name: SOME[name]}), name) == SOME[name]
        else:
            with pytest.raises(UsageError, match=f"--tuner {tuner} does not use {name}"):
                Recipe(tuner=tuner, **{name: SOME[name]})


def test_full_fine_tuning_has_a_tenth_of_the_learning_rate() -> None:
    for method in typing.get_args(keys()["method"][0]):
        if method != "reward":
            full, lora = Recipe(method=method, tuner="full"), Recipe(method=method)
            assert full.learning_rate == pytest.approx(lora.learning_rate / 10)


@pytest.mark.parametrize(
    ("tuner", "said"),
    [
        ("prefix-tuning", "tokens before the prompt.*--tuner lora"),
        ("PROMPT_TUNING", "tokens before the prompt.*--tuner lora"),
        ("ia3", "scales activations.*--tuner dora"),
        ("LoHa", "factors of its own form.*--tuner lora"),
        ("bottleneck", "layers of its own.*--tuner lora"),
        ("qpissa", "--tuner pissa"),
        ("lora+", "--loraplus-lr-ratio"),
        ("rslora", "--use-rslora"),
        ("qlorra", "Did you mean qlora"),
    ],
)
def test_what_is_not_served_is_refused_with_the_nearest_choice(tuner: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Recipe(tuner=tuner)


def test_what_peft_can_do_beside_lora_is_known_by_name() -> None:
    from peft import PeftType

    kinds = {kind.value.replace("_", "").lower() for kind in PeftType}
    assert kinds - {"lora"} <= set(_NOT_SERVED)


def test_where_the_outcome_goes_is_said_once(dataset: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    registry = Registry.open(tmp_path)
    full = Recipe(tuner="full")
    with pytest.raises(UsageError, match="--output-dir DIR instead of --name"):
        run_full(Job(dataset, "tiny", "support", full, output_dir=folder))
    with pytest.raises(UsageError, match="--output-dir"):
        run_full(Job(dataset, "tiny", None, full))
    with pytest.raises(UsageError, match="--tag"):
        run_full(Job(dataset, "tiny", None, full, output_dir=folder, tags=["a"]))
    with pytest.raises(UsageError, match="--name"):
        run(Job(dataset, "tiny", None, Recipe()), registry)
    with pytest.raises(UsageError, match="instead of --output-dir"):
        run(Job(dataset, "tiny", "support", Recipe(), output_dir=folder), registry)


# -- adapters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuner", LOW_RANK)
def test_every_tuner_publishes_what_can_be_served(tuner: str, dataset: str, tmp_path: Path) -> None:
    modules = ("q_proj", "down_proj")
    recipe = Recipe(
        **BRIEF, tuner=tuner, use_rslora=True, target_modules=modules, test_size=HELD_OUT
    )
    version = run(Job(dataset, "tiny", "support", recipe), Registry.open(tmp_path))
    report = check_folder(version.path, read_base_config(TINY))
    assert not report.findings
    assert report.matched == 10
    metrics = version.manifest.metrics
    assert ("conversion_error" in metrics) == (tuner in CONVERTED)
    if tuner in ("pissa", "olora"):
        assert metrics["conversion_error"] < 1e-6
        assert version.manifest.peft["r"] == 16
    if tuner != "qlora" and tuner != "qdora":
        assert metrics["eval_loss"] == pytest.approx(eval_loss(version, dataset), rel=1e-4)


def eval_loss(version: Version, dataset: str) -> float:
    """Return the loss of a version on the rows that its run held out."""
    from train.before import load_tokenizer
    from train.prepare import prepare

    recipe = Recipe(**BRIEF, test_size=HELD_OUT)
    scratch = Path(dataset).parent / version.manifest.digest
    scratch.mkdir()
    rows = prepare(dataset, recipe, load_tokenizer(TINY), scratch).held_out
    assert rows
    model = PeftModel.from_pretrained(base_model(), version.path).eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for row in rows:
            ids, labels = (torch.tensor([row[side]]) for side in ("input_ids", "labels"))
            number = int((labels[:, 1:] != -100).sum())
            total += float(model(input_ids=ids, labels=labels).loss) * number
            count += number
    return total / count


def drawn(tuner: str, **options: Any) -> tuple[PeftModel, dict[str, plain.Factors], Recipe]:
    """Return an adapter that a tuner began and that was changed since, on the tiny base."""
    torch.manual_seed(0)
    recipe = Recipe(**BRIEF, tuner=tuner, use_rslora=True, **options)
    model = tuners.attach(tuners.load_base(TINY, recipe, torch.float32), recipe)
    if not recipe.quantised:
        torch.testing.assert_close(logits(model), logits(base_model()), rtol=1e-4, atol=1e-4)
    began = plain.beginning(model, recipe)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model, began, recipe


@pytest.mark.parametrize("tuner", CONVERTED)
def test_plain_lora_answers_as_what_was_trained(tuner: str, tmp_path: Path) -> None:
    exact = {} if tuner in ("pissa", "olora") else {"convert_rank": 192}
    model, began, recipe = drawn(tuner, **exact)
    trained = logits(model)
    assert (trained - logits(base_model())).abs().max() > 0.5
    error = plain.make_plain(model, began, recipe, tmp_path)["conversion_error"]
    assert error < 1e-5
    torch.testing.assert_close(logits(model), trained, rtol=1e-3, atol=1e-3)
    if not recipe.quantised:
        torch.testing.assert_close(served(tmp_path), trained, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tuner", ["dora", "pissa"])
def test_the_error_of_a_small_rank_is_that_of_the_weights(tuner: str, tmp_path: Path) -> None:
    model, began, recipe = drawn(tuner, convert_rank=4)
    there = dict(plain._layers(model))
    meant = {}
    for name, layer in there.items():
        if began:
            (a, b), (first_a, first_b) = plain._factors(layer), began[name]
            meant[name] = b @ a - first_b @ first_a
        else:
            meant[name] = plain._dora_delta(layer)
    error = plain.make_plain(model, began, recipe, tmp_path)["conversion_error"]
    made = PeftModel.from_pretrained(base_model(), tmp_path).get_base_model()
    lost = sum(
        float((made.get_submodule(name).get_delta_weight("default") - delta).square().sum())
        for name, delta in meant.items()
    )
    size = sum(float(delta.square().sum()) for delta in meant.values())
    assert 0.05 < error == pytest.approx((lost / size) ** 0.5, rel=1e-3)
    torch.testing.assert_close(logits(model), served(tmp_path), rtol=1e-3, atol=1e-3)


def test_the_reference_of_dpo_begins_as_the_base_does(tmp_path: Path) -> None:
    """TRL copies an adapter that begins with something, and PEFT would take it out again."""
    trainer, _ = methods.made("dpo", methods.preferences(8), tmp_path, tuner="pissa")
    torch.testing.assert_close(logits(trainer.model), logits(base_model()))
    trainer.model.set_adapter("ref")
    torch.testing.assert_close(logits(trainer.model), logits(base_model()))


def test_lora_plus_has_a_rate_of_its_own_for_b(tmp_path: Path) -> None:
    recipe = Recipe(tuner="lora", loraplus_lr_ratio=16.0, weight_decay=0.1, learning_rate=1e-4)
    trainer, _ = methods.made("sft", methods.sums()[:8], tmp_path, learning_rate=1e-4)
    tuners.set_rates(trainer, recipe)
    rates = {}
    for group in trainer.create_optimizer().param_groups:
        of = {id(parameter) for parameter in group["params"]}
        for name, parameter in trainer.model.named_parameters():
            if id(parameter) in of:
                rates.setdefault(name.split(".")[-3], set()).add(group["lr"])
                assert group["weight_decay"] == 0.1
    assert rates == {"lora_A": {1e-4}, "lora_B": {16e-4}}


def test_a_rank_that_the_base_has_not_is_refused_before_training() -> None:
    recipe = Recipe(tuner="pissa", r=128)
    with pytest.raises(UsageError, match="--r 64 or less"):
        tuners.attach(tuners.load_base(TINY, recipe, torch.float32), recipe)


class _Interrupt(TrainerCallback):  # type: ignore[misc]
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("tuner", ["dora", "pissa"])
def test_stopped_in_between_it_ends_with_the_same_bits(
    tuner: str, dataset: str, tmp_path: Path
) -> None:
    options = {"save_steps": 2, "loraplus_lr_ratio": 4.0, "full_determinism": True}
    recipe = Recipe(**BRIEF, tuner=tuner, **options)
    job = Job(dataset, "tiny", "support", recipe)
    whole = run(job, Registry.open(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        run(job, Registry.open(tmp_path / "stopped"), callbacks=[_Interrupt()])
    version = run(job, Registry.open(tmp_path / "stopped"))
    weights = [(each.path / WEIGHTS_FILE).read_bytes() for each in (whole, version)]
    assert weights[0] == weights[1]


# -- full models ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that has been done: its model lies in `output_dir`."""
    recipe = Recipe(tuner="full", max_steps=4, save_steps=2, target_modules="all-linear")
    folder = tmp_path_factory.mktemp("full") / "model"
    job = Job(dataset, "tiny", None, recipe, output_dir=folder)
    home = pytest.MonkeyPatch()
    home.setenv("ADAPTERS_HOME", str(folder.parent / "home"))
    run_full(job)
    home.undo()
    return job


def test_a_full_model_is_a_base_with_the_bases_own_files(full: Job, tmp_path: Path) -> None:
    folder = full.output_dir
    assert folder
    made, of = bases.resolve(str(folder)).model, bases.resolve("tiny").model
    assert made.revision != of.revision
    assert made.config_sha256 == of.config_sha256
    assert made.tokenizer_sha256 == of.tokenizer_sha256
    assert made.chat_template_sha256 == of.chat_template_sha256
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["base"]["revision"] == of.revision
    assert lineage["recipe"]["target_modules"] == "all-linear"
    assert lineage["dataset"]["rows"] == 48
    assert (folder / "data_receipt.json").is_file()
    (folder / "lineage.json").touch()
    recipe = Recipe(**BRIEF, tuner="lora")
    version = run(Job(full.dataset, str(folder), "support", recipe), Registry.open(tmp_path))
    assert version.manifest.base == made


def test_what_learns_of_a_full_model_are_its_target_modules(full: Job) -> None:
    before, after = (
        load_file(folder / "model.safetensors") for folder in (TINY, Path(str(full.output_dir)))
    )
    changed = {name for name in before if not torch.equal(before[name].float(), after[name])}
    assert changed == {name for name in before if "proj" in name}


def test_a_finished_full_run_is_not_repeated_and_nothing_is_overwritten(full: Job) -> None:
    folder = Path(str(full.output_dir))
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert run_full(full).path == folder
    for other in (
        replace(full, again=True),
        replace(full, recipe=replace(full.recipe, seed=1)),
        replace(full, output_dir=folder.parent),
    ):
        with pytest.raises(Rejected, match="exists"):
            run_full(other)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_full_run_goes_on_where_it_was_stopped(full: Job, tmp_path: Path) -> None:
    job = replace(full, output_dir=tmp_path / "model")
    with pytest.raises(KeyboardInterrupt):
        run_full(job, callbacks=[_Interrupt()])
    assert not (tmp_path / "model").exists()
    run_full(job)
    whole, gone_on = (Path(str(each.output_dir)) / "model.safetensors" for each in (full, job))
    assert whole.read_bytes() == gone_on.read_bytes()


def test_it_is_saved_in_the_bases_own_type_and_measured_so(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "base")
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "bfloat16"}))
    model = base_model(tmp_path / "base")
    for parameter in model.parameters():
        parameter.data += 1e-3 * torch.randn_like(parameter)
    write_weights(model, tmp_path / "base", tmp_path / "out")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    torch.testing.assert_close(logits(base_model(tmp_path / "out")), logits(model), rtol=0, atol=0)


def test_it_reaches_another_file_system_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = tmp_path / "adapter", tmp_path / "below" / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    rename = Path.rename

    def across(self: Path, to: Path) -> Path:
        if self == folder:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", across)
    assert place(folder, target, {"base": {}}).path == target
    assert {each.name for each in target.iterdir()} == {"config.json", "lineage.json"}
    assert [each.name for each in target.parent.iterdir()] == ["model"]
    with pytest.raises(Rejected, match="exists"):
        place(folder, target, {})


def test_the_command_says_where_the_model_lies(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    line = f"train {dataset} --base tiny --tuner full --max-steps 1 --output-dir {folder}"
    with pytest.raises(SystemExit) as refused:
        main([*line.split(), "--registry", str(tmp_path)])
    assert refused.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert not ended.value.code
    assert capsys.readouterr().out == f"{folder}\n"
