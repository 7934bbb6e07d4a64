"""A long past for the tables: finished tasks with all their events, made by SQL in bulk."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
from psycopg import sql

from dispatcher.bench.rounds import say
from dispatcher.bench.tasks import noop
from dispatcher.settings import Settings
from state.sql import Sql

__all__ = ["make_past"]

_CHUNK = 250_000
_SPREAD_DAYS = 10

# Task n of the past was created some days ago, in the order of its number; ids are the UUIDv7 of that moment.
_IDS = """
SELECT CAST(lpad(to_hex(CAST(floor(extract(epoch FROM at) * 1000) AS bigint)), 12, '0') || '7'
            || lpad(to_hex(n % 4096), 3, '0') || '8' || lpad(to_hex(n), 15, '0') AS uuid) AS id, at
FROM (SELECT n, date_trunc('day', now()) - make_interval(days => CAST(:days AS int))
                + n * (make_interval(days => CAST(:days AS int)) - interval '1 day') / CAST(:total AS bigint) AS at
      FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n) AS numbers
"""
_TASKS = Sql(f"""
INSERT INTO {{s}}.tasks (id, queue_id, lane_id, type_id, state, attempt, tries, max_tries, seq, created_at, started_at,
                         finished_at, args, result)
SELECT m.id, l.queue_id, l.id, t.id, 6, 1, 1, 5, 3, m.at, m.at, m.at, :args, CAST('null' AS bytea)
FROM ({_IDS}) AS m, {{s}}.types t, {{s}}.lanes l JOIN {{s}}.queues q ON q.id = l.queue_id
WHERE t.name = :type AND q.name = 'default' AND l.name = 'default'
""")
_EVENTS = Sql(f"""
INSERT INTO {{s}}.task_events (task_id, seq, from_state, to_state, attempt, session_id, at)
SELECT m.id, e.seq, e.before, e.after, 1, CASE WHEN e.seq > 1 THEN -1 END, m.at
FROM ({_IDS}) AS m CROSS JOIN (VALUES (1, CAST(NULL AS int), 3), (2, 3, 4), (3, 4, 6)) AS e (seq, before, after)
""")
_COUNT = Sql("INSERT INTO {s}.task_counts SELECT id, 6, CAST(:n AS bigint) FROM {s}.queues WHERE name = 'default'")


def make_past(settings: Settings, rows: int, report: Callable[[str], None] = say) -> float:
    """Put ``rows`` succeeded tasks into the tables, then do what autovacuum would have done; returns the seconds.

    The queue ``default`` and the type must be known already, which a worker sees to at its start.
    """
    begun = time.monotonic()
    with psycopg.connect(settings.database_url or "", autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")  # for these rows alone; a checkpoint follows
        for first in range(1, rows + 1, _CHUNK):
            last = min(rows, first + _CHUNK - 1)
            span = {"first": first, "last": last, "total": rows, "days": _SPREAD_DAYS}
            with connection.transaction():
                for statement, more in ((_TASKS, {"args": noop.call(0).args, "type": noop.name}), (_EVENTS, {})):
                    connection.execute(statement.psycopg(settings.db_schema).encode(), span | more)
                connection.execute(_COUNT.psycopg(settings.db_schema).encode(), {"n": last - first + 1})
            report(f"past: {last:,} of {rows:,} rows after {time.monotonic() - begun:.0f} s")
        for table in ("tasks", "task_events"):
            place = sql.Identifier(settings.db_schema, table)
            connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(place))
        with suppress(psycopg.errors.InsufficientPrivilege):
            connection.execute("CHECKPOINT")
    return time.monotonic() - begun
