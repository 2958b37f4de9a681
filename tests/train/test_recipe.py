"""One place for defaults; unknown keys are refused; flags win over the file."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path

import pytest

from adapters.cli.train import train
from adapters.errors import UsageError
from train.recipe import ROW_KEYS, Recipe, keys, read_recipe


def recipe(tmp_path: Path, text: str, **flags: object) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_recipe(path, flags)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    read = recipe(tmp_path, "r: 8\nlora_alpha: 64\n", r=4)
    assert (read.r, read.lora_alpha, read.max_length) == (4, 64, Recipe().max_length)


def test_scientific_notation_that_yaml_reads_as_text(tmp_path: Path) -> None:
    assert recipe(tmp_path, "learning_rate: 3e-4\n").learning_rate == 3e-4


def test_target_modules_as_a_list_or_with_commas(tmp_path: Path) -> None:
    wanted = ("q_proj", "v_proj")
    assert recipe(tmp_path, "target_modules: [q_proj, v_proj]\n").target_modules == wanted
    assert recipe(tmp_path, "", target_modules="q_proj, v_proj").target_modules == wanted
    assert recipe(tmp_path, "target_modules: all-linear\n").target_modules == "all-linear"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lerning_rate: 1e-4\n", "Did you mean learning_rate"),
        ("r: many\n", "int"),
        ("r: true\n", "int"),
        ("r: 0\n", "1 to 512"),
        ("tuner: ia3\n", "--tuner dora"),
        ("tuner: full\nr: 8\n", "does not use r"),
        ("target_modules: all\n", "--tuner full"),
        ("method: ppo\n", "dpo"),
        ("beta: 0.1\n", "dpo or kto or grpo or rloo"),
        ("method: kto\nloss_type: sigmoid\n", "kto or apo_zero_unpaired"),
        ("method: grpo\nreward_weights: [much]\n", "float"),
        ("test_size: 0.9\n", "0 to 0.5"),
        ("- a\n", "KEY: VALUE"),
        ("r: [\n", "cannot be read"),
    ],
)
def test_a_recipe_that_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        recipe(tmp_path, text)
    assert said in str(refused.value)


def test_a_missing_recipe_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml cannot be read"):
        read_recipe(tmp_path / "none.yaml", {})


def test_every_recipe_key_is_a_flag_of_the_command() -> None:
    assert keys().keys() <= set(inspect.signature(train).parameters)


def test_keys_are_the_libraries_own_names() -> None:
    import trl
    from peft import LoraConfig
    from transformers import GenerationConfig

    ours = {"method", "tuner", "reward", "early_stopping_patience", "max_loss_spike", *ROW_KEYS}
    ours |= {"num_processes"}  # of accelerate
    ours |= {
        "convert_rank",
        "loraplus_lr_ratio",
    }  # of PEFT: convert_to_lora, create_loraplus_optimizer
    ours |= {"generate_eval", "max_predict_samples"}  # as in transformers' example scripts
    configs = ("SFTConfig", "DPOConfig", "KTOConfig", "GRPOConfig", "RLOOConfig", "RewardConfig")
    theirs = {key for name in configs for key in inspect.signature(getattr(trl, name)).parameters}
    theirs |= {*inspect.signature(LoraConfig).parameters, *GenerationConfig().to_dict()}
    assert keys().keys() - ours <= theirs


@pytest.mark.parametrize("name", [name for name, (_, key) in keys().items() if key.methods])
def test_a_key_is_taken_by_the_methods_that_use_it_and_by_no_other(name: str) -> None:
    used = keys()[name][1].methods
    for method in typing.get_args(keys()["method"][0]):
        if method in used:
            assert getattr(Recipe(method=method), name) == used[method]
        else:
            some = next(iter(used.values()))
            with pytest.raises(UsageError, match=f"--method {method} does not use {name}"):
                Recipe(method=method, **{name: some})


def test_losses_and_defaults_are_those_of_trl() -> None:
    """Where ours differ on purpose, they are not in this list."""
    import trl

    configs = {"dpo": trl.DPOConfig, "kto": trl.KTOConfig, "grpo": trl.GRPOConfig}
    configs |= {"rloo": trl.RLOOConfig, "reward": trl.RewardConfig}
    others = {"learning_rate", "train_sampling_strategy", "max_loss_spike"}
    others |= {"reward", "reward_weights"}
    others |= {"generate_eval", "max_new_tokens", "max_predict_samples"}  # no trainer's
    for name, (_, key) in keys().items():
        for method, default in key.methods.items():
            if method in configs and name not in others:
                theirs = configs[method].__dataclass_fields__[name]
                value = (
                    theirs.default_factory() if name == "loss_type" and method == "dpo" else None
                )
                assert default == (value[0] if value else theirs.default or 0.0), (method, name)


def test_several_rewards_in_a_file_and_one_alone(tmp_path: Path) -> None:
    text = "method: grpo\nreward: [exact_match, 'length:1-9']\nreward_weights: [1, 0.5]\n"
    read = recipe(tmp_path, text)
    assert (read.reward, read.reward_weights) == (("exact_match", "length:1-9"), (1.0, 0.5))
    assert recipe(tmp_path, "method: rloo\nreward: exact_match\n").reward == ("exact_match",)
    assert recipe(tmp_path, "", method="rloo", reward=["a.py:b"]).reward == ("a.py:b",)
