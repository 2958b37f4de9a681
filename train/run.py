"""One run: a dataset, a base and a recipe in; a published version out.

Everything is written into the run's own folder (`train.resume`) and becomes visible by one atomic
publication. A run that was stopped goes on when the same command is given again; one that is
finished is not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.errors import Rejected, UsageError
from adapters.files import CARD_FILE, CONFIG_FILE, CURVE_FILE, RECEIPT_FILE, SERVING_FILE
from adapters.lint import rank_class
from adapters.registry import Registry
from adapters.serving import Serving
from adapters.types import Version
from train import trackers
from train.before import load_tokenizer, prepare_rows, ready
from train.full import FullModel, finished_at, place
from train.plan import Job, Plan, finished_by, make_plan, say
from train.resume import RunFolder
from train.rows.receipt import to_bytes

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from train.prepare import Prepared
    from train.recipe import Recipe

__all__ = ["Job", "run", "run_full"]


def run(job: Job, registry: Registry, *, callbacks: Sequence[TrainerCallback] = ()) -> Version:
    """Train and publish. Progress goes to stderr, a bar where that is a terminal.

    Where the same run was stopped, it goes on from its last checkpoint, with the same weights in
    the end. Where it is finished, its version is returned and nothing is trained, but `job.again`.
    Where another process runs it, this one waits. `callbacks`: transformers', told of each step.

    Raises:
        InvalidName, InvalidDataset, UsageError: refused before the base is loaded.
        NotFound, Rejected, Unavailable: the base (see `adapters.bases.resolve`), the dataset (see
            `train.prepare.prepare`), the training (see `train.loop.train`), the run's folder.
        InvalidAdapter, RegistryUnavailable: see `Registry.publish`; what was trained is kept, and
            is published when the same command is given again.
        MissingExtra: torch, trl, peft or bitsandbytes is not installed.
    """
    plan = make_plan(job, registry)

    def ending(rows: Prepared, metrics: dict[str, float], folder: Path) -> Version:
        return publish(plan, rows.lineage, metrics, folder, registry)

    return _once(plan, lambda: finished_by(plan, registry), ending, callbacks)


def run_full(job: Job, *, callbacks: Sequence[TrainerCallback] = ()) -> FullModel:
    """Train the base itself (`--tuner full`) into `job.output_dir`; else as `run`.

    Raises:
        The same as `run`, but of publishing; Rejected, Unavailable: see `train.full.place`.
    """
    plan = make_plan(job, None)
    target = Path(str(job.output_dir)).expanduser().absolute()

    def ending(rows: Prepared, metrics: dict[str, float], folder: Path) -> FullModel:
        lineage = {
            "base": asdict(plan.base.model),
            "recipe": asdict(job.recipe),
            "dataset": rows.lineage,
            "metrics": metrics,
            "code": plan.code,
        }
        return place(folder, target, lineage)

    done = lambda: finished_at(target, plan.key, again=job.again)  # noqa: E731
    return _once(plan, done, ending, callbacks)


Made = TypeVar("Made", Version, FullModel)


def _once(
    plan: Plan,
    done: Callable[[], Made | None],
    ending: Callable[[Prepared, dict[str, float], Path], Made],
    callbacks: Sequence[TrainerCallback],
) -> Made:
    """Return what a run has made (`done`), or train it and bring it to its end."""
    folder, again = RunFolder(plan.key), plan.job.again
    with folder.held(lambda: say("another process is at this run; waiting for it")):
        finished = done()
        if finished and folder.trained() is not None:
            folder.clear()  # killed after it was published
        if finished and not again:
            folder.clear()
            say(f"{finished.ref} is this run's, finished already; --again trains it once more")
            return finished
        try:
            tokenizer = load_tokenizer(plan.base.path)
            rows = prepare_rows(plan, tokenizer, folder.rows)
            metrics = train_into(folder, plan, tokenizer, rows, callbacks=callbacks)
            if "conversion_error" in metrics:
                say(f"made plain LoRA, relative error {metrics['conversion_error']:.2g}")
            made = ending(rows, metrics, folder.adapter)
        except BaseException as error:
            wrong = isinstance(error, UsageError | Rejected)  # the same again would end the same
            if folder.trained() is None and (wrong or not folder.step()):
                folder.clear()
            elif step := folder.step():
                say(f"Stopped; step {step} is kept. The same command goes on from there.")
            raise
        folder.clear()
        return made


def train_into(
    folder: RunFolder,
    plan: Plan,
    tokenizer: Any,
    rows: Prepared,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    title: str | None = None,
) -> dict[str, float]:
    """Train into a run's folder, which the caller holds, for `run` to publish; return the metrics.

    Goes on from the folder's last checkpoint. Does nothing where it is trained already. `title`:
    the panel's, where the adapter's name does not say enough.

    Raises:
        UsageError, Rejected, MissingExtra: see `run`.
    """
    metrics = folder.trained()
    if metrics is not None:
        say("trained already, to be published")
        return metrics
    if step := folder.step():
        say(f"going on after step {step}")
    title = title or f"training {plan.job.title}"
    with folder.training() as (adapter, metrics):
        metrics |= _train(plan, tokenizer, rows, adapter, folder.checkpoints, callbacks, title)
        (adapter / RECEIPT_FILE).write_bytes(to_bytes(rows.details))
    return metrics


def _train(
    plan: Plan,
    tokenizer: Any,
    rows: Prepared,
    folder: Path,
    checkpoints: Path,
    callbacks: Sequence[TrainerCallback],
    title: str,
) -> dict[str, float]:
    recipe, _ = ready(plan, rows)
    base = plan.weights()
    if recipe.num_processes > 1:
        return _train_in_processes(plan, recipe, base, rows, folder, checkpoints, callbacks, title)
    from train import loop
    from train.panel import Panel

    with trackers.named(plan.job.title, plan.key[:12]), Panel(title) as panel:
        return loop.train(
            recipe,
            base,
            tokenizer,
            rows.train,
            rows.held_out,
            out=folder,
            places=rows.places,
            retained=rows.retained,
            checkpoints=checkpoints,
            callbacks=[panel, *callbacks],
        )


def _train_in_processes(
    plan: Plan,
    recipe: Recipe,
    base: Path,
    rows: Prepared,
    folder: Path,
    checkpoints: Path,
    callbacks: Sequence[TrainerCallback],
    title: str,
) -> dict[str, float]:
    from train.processes import Share, train_in_processes

    if callbacks:
        raise UsageError(
            "Steps of several processes cannot be followed from here.", fix="Use --num-processes 1."
        )
    with trackers.named(plan.job.title, plan.key[:12]):
        return train_in_processes(
            Share(
                title,
                recipe,
                base,
                rows.train,
                rows.held_out,
                rows.retained,
                rows.places,
                folder,
                checkpoints,
            )
        )


def publish(
    plan: Plan,
    dataset: dict[str, Any],
    metrics: dict[str, float],
    folder: Path,
    registry: Registry,
) -> Version:
    """Publish what was trained in `folder`; `dataset`: its lineage (`train.prepare.Prepared`).

    Raises:
        InvalidAdapter, RegistryUnavailable: see `Registry.publish`.
    """
    job, base = plan.job, plan.base
    config = json.loads((folder / CONFIG_FILE).read_text())
    if isinstance(config["target_modules"], list):  # PEFT keeps a set, in no fixed order
        config["target_modules"].sort()
    config["base_model_name_or_path"] = base.model.id  # not this machine's path to it
    config["revision"] = None if base.model.local else base.model.revision
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    recipe = asdict(job.recipe)
    options = dataset.get("parity", {}).get("chat_template_kwargs")
    if (served := job.served(options)) != Serving():
        (folder / SERVING_FILE).write_bytes(served.to_bytes())
    from adapters.card import card
    from train import canary

    canary.record(base.path, folder)
    text = card(
        job.title,
        base.model,
        recipe,
        dataset,
        metrics,
        rank_class(config["r"]),
        serving={"chat_template_kwargs": options},
        curve=(folder / CURVE_FILE).exists(),
    )
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    return registry.publish(
        job.title,
        folder,
        base=base.model,
        base_path=base.path,
        recipe=recipe,
        dataset=dataset,
        metrics=metrics,
        code=plan.code,
        tags=job.tags,
        notes=job.notes,
    )
