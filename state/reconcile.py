"""Reconcile: queued tasks whose message is gone are dispatched again; finished entries of the dispatch log are dropped.

Every published and not yet trimmed dispatch stands in ``dispatch_log``.  A lane of a work queue is a first-in-first-out
line, so whatever was published before its first remaining message must have been acknowledged; a task of such an
entry that is still queued with the same attempt and dispatch lost its message.
"""

from __future__ import annotations

from state.sql import Sql

__all__ = ["ENTRIES", "NEEDED", "RECONCILE", "REMEMBER_STREAM", "STREAM_SEEN"]

# Read before the broker is asked: only entries that were committed by then may be judged by its answer.
ENTRIES = Sql("SELECT lane_id, max(batch), count(*) FROM {s}.dispatch_log GROUP BY lane_id ORDER BY lane_id")

# Guard: queued ∧ attempt ∧ dispatch ∧ not parked.  An entry with a row that somebody has locked stays for later.
# OFFSET 0 makes each task a look-up by its id: where statistics say that no task is queued, the planner would else read
# a table of up to 100,000 tasks whole, once for every entry.
RECONCILE = Sql("""
WITH old AS MATERIALIZED (
    SELECT batch, task_ids, attempts, dispatches FROM {s}.dispatch_log
    WHERE lane_id = CAST(:lane AS int) AND batch <= CAST(:upto AS bigint)
      AND (CAST(:before AS timestamptz) IS NULL OR published_at < CAST(:before AS timestamptz))
    ORDER BY batch LIMIT CAST(:most AS int) FOR UPDATE SKIP LOCKED
), lost AS MATERIALIZED (
    SELECT o.batch, t.id, t.attempt, t.dispatch
    FROM old o, unnest(o.task_ids, o.attempts, o.dispatches) AS e (id, attempt, dispatch),
         LATERAL (SELECT x.id, x.state, x.attempt, x.dispatch FROM {s}.tasks x WHERE x.id = e.id OFFSET 0) t
    WHERE t.state = 3 AND t.attempt = e.attempt AND t.dispatch = e.dispatch
      AND NOT EXISTS (SELECT 1 FROM {s}.parked p WHERE p.task_id = t.id)
), locked AS MATERIALIZED (
    SELECT t.id FROM lost l JOIN {s}.tasks t ON t.id = l.id
    WHERE t.state = 3 AND t.attempt = l.attempt AND t.dispatch = l.dispatch
    ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED
), moved AS (
    UPDATE {s}.tasks t SET dispatch = t.dispatch + 1 FROM locked l WHERE t.id = l.id
    RETURNING t.id, t.attempt, t.dispatch, t.lane_id
), again AS (
    INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id) SELECT id, attempt, dispatch, lane_id FROM moved
), gone AS (
    DELETE FROM {s}.dispatch_log d USING old o WHERE d.batch = o.batch AND NOT EXISTS (
        SELECT 1 FROM lost l WHERE l.batch = o.batch AND l.id NOT IN (SELECT id FROM locked))
    RETURNING d.batch
)
SELECT (SELECT count(*) FROM old), (SELECT count(*) FROM gone), (SELECT count(*) FROM moved)
""")

# Whether a message has anything left to say: everything else is acknowledged without a run when a worker gets it.
NEEDED = Sql("""
SELECT EXISTS (
    SELECT FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:dispatches AS int[]))
        AS r (id, attempt, dispatch)
    JOIN {s}.tasks t ON t.id = r.id WHERE t.state = 3 AND t.attempt = r.attempt AND t.dispatch = r.dispatch)
""")

STREAM_SEEN = Sql("SELECT created FROM {s}.streams_seen WHERE name = :name")

REMEMBER_STREAM = Sql("""
INSERT INTO {s}.streams_seen (name, created) VALUES (:name, :created)
ON CONFLICT (name) DO UPDATE SET created = excluded.created, reconciled_at = now()
""")
