"""docs/json.md is true: every command that has --json prints what stands there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import typer

from adapters.cli import app, main
from adapters.doctor import Finding
from adapters.home import home
from adapters.retention import Retention
from tests.adapters.test_ps import ROW
from tests.conftest import BASE, MakeAdapter
from tests.test_architecture import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
SHAPES = {
    command: json.loads(shape)
    for commands, shape in re.findall(r"```json ([^\n]+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for command in commands.split(", ")
}
TYPES: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "bool": lambda value: isinstance(value, bool),
    "time": lambda value: datetime.fromisoformat(value).utcoffset() is not None,
    "any": lambda value: True,
}


def misfits(value: Any, shape: Any, where: str = "$") -> list[str]:
    """Say where a value is not of a shape, or has keys that the shape does not know."""
    if isinstance(shape, str):
        nullable = shape.endswith("?") and value is None
        return [] if nullable or TYPES[shape.rstrip("?")](value) else [f"{where}: no {shape}"]
    if type(value) is not type(shape):
        return [f"{where}: no {type(shape).__name__}"]
    if isinstance(shape, list):
        return [m for n, each in enumerate(value) for m in misfits(each, shape[0], f"{where}[{n}]")]
    if "*" in shape:
        return [
            m for key, each in value.items() for m in misfits(each, shape["*"], f"{where}.{key}")
        ]
    keys = {key.rstrip("?"): key for key in shape}
    found = [f"{where}.{key}: in one only" for key in sorted(keys.keys() ^ value.keys())]
    for key in keys.keys() & value.keys():
        if value[key] is not None or not keys[key].endswith("?"):
            found += misfits(value[key], shape[keys[key]], f"{where}.{key}")
    return found


def options(path: tuple[str, ...]) -> set[str]:
    command: Any = typer.main.get_command(app)
    for name in path:
        command = command.get_command(typer.Context(command), name)
    return {option for parameter in command.params for option in parameter.opts}


@pytest.fixture
def house(make_adapter: MakeAdapter) -> Retention:
    """The registry that commands use when none is named: `support@v1` to `v5`."""
    house = Retention.open()
    for seed in range(5):
        house.publish(
            "support",
            make_adapter(seed=seed),
            base=BASE,
            metrics={"eval_loss": 1.0},
            recipe={"r": seed},
        )
    (home() / "runs" / "0123456789abcdef").mkdir(parents=True)
    house.promote("support@v1")
    house.promote("support@v2", reason="better")
    house.promote("support@v4", "canary")
    house.retire("support@v5", reason="curt")
    return house


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command line with --json; return what it printed."""

    def ask(line: str, *, exit_code: int = 0) -> Any:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*line.split(), "--json"])
        said = capsys.readouterr()
        assert int(ended.value.code or 0) == exit_code, said.err
        return json.loads(said.out)

    return ask


LINES = {
    "list": ["list", "list support", "list --tag none"],
    "show": ["show support", "show support@v5"],
    "log": ["log support"],
    "diff": ["diff support@v1 support@v2", "diff support@v1 support@v1"],
    "lint": ["lint support@v1"],
    "verify": ["verify --all", "verify support@v1"],
    "du": ["du"],
    "ab show": ["ab start support --arm v1=50 --arm base=50", "ab show support"],
    "ab start": ["ab start support --arm v1=25 --arm v2=75 --reason why"],
    "ab create": [
        "ab create support --arm v1 --arm v2 --primary solved:effect=0.03 --guardrail error<=5%"
    ],
    "ab report": [
        "ab start support --arm v1 --arm v2 --primary solved --guardrail error<=5%",
        "ab report support",
        "ab report support --price 0.1,0.4",
    ],
    "ab promote": [
        "ab start support --arm v1 --arm v2 --primary solved",
        "ab promote support --force --arm v1 --reason because",
    ],
    "ab shadows": ["ab start support --arm v1 --shadow v2", "ab shadows support"],
    "ab simulate": [
        "ab create support --arm v1 --arm v2 --primary solved:effect=0.3",
        "ab simulate support --mean 0.3 --units 500 --runs 50",
        "ab simulate support --mean 0.3 --units 5000 --runs 50 --units-per-day 100",
    ],
    "ab ramp": [
        "ab start support --arm v1=25 --arm v2=75",
        "ab ramp support --arm v1=50 --arm v2=50",
    ],
    "ab take-out": ["ab start support --arm v1 --arm v2", "ab take-out support v2 --reason bad"],
    "ab pause": ["ab start support --arm v1=25 --arm v2=75", "ab pause support"],
    "canary": ["canary support@v4 --steps 5%,50%,100% --primary solved"],
    "ab list": ["ab start support --arm v1=25 --arm v2=75", "ab list"],
    "ab log": ["ab start support --arm v1=25 --arm v2=75", "ab log support"],
    "ab stop": ["ab start support --arm v1=25 --arm v2=75", "ab stop support"],
    "promote": ["promote support@v3 --if-current v2"],
    "demote": ["demote support@canary"],
    "rollback": ["rollback support"],
    "keys create": ["keys create --name web --allow support* --rpm 600 --tpm 9 --expires 90d"],
    "keys list": ["keys create --name ops --role admin", "keys list"],
    "keys revoke": ["keys create --name web --allow *", "keys revoke web"],
    "retire": ["retire support@v3 --reason old", "retire support@v3 --undo"],
    "delete": ["delete support@v3 --yes --reason rows"],
    "tag": ["tag support@v3 --add lang=de --notes fine", "show support@v3", "list"],
    "protect": ["protect support", "protect support --undo"],
    "gc": ["gc --keep-last 0 --runs-older-than 0", "gc --keep-last 0 --runs-older-than 0 --yes"],
    "prompt new": ["prompt new terse --on support@v1 --set top_p=0.5", "show terse"],
    "push": ["push support@v1 {place}/other", "push support@v1 {place}/other --dry-run"],
    "pull": ["push support@v1 {place}/other", "pull {place}/other/support@v1"],
    "data check": ["data check {place}/rows.jsonl"],
}
"""What is run for each command; the last line's document counts, and each before it."""


@pytest.mark.parametrize("command", LINES)
def test_a_command_prints_what_the_page_says(
    command: str, house: Retention, ask: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi", "completion": "Hello"}\n')
    for line in LINES[command]:
        said = ask(line.format(place=tmp_path))
        verb = next(name for name in sorted(SHAPES, reverse=True) if line.startswith(name))
        assert misfits(said, SHAPES[verb]) == [], line


def test_what_is_damaged_is_printed_in_the_same_shapes(
    house: Retention, ask: Callable[..., Any]
) -> None:
    manifest = house.resolve("support@v3").path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    for line, exit_code in (
        ("list support", 1),
        ("verify --all", 4),
        ("delete support@v3 --yes", 0),
    ):
        assert misfits(ask(line, exit_code=exit_code), SHAPES[line.split()[0]]) == [], line


@pytest.mark.parametrize(
    ("line", "does"),
    [
        ("train rows.jsonl --base tiny --name support", "train.run.run"),
        ("merge support@v1 support@v2 --name both", "train.merge.merge"),
        ("import ./checkpoint --name support", "adapters.importing.import_adapter"),
    ],
)
def test_what_takes_long_prints_what_the_page_says_of_what_it_made(
    line: str,
    does: str,
    house: Retention,
    ask: Callable[..., Any],
    make_adapter: MakeAdapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from adapters.importing import Imported

    made = house.publish("both", make_adapter(), base=BASE, metrics={"merge_error": 1e-7})
    imported = Imported(made, ("optimizer.pt",), ("no chat template",))
    monkeypatch.setattr(does, lambda *_, **__: imported if "import" in does else made)
    assert misfits(ask(line), SHAPES[line.split()[0]]) == []


def test_a_search_prints_what_the_page_says(
    house: Retention, ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.lr_find import Found, Point
    from train.trials import Outcome, Tried

    trials = [
        Tried(0, "complete", 0.5, {"r": 8}, 1.5, ""),
        Tried(1, "pruned", None, {"r": 4}, 0.5, "worse than the median"),
    ]
    version = house.resolve("support@v1")
    swept = Outcome("a", "eval_loss", "minimize", trials, 0, {"r": 1.0}, version, tmp_path)
    rates = Found([Point(1e-5, 2.0, 2.0)], None, None, tmp_path)
    monkeypatch.setattr("train.sweep.sweep", lambda *_: swept)
    monkeypatch.setattr("train.lr_find.lr_find", lambda *_, **__: rates)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("r: {choices: [4, 8]}\n")
    line = f"sweep {recipe} rows.jsonl --base tiny --name support"
    assert misfits(ask(line), SHAPES["sweep"]) == []
    assert misfits(ask("lr-find rows.jsonl --base tiny"), SHAPES["lr-find"]) == []


def test_a_conversion_is_what_the_page_says(adapter_folder: Path) -> None:
    from adapters.lint import check_folder
    from train.convert import Conversion

    done = Conversion("as it was", 0.0, check_folder(adapter_folder))
    assert misfits({"path": "plain", **done.as_json()}, SHAPES["lint --fix"]) == []


def test_an_extraction_is_what_the_page_says(
    house: Retention, ask: Callable[..., Any], make_adapter: MakeAdapter, monkeypatch: Any
) -> None:
    from train.extract import Extracted, Loss

    made = house.publish("both", make_adapter(), base=BASE, metrics={"extraction_error": 0.1})
    done = Extracted(made, (Loss("a.q_proj", 0.1, 0.2),), (Loss("a.norm", 0.0, 1.0),))
    monkeypatch.setattr("train.extract.extract", lambda *_: done)
    assert misfits(ask("extract --base b --tuned t --name both"), SHAPES["extract"]) == []


def test_a_full_model_is_what_the_page_says(ask: Callable[..., Any], monkeypatch: Any) -> None:
    from train.full import FullModel

    parts = {name: {} for name in ("base", "recipe", "dataset", "metrics", "code")}
    monkeypatch.setattr("train.run.run_full", lambda _: FullModel(Path("model"), parts))
    said = ask("train rows.jsonl --base tiny --tuner full --output-dir model")
    assert misfits(said, SHAPES["train --tuner full"]) == []


def test_a_server_and_a_machine_print_what_the_page_says(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [Finding("ok", "disk", "fine"), Finding("fail", "vllm", "old", "pip install vllm")]
    monkeypatch.setattr("adapters.cli.ps.listing", lambda *_: [ROW])
    monkeypatch.setattr("adapters.doctor.examine", lambda **_: findings)
    assert misfits(ask("ps"), SHAPES["ps"]) == []
    assert misfits(ask("doctor", exit_code=1), SHAPES["doctor"]) == []


def test_the_page_leaves_no_command_out() -> None:
    having = {" ".join(path) for path in COMMANDS if "--json" in options(path)}
    assert set(SHAPES) - {"lint --fix", "train --dry-run", "train --tuner full"} == having
    run = {*LINES, "train", "merge", "import", "extract", "sweep", "lr-find", "ps", "doctor"}
    assert run == having, "and each is run"


def test_what_only_runs_until_it_is_stopped_has_none() -> None:
    without = {" ".join(path) for path in COMMANDS if "--json" not in options(path)}
    assert without == {"demo", "serve", "logs"}


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ({"a": 1}, {"a": "text"}),
        ({"a": True}, {"a": "int"}),
        ({"a": None}, {"a": "int"}),
        ({}, {"a": "int?"}),
        ({"a": 1, "b": 1}, {"a": "int"}),
        ([{"a": 1}, {"a": "x"}], [{"a": "int"}]),
        ({"x": {"y": "z"}}, {"*": {"y": "int"}}),
        (None, {"a": "int"}),
        ({"a": []}, {"a": {"b": "int"}}),
    ],
)
def test_what_is_not_of_a_shape_is_seen(value: Any, shape: Any) -> None:
    assert misfits(value, shape)
