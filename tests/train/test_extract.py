"""A full fine-tune as an adapter: exact at full rank, measured at a small one, else refused."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapters import bases
from adapters.cli import main
from adapters.errors import Rejected
from adapters.registry import Registry
from train.extract import Extraction, _pairs, extract

TINY = bases.resolve("tiny").path
TOKENS = torch.tensor([[5, 77, 431, 12, 90, 1033, 7]])
Change = Callable[[dict[str, torch.Tensor]], object]


@torch.inference_mode()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=TOKENS).logits


def model_of(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def tuned(place: Path, change: Change) -> Path:
    """Write a model whose weights are the tiny base's, changed."""
    shutil.copytree(TINY, place, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = {name: v.float() for name, v in load_file(TINY / "model.safetensors").items()}
    change(weights)
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return place


def projections(weights: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    for name, value in weights.items():
        if "proj" in name:
            value += 0.1 * value.std() * torch.randn_like(value)


def taken(place: Path, r: int, registry: Path, *ignore: str) -> dict[str, float]:
    made = extract(Extraction("tiny", str(place), "support", r, ignore), Registry.open(registry))
    return dict(made.version.manifest.metrics)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tmp_path_factory.mktemp("tuned") / "model", projections)


def test_at_full_rank_it_answers_as_the_tuned_model(noisy: Path, tmp_path: Path) -> None:
    registry = Registry.open(tmp_path)
    made = extract(Extraction("tiny", str(noisy), "support", 192), registry)
    manifest = made.version.manifest
    assert manifest.metrics["extraction_error"] < 1e-5
    assert manifest.recipe["extract_revision"] == bases.resolve(str(noisy)).model.revision
    assert manifest.base == bases.resolve("tiny").model
    adapter = PeftModel.from_pretrained(model_of(TINY), made.version.path)
    answers = logits(model_of(noisy))
    assert (answers - logits(model_of(TINY))).abs().max() > 0.5
    torch.testing.assert_close(logits(adapter), answers, rtol=1e-3, atol=1e-3)


def test_the_error_of_a_small_rank_is_that_of_the_weights(noisy: Path, tmp_path: Path) -> None:
    made = extract(Extraction("tiny", str(noisy), "support", 8), Registry.open(tmp_path))
    merged = PeftModel.from_pretrained(model_of(TINY), made.version.path).merge_and_unload()
    before, meant, got = (model.state_dict() for model in (model_of(TINY), model_of(noisy), merged))
    lost = {each.tensor: each.error for each in made.carried}
    total = size = 0.0
    for module, error in lost.items():
        name = f"{module}.weight"
        apart = float((got[name] - meant[name]).square().sum())
        change = float((meant[name] - before[name]).square().sum())
        assert error == pytest.approx((apart / change) ** 0.5, rel=1e-2)
        total, size = total + apart, size + change
    metrics = made.version.manifest.metrics
    assert 0.5 < metrics["extraction_error"] == pytest.approx((total / size) ** 0.5, rel=1e-2)
    assert metrics["extraction_error_worst"] == max(lost.values())


def test_a_change_of_the_rank_is_found_exactly(tmp_path: Path) -> None:
    def low_rank(weights: dict[str, torch.Tensor]) -> None:
        torch.manual_seed(0)
        for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.4.mlp.down_proj.weight"):
            out, size_in = weights[name].shape
            weights[name] += 0.01 * torch.randn(out, 4) @ torch.randn(4, size_in)

    found = taken(tuned(tmp_path / "model", low_rank), 4, tmp_path)
    assert found["extraction_error"] < 1e-4
    assert found["left_out_change"] == 0.0


def embeddings(share: float) -> Change:
    def change(weights: dict[str, torch.Tensor]) -> None:
        projections(weights)
        weights["model.embed_tokens.weight"] *= 1 + share
        weights["model.norm.weight"] *= 1 + share / 2

    return change


def test_what_lora_does_not_carry_is_refused_unless_it_is_little(tmp_path: Path) -> None:
    little = tuned(tmp_path / "little", embeddings(0.005))
    assert taken(little, 8, tmp_path)["left_out_change"] == pytest.approx(0.005, rel=1e-2)
    much = tuned(tmp_path / "much", embeddings(0.05))
    with pytest.raises(Rejected, match=r"embed_tokens.weight changed by 5.0%, and 1 more") as no:
        taken(much, 8, tmp_path)
    assert "--ignore '*.embed_tokens.weight' --ignore '*.norm.weight'" in no.value.fix
    with pytest.raises(Rejected, match=r"model.norm.weight changed by 2.5%:"):
        taken(much, 8, tmp_path, "*.embed_tokens.weight")
    found = taken(much, 8, tmp_path, "*.embed_tokens.weight", "*.norm.weight")
    assert found["left_out_change"] == pytest.approx(0.05, rel=1e-2)
    with pytest.raises(Rejected, match=r"--ignore \*head"):
        taken(little, 8, tmp_path, "*head")


def larger(weights: dict[str, torch.Tensor]) -> None:
    old = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([old, old[:8]])


def infinite(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("inf")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: None, "changes no projection"),
        (larger, "embed_tokens.weight is"),
        (infinite, "NaN or infinity"),
        (lambda weights: weights.pop("model.norm.weight"), "Only one of the two has model.norm"),
    ],
)
def test_what_is_no_fine_tune_of_the_base(change: Change, said: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=said):
        taken(tuned(tmp_path / "model", change), 8, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("rms_norm_eps", 1e-3), ("quantization_config", {"quant_method": "x"})]
)
def test_models_that_compute_otherwise(key: str, value: object, tmp_path: Path) -> None:
    place = tuned(tmp_path / "model", projections)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(Rejected, match="quantised" if "quant" in key else key):
        taken(place, 8, tmp_path)


def test_sharded_and_untied_files_hold_the_same(noisy: Path, tmp_path: Path) -> None:
    model = model_of(noisy)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="2MB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
    (tmp_path / "sharded" / "model-of-another-run.safetensors").write_bytes(b"not read")
    untied = tuned(tmp_path / "untied", projections)
    weights = load_file(untied / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, untied / "model.safetensors", metadata={"format": "pt"})
    whole = {name: after for name, _, after in _pairs(TINY, noisy)}
    for place in (tmp_path / "sharded", untied):
        found = {name: after for name, _, after in _pairs(TINY, place)}
        assert set(found) - {"lm_head.weight"} == set(whole)
        assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_one_pair_of_tensors_is_held_at_a_time(noisy: Path) -> None:
    """Each is let go before the next is read, so no more than the largest ones are alive."""
    alive: list[weakref.ref[torch.Tensor]] = []
    for name, before, after in _pairs(TINY, noisy):
        assert sum(each() is not None for each in alive) <= 2, name
        alive += [weakref.ref(before), weakref.ref(after)]


def test_another_chat_template_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tuned(tmp_path / "model", projections)
    taken(place, 8, tmp_path)
    assert "chat template" not in capsys.readouterr().err
    (place / "chat_template.jinja").write_text("{{ messages[0].content }}")
    taken(place, 8, tmp_path)
    assert "the server renders by the base's" in capsys.readouterr().err


def test_the_command_says_what_it_cost(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"extract --base tiny --tuned {noisy} --r 8 --name support --registry {tmp_path}"
    with pytest.raises(SystemExit) as ended:
        main([*line.split(), "--json"])
    assert not ended.value.code
    assert len(json.loads(capsys.readouterr().out)["modules"]) == 35
    with pytest.raises(SystemExit):
        main(line.split())
    said = capsys.readouterr().out
    assert said.startswith("support@v2+")
    assert "relative error of the whole: 0." in said
    assert "and 30 more" in said
