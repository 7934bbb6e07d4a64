"""Which finished tasks are past their time: walks by id, which is by time of creation, a step at a time.

Succeeded tasks are walked along the index (queue, id) of ``tasks``, failed and cancelled ones along the small table
``failures``: no index knows a state, and what is kept longer than the rest must not be read again at every pass.
"""

from __future__ import annotations

from state.sql import Sql

__all__ = ["PRUNE_SESSION_LOG", "QUEUES", "STOPPED", "SUCCEEDED"]

QUEUES = Sql("SELECT id, name FROM {s}.queues ORDER BY id")

# What may not go yet although its time is over, one line each: whose key still counts, and what is part of a flow.
_KEPT = (
    "t.flags & 2 = 2 AND EXISTS (SELECT FROM {s}.task_keys k WHERE k.task_id = t.id AND k.expires_at > now())",
    "t.flags & 16 = 16 AND EXISTS (SELECT FROM {s}.flow_nodes n WHERE n.node_id = t.id)",
)

# One entry per queue: where to go on, and how many seconds each state is kept (NULL: for ever).  Nothing that was made
# later than the shortest of these can have ended before it.  Returns a row per queue that it looked at: its position in
# :queues, tasks looked at, the last of them, and the ids and states of those that may go.  The row comparisons are
# meant: see state.listing.
_WALK = """
WITH asked AS MATERIALIZED (
    SELECT a.*, {s}.id_at(now() - make_interval(secs => least(a.succeeded, a.failed, a.cancelled))) AS high
    FROM unnest(CAST(:queues AS int[]), CAST(:lows AS uuid[]), CAST(:succeeded AS float8[]), CAST(:failed AS float8[]),
                CAST(:cancelled AS float8[])) WITH ORDINALITY AS a (queue, low, succeeded, failed, cancelled, n)
), seen AS MATERIALIZED (
    SELECT a.n, a.succeeded, a.failed, a.cancelled, w.id FROM asked a CROSS JOIN LATERAL (
        SELECT x.__ID__ AS id FROM {s}.__TABLE__ x
        WHERE (x.queue_id, x.__ID__) > (a.queue, a.low) AND (x.queue_id, x.__ID__) < (a.queue, a.high)
        ORDER BY x.queue_id, x.__ID__ LIMIT CAST(:most AS int)) w
    LIMIT CAST(:most AS int)
), past AS MATERIALIZED (
    SELECT s.n, t.id, t.state
    FROM seen s CROSS JOIN LATERAL (
        SELECT x.id, x.state, x.flags, x.finished_at FROM {s}.tasks x WHERE x.id = s.id OFFSET 0) t
    WHERE t.finished_at < now() - make_interval(
              secs => CASE t.state WHEN 6 THEN s.succeeded WHEN 7 THEN s.failed WHEN 8 THEN s.cancelled END)
      AND NOT (__KEPT__)
)
SELECT s.n, count(*), (array_agg(s.id ORDER BY s.id DESC))[1], (SELECT array_agg(p.id) FROM past p WHERE p.n = s.n),
       (SELECT array_agg(CAST(p.state AS int)) FROM past p WHERE p.n = s.n)
FROM seen s GROUP BY s.n
""".replace("__KEPT__", " OR ".join(f"({line})" for line in _KEPT))

SUCCEEDED = Sql(_WALK.replace("__TABLE__", "tasks").replace("__ID__", "id"))
"""Along ``tasks``; give it only ``succeeded``, or it reads what is kept for other states again and again."""
STOPPED = Sql(_WALK.replace("__TABLE__", "failures").replace("__ID__", "task_id"))
"""Along ``failures``; give it ``failed`` and ``cancelled``."""

# One row per busy period of a worker: the audit trail needs its name as long as the tasks of that time are kept.
PRUNE_SESSION_LOG = Sql("""
DELETE FROM {s}.session_log WHERE session_id = ANY (ARRAY(
    SELECT l.session_id FROM (SELECT * FROM {s}.session_log ORDER BY session_id LIMIT CAST(:most AS int)) l
    WHERE l.started_at < now() - make_interval(secs => CAST(:keep AS float8))
      AND NOT EXISTS (SELECT FROM {s}.sessions s WHERE s.id = l.session_id)))
RETURNING session_id
""")
