"""The model card of a version: README.md with the Hub's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.types import BaseModel, Manifest

_CARD = """---
{base_model}library_name: peft
pipeline_tag: text-generation
tags: [lora, switchyard]
---

# {name}

A LoRA adapter of `{base}` (revision `{revision}`), made with Switchyard.

{tables}
## Use it

With Switchyard, and `model="{name}"` in any OpenAI client:

    adapters serve --base {base}{registry}

With plain vLLM:

{download}    vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}={folder}

With PEFT:

    model = AutoModelForCausalLM.from_pretrained("{base}")
    model = PeftModel.from_pretrained(model, {source})

## Where it comes from

{recipe}
"""


def card(
    name: str,
    base: BaseModel,
    recipe: Mapping[str, Any],
    dataset: Mapping[str, Any],
    metrics: Mapping[str, float],
    rank: int,
) -> str:
    """Return the text of README.md; no times, so that one seed gives one digest.

    `rank`: what vLLM is told as --max-lora-rank.
    """
    use = {"registry": "", "download": "", "folder": "FOLDER", "source": '"FOLDER"'}
    return _filled(name, base, recipe, dataset, metrics, rank, use)


def hub_card(manifest: Manifest, org: str, rank: int) -> str:
    """Return the README.md of a version in `org` on the Hub that was published without one."""
    name, revision = manifest.name, f"v{manifest.version}"
    folder = f"{name}-{revision}"
    use = {
        "registry": f" --registry hf://{org}",
        "download": f"    hf download {org}/{name} --revision {revision} --local-dir {folder}\n",
        "folder": folder,
        "source": f'"{org}/{name}", revision="{revision}"',
    }
    m = manifest
    return _filled(name, m.base, m.recipe, m.dataset, m.metrics, rank, use)


def _filled(
    name: str,
    base: BaseModel,
    recipe: Mapping[str, Any],
    dataset: Mapping[str, Any],
    metrics: Mapping[str, float],
    rank: int,
    use: Mapping[str, str],
) -> str:
    numbers = [(key, f"{value:.4g}") for key, value in metrics.items() if key[-2:] != "_s"]
    rows = [(key, str(dataset[key])) for key in dataset if key.endswith("_rows")]
    return _CARD.format(
        name=name,
        base=base.name,
        # A local base is on no Hub: its name may be somebody else's model there, or no id at all.
        base_model="" if base.local else f"base_model: {json.dumps(base.id)}\n",
        revision=base.revision,
        rank=rank,
        tables=_table("metric", numbers) + _table("rows of the dataset", rows),
        recipe=f"Recipe:\n\n```json\n{json.dumps(recipe, indent=2, ensure_ascii=False)}\n```"
        if recipe
        else "It was not trained here: no recipe is known.",
        **use,
    )


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"| {key} | {value} |\n" for key, value in rows)
    return f"| {title} | |\n| --- | ---: |\n{lines}\n"
