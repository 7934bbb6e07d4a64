"""Creating tasks: the statements that call the functions of ``state.migrations.functions``."""

from __future__ import annotations

from state.sql import Sql

__all__ = [
    "CALL_REFUSED",
    "CREATE_CONFLICT",
    "CREATE_FOR_ANY_DRIVER",
    "CREATE_MANY",
    "CREATE_ONE",
    "CREATE_ONE_WITH",
    "CREATE_PLAIN",
    "ENQUEUE",
    "OUTBOX_FULL",
    "UNKNOWN_LANE",
]

OUTBOX_FULL = "DS001"
"""SQLSTATE: too many tasks wait for the broker."""
UNKNOWN_LANE = "DS002"
"""SQLSTATE: the queue has no such lane."""
CREATE_CONFLICT = "DS003"
"""SQLSTATE of ``CREATE_FOR_ANY_DRIVER`` only: the key belongs to a task with other arguments."""
CALL_REFUSED = "DS005"
"""SQLSTATE of ``ENQUEUE``: an argument or option is not legal; message and hint say which one and what to write."""

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

# Many tasks of one type with the same options and nothing optional in them: the usual bulk.  One row that says nothing.
CREATE_PLAIN = Sql("""
SELECT {s}.create_plain_tasks(
    CAST(:type AS text), CAST(:queue AS text), CAST(:lane AS text), CAST(:max_tries AS int), CAST(:flags AS int),
    CAST(:ids AS uuid[]), CAST(:args AS bytea[]))
""")

# For callers without the code of the type: all checks but those of the arguments' own types are made in the database,
# and what a worker registered for the type holds where a parameter is NULL.  One row (id, created).
ENQUEUE = Sql("""
SELECT c.id, c.created FROM {s}.enqueue(
    CAST(:type AS text), CAST(:args AS jsonb), queue => CAST(:queue AS text), lane => CAST(:lane AS text),
    delay => make_interval(secs => CAST(:delay AS float8)), key => CAST(:key AS text),
    max_attempts => CAST(:max_attempts AS int), tags => CAST(:tags AS text[])) AS c
""")
