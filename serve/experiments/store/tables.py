"""The tables, as this release reads and writes them; `migrations/` makes them so."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up an INTEGER key alone
metadata = MetaData()

exposures = Table(
    "experiment_exposures",
    metadata,
    Column("seq", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False),
    Column("experiment", String, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("arm", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("probability", Double, nullable=False),
    Column("request_id", String, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("error", Boolean, nullable=False),
    Column("refusal", Boolean, nullable=False),
    Column("latency_ms", Double),
    Column("ttft_ms", Double),
    Column("output_tokens", Integer),
    Column("finish_reason", String),
    Column("regenerate", Boolean, nullable=False),
    Column("source", String, nullable=False),
    Column("prompt_tokens", Integer),
    Index("experiment_exposures_id", "id", unique=True),
    Index("experiment_exposures_unit", "experiment", "phase", "unit"),
    Index("experiment_exposures_request", "request_id"),
)

outcomes = Table(
    "experiment_outcomes",
    metadata,
    Column("seq", _NUMBER, primary_key=True, autoincrement=True),
    Column("experiment", String, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("arm", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("key", String, nullable=False),
    Column("metric", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("number", Double),  # of a boolean 0 or 1, of a label nothing
    Column("label", String),
    Column("comment", Text, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("late", Boolean, nullable=False),
    Index("experiment_outcomes_key", "experiment", "unit", "request_id", "key", unique=True),
)

shadows = Table(
    "experiment_shadows",
    metadata,
    Column("seq", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False),
    Column("experiment", String, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("arm", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("request_id", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("at_s", Double, nullable=False),
    Column("error", Boolean, nullable=False),
    Column("latency_ms", Double),
    Column("output_tokens", Integer),
    Column("prompt", Text),
    Column("answer", Text),
    Column("shadow_answer", Text),
    Index("experiment_shadows_id", "id", unique=True),
    Index("experiment_shadows_experiment", "experiment"),
)
