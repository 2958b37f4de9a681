"""One place for defaults; unknown keys are refused; flags win over the file."""

from __future__ import annotations

import inspect
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
        ("tuner: dora\n", "qlora"),
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
    from peft import LoraConfig
    from trl import SFTConfig

    ours = {"method", "tuner", *ROW_KEYS}
    theirs = {*inspect.signature(LoraConfig).parameters, *inspect.signature(SFTConfig).parameters}
    assert keys().keys() - ours <= theirs
