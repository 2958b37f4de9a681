"""One run: a dataset, a base and a recipe in; a published version out.

Everything is written into the run's own folder (`train.resume`) and becomes visible by one atomic
publication. A run that was stopped goes on when the same command is given again; one that is
finished is not repeated.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import __version__, bases
from adapters.errors import MissingExtra, NotFound, Rejected, UsageError
from adapters.files import CARD_FILE, CONFIG_FILE, CURVE_FILE, RECEIPT_FILE, sha256_file
from adapters.lint import rank_class
from adapters.registry import Registry
from adapters.types import Version, check_name
from train import trackers
from train.recipe import Recipe
from train.resume import RunFolder, run_key
from train.rows.files import dataset_files, fetch_dataset
from train.rows.receipt import Receipt, to_bytes

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from train.prepare import Prepared
    from train.replay import Replay

_PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, where it goes."""

    dataset: str
    """A file, a folder of files, or a Hub dataset's id."""
    base: str
    name: str
    recipe: Recipe
    revision: str | None = None
    eval_dataset: str | None = None
    dataset_revision: str | None = None
    replay: str | None = None
    """Another dataset and its share of all rows: `general.jsonl=0.1` (see `train.replay`)."""
    tags: Sequence[str] = ()
    notes: str = ""
    again: bool = False
    """Train it even if there is a version that the same run made."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """A job with what it names found."""

    job: Job
    base: bases.LocalBase
    replay: Replay | None
    identity: dict[str, Any]
    """The datasets by content, see `train.prepare.identify`."""
    code: dict[str, str]
    """Versions of what computes the weights, and sha256 of reward functions."""

    @property
    def key(self) -> str:
        return run_key(asdict(self.base.model), asdict(self.job.recipe), self.identity, self.code)


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
    plan = _plan(job, registry)
    folder = RunFolder(plan.key)
    with folder.held(lambda: say("another process is at this run; waiting for it")):
        finished = _finished(plan, registry)
        if finished and folder.trained() is not None:
            folder.clear()  # killed after it was published
        if finished and not job.again:
            folder.clear()
            say(f"{finished.ref} is this run's, finished already; --again trains it once more")
            return finished
        try:
            version = _train_and_publish(plan, folder, registry, callbacks)
        except BaseException as error:
            wrong = isinstance(error, UsageError | Rejected)  # the same again would end the same
            if folder.trained() is None and (wrong or not folder.step()):
                folder.clear()
            elif step := folder.step():
                say(f"Stopped; step {step} is kept. The same command goes on from there.")
            raise
        folder.clear()
        return version


def rehearse(job: Job, registry: Registry, *, examples: int = 3) -> tuple[Receipt, list[str]]:
    """Do all of a run that comes before training; return the data receipt and rows as text.

    Of each row its tokens, those that are learnt standing out (see `train.check.masked`).

    Raises:
        The same as `run`, but of training and publishing.
    """
    plan = _plan(job, registry)
    tokenizer = load_tokenizer(plan.base.path)
    from train.check import masked

    with tempfile.TemporaryDirectory(prefix="adapters-train-") as scratch:
        rows = _prepare(plan, tokenizer, Path(scratch))
    return rows.receipt, [masked(row, tokenizer) for row in rows.first if row.answer][:examples]


def _plan(job: Job, registry: Registry) -> _Plan:
    check_name(job.name)
    path, _ = fetch_dataset(job.dataset, revision=job.dataset_revision)
    dataset_files(path)
    registry.check_writable()
    _import("datasets")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # misses optional kernels, aloud
    _import("transformers")
    trackers.check_trackers(job.recipe.report_to)
    from train.prepare import identify
    from train.replay import Replay

    replay = Replay.parse(job.replay) if job.replay else None
    base = bases.resolve(job.base, revision=job.revision)
    say(f"base {base.model.id} @ {base.model.revision[:19]}")
    identity = identify(
        job.dataset, revision=job.dataset_revision, eval_dataset=job.eval_dataset, replay=replay
    )
    return _Plan(job, base, replay, identity, _code(job.recipe))


def _code(recipe: Recipe) -> dict[str, str]:
    try:
        code = {package: package_version(package) for package in _PACKAGES}
    except PackageNotFoundError as error:
        raise _missing(str(error.name), error) from error
    for reward in getattr(recipe, "reward", None) or ():
        for part in (reward.rpartition(":")[0], reward.partition(":")[2]):
            if part and Path(part).is_file():  # FILE.py:FUNCTION, json_schema:FILE
                code[Path(part).name] = sha256_file(Path(part))
    return {"lora-switchyard": __version__, **code}


def _finished(plan: _Plan, registry: Registry) -> Version | None:
    """Return the last version in good standing that the same run made."""
    try:
        versions = registry.versions(plan.job.name)
    except NotFound:
        return None
    against = registry.standings(plan.job.name)
    for version in reversed(versions):
        m = version.manifest
        key = run_key(asdict(m.base), m.recipe, m.dataset, m.code)
        if key == plan.key and version.number not in against:
            return version
    return None


def _train_and_publish(
    plan: _Plan, folder: RunFolder, registry: Registry, callbacks: Sequence[TrainerCallback]
) -> Version:
    tokenizer = load_tokenizer(plan.base.path)
    rows = _prepare(plan, tokenizer, folder.rows)
    metrics = folder.trained()
    if metrics is None:
        if step := folder.step():
            say(f"going on after step {step}")
        with folder.training() as (adapter, metrics):
            metrics |= _train(plan, tokenizer, rows, adapter, folder.checkpoints, callbacks)
            (adapter / RECEIPT_FILE).write_bytes(to_bytes(rows.details))
    else:
        say("trained already, to be published")
    return _publish(plan, rows.lineage, metrics, folder.adapter, registry)


def load_tokenizer(base: Path) -> Any:
    """Return a base's own tokenizer, fit to train with.

    Raises:
        Rejected: not a fast one, or one with tokens that the base has no embedding for.
        MissingExtra: transformers is not installed.
    """
    transformers = _import("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from train.tokens import check_vocabulary

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    if not tokenizer.is_fast:
        raise Rejected(f"{base} has no fast tokenizer.", fix="Save one: tokenizer.json.")
    check_vocabulary(tokenizer, transformers.AutoConfig.from_pretrained(base).vocab_size)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def _prepare(plan: _Plan, tokenizer: Any, scratch: Path) -> Prepared:
    from train.parity import check_parity
    from train.prepare import prepare

    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    with counting("row", "reading") as progress:
        rows = prepare(
            plan.job.dataset,
            plan.job.recipe,
            tokenizer,
            scratch,
            revision=plan.job.dataset_revision,
            eval_dataset=plan.job.eval_dataset,
            replay=plan.replay,
            identity=plan.identity,
            processes=len(os.sched_getaffinity(0)),
            progress=progress,
        )
    counts = {key: count for key, count in rows.receipt.as_json().items() if count}
    say(f"{rows.receipt.form}: " + ", ".join(f"{key} {count}" for key, count in counts.items()))
    answers = plan.job.recipe.method != "reward"  # else it is asked for no answer, but for a number
    if parity := answers and check_parity(rows.first, tokenizer, plan.base.path):
        rows.lineage["parity"] = parity.as_json()
        say(f"parity: {parity.rows} rows are the server's tokens too, up to {parity.stop_token}")
        if options := parity.as_json()["chat_template_kwargs"]:
            say(
                "! This base thinks before it answers, and these rows do not. Requests must carry "
                f"chat_template_kwargs {json.dumps(options)}; the version's card says so too."
            )
    if plan.replay:
        mixed = rows.lineage["replay"]
        say(f"replay of {mixed['path']}: {mixed['train_rows']} rows, {mixed['eval_rows']} measure")
    return rows


@contextmanager
def counting(unit: str, what: str) -> Iterator[Callable[[int], None]]:
    """Count something of unknown number on a terminal's stderr; say nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(unit=unit, desc=what, file=sys.stderr, disable=None, leave=False) as bar:

        def show(count: int) -> None:
            bar.update(count - bar.n)

        yield show


def _train(
    plan: _Plan,
    tokenizer: Any,
    rows: Prepared,
    folder: Path,
    checkpoints: Path,
    callbacks: Sequence[TrainerCallback],
) -> dict[str, float]:
    for package in _PACKAGES:
        _import(package)
    from train import loop
    from train.panel import Panel

    with trackers.named(plan.job.name, plan.key[:12]), Panel(f"training {plan.job.name}") as panel:
        return loop.train(
            plan.job.recipe,
            plan.base.path,
            tokenizer,
            rows.train,
            rows.held_out,
            out=folder,
            places=rows.places,
            retained=rows.retained,
            checkpoints=checkpoints,
            callbacks=[panel, *callbacks],
        )


def _publish(
    plan: _Plan,
    dataset: dict[str, Any],
    metrics: dict[str, float],
    folder: Path,
    registry: Registry,
) -> Version:
    job, base = plan.job, plan.base
    config = json.loads((folder / CONFIG_FILE).read_text())
    if isinstance(config["target_modules"], list):  # PEFT keeps a set, in no fixed order
        config["target_modules"].sort()
    config["base_model_name_or_path"] = base.model.id  # not this machine's path to it
    config["revision"] = None if base.model.local else base.model.revision
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    recipe = asdict(job.recipe)
    options = dataset.get("parity", {}).get("chat_template_kwargs")
    serving = {"chat_template_kwargs": options} if options else {}
    from adapters.card import card

    text = card(
        job.name,
        base.model,
        recipe,
        dataset,
        metrics,
        rank_class(job.recipe.r),
        serving=serving,
        curve=(folder / CURVE_FILE).exists(),
    )
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    return registry.publish(
        job.name,
        folder,
        base=base.model,
        base_path=base.path,
        recipe=recipe,
        dataset=dataset,
        metrics=metrics,
        code=plan.code,
        serving=serving,
        tags=job.tags,
        notes=job.notes,
    )


def _import(package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise _missing(package, error) from error


def _missing(package: str, error: ImportError) -> MissingExtra:
    return MissingExtra(
        f"Training needs {package}: {error}.",
        fix="Install it: pip install 'lora-switchyard[cpu]' or 'lora-switchyard[gpu]'.",
    )


def say(text: str) -> None:
    """Tell how it goes, on stderr."""
    print(text, file=sys.stderr)
