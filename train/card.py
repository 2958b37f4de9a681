"""The model card of a version: README.md with the Hub's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.types import BaseModel

_CARD = """---
base_model: {base_json}
library_name: peft
pipeline_tag: text-generation
tags: [lora, switchyard]
---

# {name}

A LoRA adapter of `{base}` (revision `{revision}`), made with Switchyard.

{tables}
## Use it

With Switchyard, and `model="{name}"` in any OpenAI client:

    adapters serve --base {base}

With plain vLLM:

    vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}=FOLDER

With PEFT:

    model = AutoModelForCausalLM.from_pretrained("{base}")
    model = PeftModel.from_pretrained(model, "FOLDER")

## Where it comes from

Recipe:

```json
{recipe}
```
"""


def card(
    name: str,
    base: BaseModel,
    recipe: Mapping[str, Any],
    dataset: Mapping[str, Any],
    metrics: Mapping[str, float],
    rank_class: int,
) -> str:
    """Return the text of README.md; no times, so that one seed gives one digest."""
    numbers = [(key, f"{value:.4g}") for key, value in metrics.items() if key[-2:] != "_s"]
    rows = [(key, str(dataset[key])) for key in dataset if key.endswith("_rows")]
    return _CARD.format(
        name=name,
        base=base.name,
        base_json=json.dumps(base.name),
        revision=base.revision,
        rank=rank_class,
        tables=_table("metric", numbers) + _table("rows of the dataset", rows),
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False),
    )


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"| {key} | {value} |\n" for key, value in rows)
    return f"| {title} | |\n| --- | ---: |\n{lines}\n"
