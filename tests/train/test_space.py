"""A recipe with ranges: read as Optuna has them, and all that they may give is checked first."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from adapters.errors import UsageError
from train.recipe import ALL_LINEAR
from train.space import Space, read_space


def space(tmp_path: Path, text: str, **flags: object) -> Space:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_space(path, flags)


def test_every_kind_of_range_gives_recipes(tmp_path: Path) -> None:
    read = space(
        tmp_path,
        "learning_rate: {low: 1e-5, high: 1e-3, log: true}\n"
        "max_steps: {low: 10, high: 30, step: 10}\n"
        "use_rslora: {choices: [true, false]}\n"
        "target_modules: {choices: [[q_proj, v_proj], all-linear]}\n"
        "lora_dropout: {low: 0, high: 0.1}\n"
        "r: 8\n",
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    recipes = []
    for _ in range(32):
        trial = study.ask()
        recipes.append(read.recipe(read.suggest(trial)))
        assert read.suggest(trial) == trial.params, "asked again, the same"
    assert {recipe.r for recipe in recipes} == {8}
    assert {recipe.max_steps for recipe in recipes} == {10, 20, 30}
    assert {recipe.target_modules for recipe in recipes} == {("q_proj", "v_proj"), ALL_LINEAR}
    assert {recipe.use_rslora for recipe in recipes} == {True, False}
    rates = [recipe.learning_rate for recipe in recipes]
    assert min(rates) < 1e-4 < max(rates)
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    assert all(0 <= recipe.lora_dropout <= 0.1 for recipe in recipes)


def test_a_flag_wins_over_a_range_and_over_a_value(tmp_path: Path) -> None:
    text = "r: {choices: [4, 8]}\nlora_alpha: {low: 1, high: 9}\nmax_steps: 3\n"
    read = space(tmp_path, text, lora_alpha=5.0, max_steps=7)
    assert set(read.ranges) == {"r"}
    recipe = read.recipe({"r": 4})
    assert (recipe.r, recipe.lora_alpha, recipe.max_steps) == (4, 5.0, 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("r: 8\n", "holds no range"),
        ("lerning_rate: {low: 1e-5, high: 1e-3}\n", "Did you mean learning_rate"),
        ("r: {choices: [8]}\nlora_alfa: 8\n", "Did you mean lora_alpha"),
        ("r: {low: 8, hihg: 16}\n", "Did you mean high"),
        ("r: {low: 8}\n", "Write low and high"),
        ("r: {low: 8, high: 16, choices: [8]}\n", "no 'low'"),
        ("r: {low: 16, high: 8}\n", "low"),
        ("r: {low: 8.5, high: 16}\n", "int"),
        ("r: {low: 8, high: 1024}\n", "1 to 512"),
        ("r: {choices: [8, 1024]}\n", "1 to 512"),
        ("r: {choices: []}\n", "choices: [8, 16]"),
        ("r: {choices: [many]}\n", "int"),
        ("r: {low: 8, high: 16, log: 1}\n", "log: true"),
        ("learning_rate: {low: 0, high: 1e-3, log: true}\n", "learning_rate"),
        ("learning_rate: {low: 1e-5, high: 1e-3, log: true, step: 1e-5}\n", "step"),
        ("use_rslora: {low: 0, high: 1}\n", "choices: [...]"),
        ("beta: {low: 0.1, high: 0.5}\n", "dpo or kto or grpo or rloo"),
        ("method: {choices: [sft, dpo]}\n", "compared on the same rows"),
        ("max_length: {choices: [512, 1024]}\n", "compared on the same rows"),
        ("seed: {low: 0, high: 9}\n", "compared on the same rows"),
        ("method: grpo\nreward: {choices: [[exact_match]]}\n", "cannot be a range"),
    ],
)
def test_a_range_that_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        space(tmp_path, text)
    assert said in str(refused.value)
