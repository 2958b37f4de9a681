"""A stranger's regular expressions, run under a clock.

PEFT runs those of `target_modules` and its like with `re`. Those of `rank_pattern` and
`alpha_pattern` run with `re` in PEFT and with `regex` in vLLM's engine loop, where one that
never ends stops every request. Run here is what vLLM would run, on the names it would run it
on, so what ends here ends there. Expressions that `re` and `regex` read differently are refused.
"""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING

from adapters.errors import InvalidAdapter

if TYPE_CHECKING:
    from regex import Match

_LONGEST = 8192
"""Characters; what Unsloth generates has up to a thousand."""
_COUNT = re.compile(r"\{([0-9]{0,4}),?([0-9]{0,4})\}")
_MOST_REPEATS = 1000
"""`regex` unrolls (x{1000}){1000} when it compiles, and has no clock for that."""
_LIMIT_S = 2.0


def problem(expression: str) -> str:
    """Say why an expression cannot be run as PEFT and vLLM do; empty where it can."""
    import regex

    counts = _COUNT.findall(expression)
    if len(expression) > _LONGEST:
        return f"an expression of more than {_LONGEST} characters"
    if math.prod(max(int(n or 1) for n in count) or 1 for count in counts) > _MOST_REPEATS:
        return f"an expression that repeats more than {_MOST_REPEATS} times"
    # What `regex` takes for a fuzzy match or a POSIX class is plain text to `re`.
    if expression.count("{") != len(counts) or "[:" in expression:
        return "an expression that vLLM and PEFT read differently"
    try:
        re.compile(expression)
        regex.compile(expression)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        return f"not a regular expression: {error}"
    return ""


class Clock:
    """Runs the expressions of one adapter, all of them in a few seconds together."""

    def __init__(self, limit_s: float = _LIMIT_S) -> None:
        """`limit_s`: of this thread's computing time."""
        self._left_s = limit_s

    def match(self, expression: str, text: str, *, whole: bool = False) -> Match[str] | None:
        """Return `re.match`, or of the `whole` text `re.fullmatch`.

        Raises:
            InvalidAdapter: the time is over.
        """
        import regex

        run = regex.fullmatch if whole else regex.match
        started = time.thread_time()
        try:
            if self._left_s <= 0:
                raise TimeoutError
            return run(expression, text, timeout=self._left_s)
        except TimeoutError as error:
            raise InvalidAdapter(
                f"The regular expressions of adapter_config.json take more than {_LIMIT_S:g} s: "
                f"{expression[:80]!r}.",
                fix="Name modules plainly, by their ends: q_proj",
            ) from error
        finally:
            self._left_s -= time.thread_time() - started
