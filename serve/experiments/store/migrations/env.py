"""What Alembic runs: migrations over the connection, and in the transaction, of `schema.py`."""

from __future__ import annotations

from alembic import context

from serve.experiments.store.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # in SQLite, too: pysqlite begins and commits nothing by itself here
)
with context.begin_transaction():
    context.run_migrations()
