"""A report for the terminal: the sentence, then the numbers. Pure."""

from __future__ import annotations

from adapters.render import table
from serve.experiments.analysis.report import Report
from serve.experiments.analysis.tables import headline, tables


def text(report: Report) -> str:
    """Return the report as lines of text, no newline at its end."""
    parts = [headline(report), report.verdict.said]
    for each in tables(report):
        lines = [each.title, table(each.headers, each.rows), each.note]
        parts.append("\n".join(line for line in lines if line))
    return "\n\n".join(parts)
