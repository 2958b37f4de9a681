"""`adapters train`: flags and a recipe file in, one call, the version out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from adapters.cli.registry import JsonOption, RegistryOption, version_json
from adapters.errors import UsageError
from adapters.registry import Registry
from adapters.render import emit_json, table

DatasetArgument = Annotated[
    str, typer.Argument(help="A file, a folder of files, or a Hub dataset.")
]
DatasetRevisionOption = Annotated[str | None, typer.Option(help="Commit or tag of a Hub dataset.")]
EvalDatasetOption = Annotated[
    str | None, typer.Option(help="Rows to validate on, instead of some held out.")
]
ReplayOption = Annotated[
    str | None,
    typer.Option(help="Mix in another dataset: general.jsonl=0.1; =0 measures forgetting."),
]
BaseRevisionOption = Annotated[str | None, typer.Option(help="Commit or tag of a Hub base.")]
TagOption = Annotated[list[str] | None, typer.Option(help="A tag; may be repeated.")]
NotesOption = Annotated[str, typer.Option(help="Free text, kept with the version.")]


def recipe_flags(
    *, rows_only: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each recipe key, or each that says how rows are read.

    They arrive as `flags`. One that is left out is not among them, so that a recipe file can
    decide.
    """
    from train.recipe import ROW_KEYS, Recipe, keys

    plain, wanted = Recipe(), {key: keys()[key] for key in (ROW_KEYS if rows_only else keys())}
    options = {}
    for key, (kind, meaning) in wanted.items():
        if get_origin(kind) is tuple:
            kind = list[get_args(kind)[0]]  # type: ignore[misc]  # the flag is repeated
        elif "tuple" in str(kind):
            kind = str  # commas on a command line
        default = getattr(plain, key)
        told = "" if default in (None, -1, ()) else f"  [default: {default}]"
        if meaning.methods:
            told = f"  [{_by_method(meaning.methods)}]"
        options[key] = Annotated[kind | None, typer.Option(help=f"{meaning.help}{told}")]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            flags = {name: value for name in wanted if (value := given.pop(name)) is not None}
            command(**given, flags=flags)

        parameters = []
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
            if name != "flags":
                parameters.append(parameter)
                continue
            for key, option in options.items():
                parameters.append(parameter.replace(name=key, annotation=option, default=None))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _by_method(defaults: Mapping[str, Any]) -> str:
    """Write which methods use a key, and each one's default: `grpo, rloo: 512`."""
    found: dict[Any, list[str]] = {}
    for method, default in defaults.items():
        found.setdefault(default, []).append(method)
    named = ((", ".join(methods), default) for default, methods in found.items())
    return "; ".join(name if value == () else f"{name}: {value}" for name, value in named)


@recipe_flags()
def train(
    *,
    dataset: DatasetArgument,
    base: Annotated[str, typer.Option(help="tiny, a folder, or a Hub id.")],
    name: Annotated[
        str | None, typer.Option(help="The adapter whose next version this becomes.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="With --tuner full, for the model: a new folder.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Recipe in YAML; flags win.")] = None,
    revision: BaseRevisionOption = None,
    eval_dataset: EvalDatasetOption = None,
    dataset_revision: DatasetRevisionOption = None,
    replay: ReplayOption = None,
    flags: Any,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Stop before training: the receipt, three rows.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Train even if this very run is a version already.")
    ] = False,
    serving: Annotated[
        Path | None, typer.Option(help="The server's defaults, as JSON (see docs/serving.md).")
    ] = None,
    tag: TagOption = None,
    notes: NotesOption = "",
    registry: RegistryOption = None,
    json: JsonOption = False,
) -> None:
    """Train a LoRA adapter and publish it as the next version; or a full model, into a folder.

    The flags from --method to --seed are the recipe: PEFT's, TRL's and transformers' own names. In
    brackets stands the default, or the methods that take it, with each one's. A run that was
    stopped goes on when the same command is given again.

    Example: adapters train support.jsonl --base tiny --name support --r 32 --num-train-epochs 3

    Example: adapters train support.jsonl --base tiny --tuner full --output-dir ./support-model
    """
    from adapters.serving import Serving
    from train.before import rehearse
    from train.recipe import read_recipe
    from train.run import Job, run, run_full

    job = Job(
        dataset=dataset,
        base=base,
        name=name,
        recipe=read_recipe(config, flags),
        revision=revision,
        eval_dataset=eval_dataset,
        dataset_revision=dataset_revision,
        replay=replay,
        tags=tag or (),
        notes=notes,
        serving=Serving.read(serving) if serving else Serving(),
        again=again,
        output_dir=output_dir,
    )
    if output_dir and registry:
        raise UsageError("A full model goes into no registry.", fix="Leave out --registry.")
    if output_dir and serving:
        raise UsageError("A full model is no version.", fix="Leave out --serving.")
    if dry_run:
        return _show(rehearse(job, None if output_dir else Registry.open(registry)), json=json)
    if output_dir:
        model = run_full(job)
        return emit_json(model.as_json()) if json else typer.echo(model.path)
    version = run(job, Registry.open(registry))
    if json:
        emit_json(version_json(version))
    else:
        typer.echo(f"{version.engine_name}\n{version.path}")


def _where(version: Any) -> dict[str, str]:
    return {"engine_name": version.engine_name, "path": str(version.path)}


def _show(rehearsal: Any, *, json: bool) -> None:
    from train.check import lines

    if json:
        return emit_json(rehearsal.as_json())
    typer.echo(table(["rows", "", "where"], lines(rehearsal.receipt)))
    for row in rehearsal.rows:
        typer.echo(f"\n{row}")
