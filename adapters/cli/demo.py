"""`adapters demo`: the main job, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    base: Annotated[
        str, typer.Option(help="tiny, a folder, or a Hub id such as Qwen/Qwen3-0.6B.")
    ] = "tiny",
    registry: Annotated[
        Path, typer.Option(help="Registry folder of its own; each run adds two versions.")
    ] = Path("switchyard-demo"),
    train_rows: Annotated[int, typer.Option(min=32, help="Messages to train on.")] = 1500,
    test_rows: Annotated[int, typer.Option(min=8, help="Held-out messages per model.")] = 200,
) -> None:
    """Train, serve and compare two versions, then promote the better one under load.

    Example: adapters demo --base tiny
    """
    from adapters.demo import story

    story.run(registry.absolute(), base, train_rows=train_rows, test_rows=test_rows)
