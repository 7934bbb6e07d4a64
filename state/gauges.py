"""The figures of the whole installation that Prometheus is shown, in one bounded statement."""

from __future__ import annotations

from state.queries import COUNTS, QUEUES
from state.sql import Sql

__all__ = ["GAUGES"]

_COUNTED = 100_000

# Rows (kind, queue, state, number, seconds):
# tasks   number of tasks of the queue in that state
# queue   number 1 if the queue is paused; seconds since its longest waiting task is queued, NULL if none waits
# outbox  number of rows, exact up to 100,000 and by their ids above that; seconds since the oldest is queued
GAUGES = Sql(f"""
WITH q AS MATERIALIZED ({QUEUES.text}), c (name, state, n) AS MATERIALIZED ({COUNTS.text}),
first AS MATERIALIZED (SELECT o.id, o.task_id FROM {{s}}.outbox o ORDER BY o.id LIMIT 1),
waiting AS MATERIALIZED (SELECT count(*) AS n FROM (SELECT 1 FROM {{s}}.outbox LIMIT {_COUNTED}) x)
SELECT 'tasks' AS kind, c.name AS queue, CAST(c.state AS int) AS state, c.n AS number, CAST(NULL AS float8) AS seconds
FROM c
UNION ALL
SELECT 'queue', q.name, NULL, CAST(CAST(q.paused AS int) AS bigint),
       CAST(extract(epoch FROM clock_timestamp() - q.oldest) AS float8)
FROM q
UNION ALL
SELECT 'outbox', '', NULL,
       CASE WHEN w.n < {_COUNTED} THEN w.n
            ELSE greatest(w.n, (SELECT max(o.id) FROM {{s}}.outbox o) - (SELECT f.id FROM first f) + 1) END,
       (SELECT CAST(extract(epoch FROM clock_timestamp() - e.at) AS float8)
        FROM first f JOIN {{s}}.tasks t ON t.id = f.task_id
        JOIN {{s}}.task_events e ON e.task_id = t.id AND e.seq = t.seq)
FROM waiting w
""")
