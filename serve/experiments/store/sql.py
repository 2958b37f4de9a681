"""The one `Store`: SQL, of a SQLite file or a PostgreSQL database."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from adapters.errors import Conflict, UsageError
from serve.experiments.store.base import (
    MOST_OUTCOMES,
    Exposure,
    Measure,
    Outcome,
    Receipt,
    Shadow,
    Units,
)
from serve.experiments.store.database import Database
from serve.experiments.store.schema import bring_up
from serve.experiments.store.sums import sum_units
from serve.experiments.store.tables import exposures, outcomes, shadows

_AT_ONCE = 1000
_IDENTITY = ("experiment", "unit", "request_id", "key")
_Identity = tuple[str, str, str, str]


class SqlStore:
    """`Store` by URL; one pool of connections, for any number of threads."""

    def __init__(self, url: str | None = None) -> None:
        """Open, and make or migrate the tables. `url`: None: a file in $ADAPTERS_HOME.

        Raises:
            UsageError: a URL that cannot be meant.
            MissingExtra: the driver for PostgreSQL is not installed.
            Unavailable: the database is gone, full, or of a later release.
        """
        self._database = Database(url)
        self.name = self._database.name
        """The URL, without its password."""
        bring_up(self._database)
        self._database.engine.dispose()  # of no use to a process that is forked meanwhile

    def expose(self, batch: Sequence[Exposure]) -> None:
        if batch:
            with self._database.transaction() as connection:
                rows = [_exposure_row(exposure) for exposure in batch]
                connection.execute(_insert(connection, exposures), rows)

    def record(self, batch: Sequence[Outcome]) -> list[Receipt | Conflict]:
        if len(batch) > MOST_OUTCOMES:
            raise UsageError(
                f"{len(batch):,} outcomes at once.", fix=f"Send at most {MOST_OUTCOMES:,}."
            )
        if not batch:
            return []
        kept: dict[_Identity, Outcome] = {}
        for outcome in batch:
            kept.setdefault(_identity(outcome), outcome)
        # Sorted, so that two batches of the same outcomes never wait for each other.
        rows = [_outcome_row(kept[identity]) for identity in sorted(kept)]
        key = [outcomes.c[name] for name in _IDENTITY]
        with self._database.transaction() as connection:
            inserted = connection.execute(_insert(connection, outcomes).returning(*key), rows)
            new = {(row[0], row[1], row[2], row[3]) for row in inserted}
            if old := kept.keys() - new:
                found = connection.execute(select(outcomes).where(tuple_(*key).in_(list(old))))
                kept |= {_identity(each): each for each in map(_outcome, found)}
        told: list[Receipt | Conflict] = []
        for outcome in batch:
            identity = _identity(outcome)
            if identity in new:
                new.remove(identity)  # what else the batch has under it comes second
                told.append(Receipt(outcome, "late" if outcome.late else "recorded"))
            else:
                told.append(_again(outcome, kept[identity]))
        return told

    def exposure(self, request_id: str) -> Exposure | None:
        named = select(exposures).where(exposures.c.request_id == _plain(request_id))
        with self._database.transaction() as connection:
            found = connection.execute(named.order_by(exposures.c.seq.desc()).limit(1)).first()
        return None if found is None else _exposure(found)

    def units(self, experiment: str, measures: Sequence[Measure] = ()) -> Units:
        with self._database.transaction() as connection:
            return sum_units(connection, experiment, measures)

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        return map(_exposure, self._rows(exposures, experiment))

    def outcomes(self, experiment: str) -> Iterator[Outcome]:
        return map(_outcome, self._rows(outcomes, experiment))

    def shadow(self, batch: Sequence[Shadow]) -> None:
        if batch:
            with self._database.transaction() as connection:
                rows = [_shadow_row(shadow) for shadow in batch]
                connection.execute(_insert(connection, shadows), rows)

    def shadows(self, experiment: str) -> Iterator[Shadow]:
        return map(_shadow, self._rows(shadows, experiment))

    def close(self) -> None:
        self._database.engine.dispose()

    def _rows(self, table: Table, experiment: str) -> Iterator[Row[Any]]:
        chosen = select(table).where(table.c.experiment == experiment).order_by(table.c.seq)
        with self._database.transaction() as connection:
            yield from connection.execution_options(yield_per=_AT_ONCE).execute(chosen)


def _insert(connection: Connection, table: Table) -> Any:
    """Return an INSERT that leaves alone what is there already."""
    kind = postgresql if connection.dialect.name == "postgresql" else sqlite
    return kind.insert(table).on_conflict_do_nothing()


def _identity(outcome: Outcome) -> _Identity:
    return outcome.experiment, outcome.unit, outcome.request_id, outcome.key


def _again(outcome: Outcome, first: Outcome) -> Receipt | Conflict:
    same = (outcome.metric, outcome.kind, outcome.value) == (first.metric, first.kind, first.value)
    if same:
        return Receipt(first, "repeated")
    return Conflict(
        f"The outcome {outcome.key!r} of request {outcome.request_id} is"
        f" {first.metric} = {first.value!r} already.",
        fix="The first stands. Where a request has several outcomes, send an idempotency key each.",
    )


def _exposure_row(exposure: Exposure) -> dict[str, Any]:
    row = {name: getattr(exposure, name) for name in Exposure.__slots__}
    for name in ("unit", "request_id", "finish_reason"):
        row[name] = _plain(row[name])
    for name in ("latency_ms", "ttft_ms"):
        row[name] = row[name] if row[name] is not None and math.isfinite(row[name]) else None
    return row


def _shadow_row(shadow: Shadow) -> dict[str, Any]:
    row = {name: getattr(shadow, name) for name in Shadow.__slots__}
    texts = ("unit", "request_id", "prompt", "answer", "shadow_answer")
    return {**row, **{name: _plain(row[name]) for name in texts}}


def _outcome_row(outcome: Outcome) -> dict[str, Any]:
    row = {name: getattr(outcome, name) for name in Outcome.__slots__}
    value = row.pop("value")
    labelled = outcome.kind == "label"
    return {
        **row,
        "kind": outcome.kind,
        "number": None if labelled else float(value),
        "label": value if labelled else None,
    }


def _plain(text: str | None) -> str | None:
    """Return what every database takes as text."""
    return text and text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _exposure(row: Row[Any]) -> Exposure:
    fields = dict(row._mapping)
    fields.pop("seq")
    return Exposure(**fields)


def _shadow(row: Row[Any]) -> Shadow:
    fields = dict(row._mapping)
    fields.pop("seq")
    return Shadow(**fields)


def _outcome(row: Row[Any]) -> Outcome:
    fields = dict(row._mapping)
    number, label, kind = fields.pop("number"), fields.pop("label"), fields.pop("kind")
    fields.pop("seq")
    value = label if kind == "label" else bool(number) if kind == "boolean" else number
    return Outcome(value=value, **fields)
