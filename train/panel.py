"""How a run goes, while it goes: one live panel on a terminal, ten lines elsewhere. On stderr."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Frame
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback

_PER_SECOND = 4
_WINDOW = 32
"""Steps over which speed is measured."""


class Panel(TrainerCallback):  # type: ignore[misc]
    """A context in which a trainer's steps are shown; told of them as transformers' callback.

    On leaving it, by Ctrl-C too, the terminal is as it was and the panel is gone.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console(stderr=True)
        self._step = self._steps = 0
        self._last: dict[str, float] = {}
        self._seen: deque[tuple[float, int, float]] = deque(maxlen=_WINDOW)
        """When, after which step, and how many tokens since the start."""
        live = sys.stderr.isatty() and not self._console.is_dumb_terminal
        self._live = (
            Live(
                console=self._console,
                get_renderable=self.render,
                refresh_per_second=_PER_SECOND,
                transient=True,
                redirect_stdout=False,
            )
            if live
            else None
        )

    def __enter__(self) -> Panel:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    # -- what the trainer says ---------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take note of the first step, which is not 0 where a run goes on."""
        self._step, self._steps = state.global_step, state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Take a step's numbers, or a validation's."""
        if not state.is_world_process_zero or not logs:
            return
        self._last.update({k: v for k, v in logs.items() if isinstance(v, int | float)})
        if "loss" not in logs:
            return
        before, self._step, self._steps = self._step, state.global_step, state.max_steps
        self._seen.append((time.monotonic(), self._step, float(logs.get("num_tokens") or 0)))
        if not self._live and self._step * 10 // self._steps > before * 10 // self._steps:
            print(f"step {self._step} of {self._steps}, loss {logs['loss']:.3f}", file=sys.stderr)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say what comes now."""
        self._title = f"{self._title}: looking at the rows held out"

    # -- what people see ---------------------------------------------------------------------------

    def render(self) -> RenderableType:
        """Return the panel as it stands."""
        step_s, tokens_per_s = self._speed()
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        left = "–" if step_s is None else _clock((self._steps - self._step) * step_s)
        progress = f"step {self._step} of {self._steps or '?'}  ETA {left}"
        bar.add_row(ProgressBar(total=self._steps or 1, completed=self._step), progress)
        numbers = [
            ("loss", self._number("loss", ".4f")),
            ("eval loss", self._number("eval_loss", ".4f")),
            ("learning rate", self._number("learning_rate", ".2e")),
            ("tokens/s", "–" if tokens_per_s is None else f"{tokens_per_s:,.0f}"),
            memory(),
        ]
        if "reward" in self._last:
            numbers.insert(1, ("reward", self._number("reward", ".4f")))
        text = Text("   ").join(
            Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in numbers
        )
        return Frame(Group(bar, text), title=self._title, title_align="left")

    def _number(self, key: str, form: str) -> str:
        return format(self._last[key], form) if key in self._last else "–"

    def _speed(self) -> tuple[float | None, float | None]:
        """Return seconds a step and tokens a second, of the last steps."""
        if len(self._seen) < 2:
            return None, None
        (began, first, tokens), (now, last, more) = self._seen[0], self._seen[-1]
        if now <= began or last <= first:
            return None, None
        return (now - began) / (last - first), (more - tokens) / (now - began) or None


def memory() -> tuple[str, str]:
    """Return what memory is meant and how much of it this process has now."""
    if torch.cuda.is_available():
        return "GPU memory", f"{torch.cuda.memory_allocated() / 2**30:.1f} GiB"
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return "memory", f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
