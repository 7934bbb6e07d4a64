"""Creating tasks: the statements that call the functions of ``state.migrations.functions``."""

from __future__ import annotations

from state.sql import Sql

__all__ = [
    "CREATE_CONFLICT",
    "CREATE_FOR_ANY_DRIVER",
    "CREATE_MANY",
    "CREATE_ONE",
    "CREATE_ONE_WITH",
    "OUTBOX_FULL",
    "UNKNOWN_LANE",
]

OUTBOX_FULL = "DS001"
"""SQLSTATE: too many tasks wait for the broker."""
UNKNOWN_LANE = "DS002"
"""SQLSTATE: the queue has no such lane."""
CREATE_CONFLICT = "DS003"
"""SQLSTATE of ``CREATE_FOR_ANY_DRIVER`` only: the key belongs to a task with other arguments."""

_PLAIN = """
    CAST(:id AS uuid), CAST(:type AS text), CAST(:queue AS text), CAST(:lane AS text), CAST(:args AS bytea),
    CAST(:max_tries AS int), CAST(:flags AS int)"""
_OPTIONAL = """
    CAST(:run_at AS timestamptz), CAST(:delay AS float8), CAST(:expires AS float8), CAST(:meta AS text),
    CAST(:key AS text), CAST(:args_hash AS bytea), CAST(:key_ttl AS float8)"""

# The usual call: nothing optional.  One row: task_id, created, conflict.
CREATE_ONE = Sql(f"SELECT c.task_id, c.created, c.conflict FROM {{s}}.create_task({_PLAIN}) AS c")

# All options.  A key that belongs to a task with other arguments is told in the row, not by an error, which would abort
# the caller's transaction.
CREATE_ONE_WITH = Sql(f"""
SELECT c.task_id, c.created, c.conflict FROM {{s}}.create_task({_PLAIN}, {_OPTIONAL}, false) AS c
""")

# For callers who run the statement themselves: one row (task_id, created), an error where a key conflicts.
CREATE_FOR_ANY_DRIVER = Sql(f"SELECT c.task_id, c.created FROM {{s}}.create_task({_PLAIN}, {_OPTIONAL}, true) AS c")

# One entry per profile (type, queue, lane) and one per task; see the function for which arrays may be NULL.  Rows only
# where a key found its task: position, task_id, 'existing' or 'conflict'; with a conflict nothing at all is created.
CREATE_MANY = Sql("""
SELECT c.ord, c.task_id, c.outcome FROM {s}.create_tasks(
    CAST(:types AS text[]), CAST(:queues AS text[]), CAST(:lanes AS text[]),
    CAST(:ids AS uuid[]), CAST(:profile AS int[]), CAST(:args AS bytea[]), CAST(:max_tries AS int[]),
    CAST(:flags AS int[]), CAST(:run_at AS timestamptz[]), CAST(:delay AS float8[]), CAST(:expires AS float8[]),
    CAST(:meta AS text[]), CAST(:keys AS text[]), CAST(:args_hash AS bytea[]), CAST(:key_ttl AS float8[])) AS c
""")
