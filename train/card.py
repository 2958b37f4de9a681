"""The model card of a version: README.md with the Hub's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adapters.types import BaseModel

_CARD = """---
base_model: {base_json}
library_name: peft
pipeline_tag: text-generation
tags: [lora, switchyard]
---

# {name}

A LoRA adapter of `{base}` (revision `{revision}`), trained with Switchyard.

| metric | value |
| --- | --- |
{metrics}

| rows | count |
| --- | --- |
{rows}

Serve it: `adapters serve --base {base}`, then ask for `model="{name}"`.
Or: `vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}=FOLDER`.

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
    return _CARD.format(
        name=name,
        base=base.id,
        base_json=json.dumps(base.id),
        revision=base.revision,
        rank=rank_class,
        metrics="\n".join(
            f"| {key} | {value:.4g} |" for key, value in metrics.items() if key[-2:] != "_s"
        ),
        rows="\n".join(f"| {key} | {dataset[key]} |" for key in dataset if key.endswith("_rows")),
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False),
    )
