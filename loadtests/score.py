"""Score models on a labelled file over HTTP: exact match, with a 95 % interval.

    python -m loadtests.score test.csv --prompt-column text --completion-column category \
        --url http://127.0.0.1:8000 --model tiny --model banking

Reads what `adapters train` reads. The last turn of each row is the expected answer.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from pathlib import Path

from openai import AsyncOpenAI
from tqdm import tqdm

from adapters.demo.score import Question, Score, ask_all, score
from adapters.intervals import wilson
from adapters.render import table
from train.sift import read_rows


def main() -> None:
    """Ask every model every question; print a row a model, and what the commonest answer scores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--prompt-column")
    parser.add_argument("--completion-column")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--concurrency", type=int, default=32)
    asked = parser.parse_args()
    rows = read_rows(
        asked.dataset, prompt_column=asked.prompt_column, completion_column=asked.completion_column
    )
    questions = [Question(row.chat[:-1], row.chat[-1]["content"]) for row in rows]
    scores = asyncio.run(_scores(asked.url, asked.model, questions, asked.concurrency))
    lines = [_line(s.model, s.requests, s.exact_match, s.interval) for s in scores]
    answer, count = Counter(question.answer for question in questions).most_common(1)[0]
    share = count / len(questions)
    lines.append(_line(f"always {answer!r}", len(questions), share, wilson(count, len(questions))))
    print(table(["model", "questions", "exact match", "95 % interval"], lines))


async def _scores(
    url: str, models: list[str], questions: list[Question], concurrency: int
) -> list[Score]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        with tqdm(
            total=len(models) * len(questions), unit="request", leave=False, disable=None
        ) as bar:
            answers = await ask_all(
                client, models, questions, concurrency=concurrency, answered=bar.update
            )
    return [score(model, [a for a in answers if a.model == model]) for model in models]


def _line(
    model: str, questions: int, share: float, interval: tuple[float, float]
) -> tuple[object, ...]:
    return model, questions, f"{share:.1%}", f"{interval[0]:.1%} to {interval[1]:.1%}"


if __name__ == "__main__":
    main()
