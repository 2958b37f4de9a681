"""A report as one HTML file: the terminal's numbers, and plots. No script, nothing from elsewhere.

Pure. Whatever a registry or a client named is escaped.
"""

from __future__ import annotations

import re
from html import escape

from serve.experiments.analysis.plots import plots
from serve.experiments.analysis.report import Report
from serve.experiments.analysis.tables import Table, headline, tables

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --faint: #667; --rule: #d8dce2;
  --good: #1a7f37; --bad: #c62828; --c0: #1f6feb; --c1: #c2410c; --c2: #7c3aed; --c3: #0f766e;
  --c4: #b45309; --c5: #be185d; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --ink: #e4e7eb; --faint: #98a2ae;
  --rule: #333a42; --good: #4ac26b; --bad: #ff7b72; --c0: #6cb0ff; --c1: #ff9a5c; --c2: #b79bff;
  --c3: #4fd1c5; --c4: #f0b849; --c5: #ff8fc0; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.2rem; } h2 { font-size: 1rem; margin: 2rem 0 .4rem; }
.said { font-size: 1.1rem; border-left: .3rem solid var(--faint); padding: .4rem 1rem; }
.winner { border-color: var(--good); } .breached, .frozen { border-color: var(--bad); }
.wide { overflow-x: auto; } .note { color: var(--faint); margin: .3rem 0; }
table { border-collapse: collapse; white-space: nowrap; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--rule); }
th { color: var(--faint); font-weight: normal; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; } figcaption { color: var(--faint); } svg { width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 11px; } svg svg { overflow: hidden; }
.grid { stroke: var(--rule); } .zero { stroke: var(--faint); }
.needed { stroke: var(--bad); stroke-dasharray: 5 4; }
.line { fill: none; stroke: currentColor; stroke-width: 2; }
.band { fill: currentColor; opacity: .16; }
.key::before { content: "\\25a0\\00a0"; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); }
"""
_NUMBER = re.compile(r"–|[<+-]? ?[\d.,]+(e\d+)?%?( points)?")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: Report) -> str:
    """Return the whole document; readable in light and dark, and on paper."""
    first, *rest = tables(report)  # of the primary metric, where there is one
    shown = [_table(first), *(_figure(report, said, svg) for said, svg in plots(report))]
    shown += map(_table, rest)
    title, verdict = escape(headline(report)), report.verdict
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{title}</h1>\n"
        f'<p class="said {verdict.kind}">{escape(verdict.said)}</p>\n'
        f"{''.join(shown)}</body>\n</html>\n"
    )


def _table(each: Table) -> str:
    columns = list(zip(*each.rows, strict=True))
    kinds = ["number" if all(map(_is_number, column)) else "" for column in columns]
    head = "".join(map(_cell, ["th"] * len(kinds), kinds, each.headers))
    rows = "".join(
        f"<tr>{''.join(map(_cell, ['td'] * len(kinds), kinds, row))}</tr>\n" for row in each.rows
    )
    note = f'<p class="note">{escape(each.note)}</p>\n' if each.note else ""
    return (
        f'<h2>{escape(each.title)}</h2>\n<div class="wide"><table>\n<tr>{head}</tr>\n'
        f"{rows}</table></div>\n{note}"
    )


def _cell(tag: str, kind: str, said: str | None) -> str:
    named = f' class="{kind}"' if kind else ""
    return f"<{tag}{named}>{escape('–' if said is None else said)}</{tag}>"


def _is_number(said: str | None) -> bool:
    return said is None or _NUMBER.fullmatch(said) is not None


def _figure(report: Report, said: str, svg: str) -> str:
    arms = (
        f'<span class="key c{place % 6}">{escape(side.arm)}</span>'
        for place, side in enumerate(report.sides[1:])
    )
    return f"<figure>{svg}<figcaption>{escape(said)} {' '.join(arms)}</figcaption></figure>\n"
