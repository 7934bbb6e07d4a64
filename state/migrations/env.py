"""What alembic runs around our migrations: one transaction, one lock, our own schema.

Started only by ``state.migrate``, which hands over the schema and, when online, the open connection.
"""

from __future__ import annotations

from alembic import context

from state.locks import MIGRATE, advisory_key
from state.sql import check_schema

schema = check_schema(context.config.attributes["schema"])
lock_timeout_ms = int(context.config.attributes["lock_timeout_ms"])
offline = context.is_offline_mode()

context.configure(
    connection=None if offline else context.config.attributes["connection"],
    dialect_name="postgresql" if offline else None,
    # without it every per cent sign would be written twice, as drivers want it
    dialect_opts={"paramstyle": "named"} if offline else None,
    literal_binds=offline,
    version_table="schema_version",
    version_table_schema=schema,
    dispatcher_schema=schema,
)
with context.begin_transaction():
    # Two processes that migrate at the same time follow each other; the later one then finds nothing to do.
    context.execute(f"SET LOCAL lock_timeout = {lock_timeout_ms}")
    context.execute("SELECT pg_advisory_xact_lock({}, {})".format(*advisory_key(schema, MIGRATE)))
    context.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    context.run_migrations()
