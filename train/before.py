"""What comes before training: the tokenizer, the rows, what it will take; and a rehearsal of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.errors import Rejected
from adapters.registry import Registry
from train.plan import PACKAGES, Job, Plan, make_plan, need, say
from train.rows.receipt import Receipt

if TYPE_CHECKING:
    from train.preflight import Estimate
    from train.prepare import Prepared
    from train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What is known of a run before it trains."""

    receipt: Receipt
    estimate: Estimate
    rows: list[str]
    """Some rows as their tokens, those that are learnt standing out (see `train.check.masked`)."""

    def as_json(self) -> dict[str, Any]:
        return {
            "receipt": self.receipt.details(),
            "estimate": self.estimate.as_json(),
            "rows": self.rows,
        }


def rehearse(job: Job, registry: Registry | None, *, rows: int = 3) -> Rehearsal:
    """Do all of a run that comes before training; `rows`: so many are shown.

    Raises:
        The same as `run`, but of training and publishing.
    """
    plan = make_plan(job, registry)
    tokenizer = load_tokenizer(plan.base.path)
    from train.check import masked

    with tempfile.TemporaryDirectory(prefix="adapters-train-") as scratch:
        prepared = prepare_rows(plan, tokenizer, Path(scratch))
        _, found = ready(plan, prepared)
    shown = [masked(row, tokenizer) for row in prepared.first if row.answer][:rows]
    return Rehearsal(prepared.receipt, found, shown)


def ready(plan: Plan, rows: Prepared) -> tuple[Recipe, Estimate]:
    """Say what a run will take; return that, and its recipe with the batch that it will take.

    Raises:
        Rejected: it cannot fit (see `train.preflight.check`).
        MissingExtra: see `run`.
    """
    for package in PACKAGES:
        need(package)
    need("datasets").disable_progress_bars()
    from train import loop  # noqa: F401  # what it takes by itself counts
    from train.preflight import Rows, preflight

    asked, counted = plan.job.recipe, rows.receipt
    longest = min(counted.longest_tokens, asked.max_length)
    recipe, found = preflight(
        plan.base.path, asked, Rows(len(rows.train), counted.train_tokens, longest)
    )
    say(str(found))
    if recipe != asked:
        batch, times = recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps
        say(f"a batch of {batch} rows, {times} times a step")
    return recipe, found


def load_tokenizer(base: Path) -> Any:
    """Return a base's own tokenizer, fit to train with.

    Raises:
        Rejected: not a fast one, or one with tokens that the base has no embedding for.
        MissingExtra: transformers is not installed.
    """
    transformers = need("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from train.tokens import check_vocabulary

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    if not tokenizer.is_fast:
        raise Rejected(f"{base} has no fast tokenizer.", fix="Save one: tokenizer.json.")
    check_vocabulary(tokenizer, transformers.AutoConfig.from_pretrained(base).vocab_size)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def prepare_rows(plan: Plan, tokenizer: Any, scratch: Path) -> Prepared:
    """Prepare a plan's rows in `scratch`, which is emptied, and say what they are.

    Raises:
        InvalidDataset, Rejected: see `train.prepare.prepare`, `train.parity.check_parity`.
    """
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
        say(f"parity: {parity.rows} rows are the server's tokens too, up to {parity.stop_token!r}")
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
