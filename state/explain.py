"""What the database knows about why a task has not run yet.  Reads only; every statement is bounded."""

from __future__ import annotations

from state.sql import Sql

__all__ = ["BEFORE", "FACTS", "LEADER", "OUTBOX", "PUBLISHED", "WRITERS"]

# One row for a task that is there.  The look into the outbox has no index to use: the outbox is empty or bounded.
FACTS = Sql("""
SELECT t.state, t.reason, t.attempt, t.tries, t.max_tries, t.dispatch, t.flags,
       t.created_at, t.due_at, t.expires_at, t.started_at, t.finished_at, clock_timestamp() AS now,
       (SELECT x.name FROM {s}.types x WHERE x.id = t.type_id) AS type,
       q.name AS queue, q.stream, q.paused, q.paused_at, q.paused_by, t.lane_id,
       (SELECT x.name FROM {s}.lanes x WHERE x.id = t.lane_id) AS lane,
       (SELECT x.gate FROM {s}.parked x WHERE x.task_id = t.id AND x.attempt = t.attempt) AS gate,
       (SELECT x.worker FROM {s}.session_log x WHERE x.session_id = t.session_id) AS worker,
       (SELECT CAST(x.boot_id AS text) FROM {s}.session_log x WHERE x.session_id = t.session_id) AS boot_id,
       (SELECT x.expires_at FROM {s}.sessions x WHERE x.id = t.session_id) AS lease_until,
       e.at, e.actor, CAST(e.detail - 'traceback' AS text) AS detail,
       (SELECT x.error FROM {s}.failures x WHERE x.task_id = t.id) AS error,
       CASE WHEN t.state = 3 THEN (SELECT min(o.id) FROM {s}.outbox o
           WHERE o.task_id = t.id AND o.attempt = t.attempt AND o.dispatch = t.dispatch) END AS outbox_id,
       (SELECT json_build_array(x.fraction, x.message, extract(epoch FROM x.at)) #>> '{}'
        FROM {s}.progress x WHERE x.task_id = t.id AND x.attempt = t.attempt) AS progress,
       CASE WHEN t.state = 1 THEN ARRAY(
           SELECT DISTINCT d.parent_id FROM {s}.deps d LEFT JOIN {s}.tasks p ON p.id = d.parent_id
           LEFT JOIN {s}.flows f ON f.id = d.parent_id
           WHERE d.child_id = t.id AND (p.state < 6 OR f.state < 6) ORDER BY 1 LIMIT 10) END AS waits_for
FROM {s}.tasks t JOIN {s}.queues q ON q.id = t.queue_id
LEFT JOIN {s}.task_events e ON e.task_id = t.id AND e.seq = t.seq
WHERE t.id = CAST(:id AS uuid)
""")

# Rows before this one (at most 100,000 are counted), and how far creation is from refusing new tasks.
OUTBOX = Sql("""
SELECT (SELECT count(*) FROM (SELECT 1 FROM {s}.outbox o WHERE o.id < CAST(:outbox_id AS bigint) LIMIT 100000) b),
       s.last_value - r.low_id, r.outbox_limit
FROM {s}.outbox_id_seq s, {s}.relay_state r
""")

# Which batch carried the message, and where in it.
PUBLISHED = Sql("""
SELECT l.batch, u.n, l.published_at
FROM {s}.dispatch_log l
CROSS JOIN LATERAL unnest(l.task_ids, l.attempts, l.dispatches) WITH ORDINALITY AS u (id, attempt, dispatch, n)
WHERE l.lane_id = CAST(:lane_id AS int) AND u.id = CAST(:id AS uuid) AND u.attempt = CAST(:attempt AS int)
  AND u.dispatch = CAST(:dispatch AS int)
ORDER BY l.batch DESC LIMIT 1
""")

# Tasks of the lane that were published before it and have not started; of the nearest 200,000, at most 10,000.
BEFORE = Sql("""
SELECT count(*) FROM (
    SELECT 1 FROM (
        SELECT u.id, u.attempt, u.dispatch FROM {s}.dispatch_log l
        CROSS JOIN LATERAL unnest(l.task_ids, l.attempts, l.dispatches) WITH ORDINALITY AS u (id, attempt, dispatch, n)
        WHERE l.lane_id = CAST(:lane_id AS int)
          AND (l.batch < CAST(:batch AS bigint) OR l.batch = CAST(:batch AS bigint) AND u.n < CAST(:n AS bigint))
        ORDER BY l.batch DESC LIMIT 200000) e
    JOIN {s}.tasks t ON t.id = e.id
    WHERE t.state = 3 AND t.attempt = e.attempt AND t.dispatch = e.dispatch LIMIT 10000) b
""")

# The relay that leads: it holds the leader's lock (two keys).
LEADER = Sql("""
SELECT l.pid, a.application_name, a.backend_start
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND CAST(l.classid AS bigint) = CAST(:k1 AS bigint) & 4294967295 AND CAST(l.objid AS bigint) = CAST(:k2 AS bigint)
""")

# Open transactions of others that have written tasks: one of them may hold a task that nobody can see yet.
WRITERS = Sql("""
SELECT a.pid, a.application_name, a.xact_start
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'RowExclusiveLock' AND a.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.relation = CAST(to_regclass('{s}.tasks') AS oid)
  AND a.application_name NOT LIKE 'dispatcher worker%' AND a.application_name NOT LIKE 'dispatcher relay%'
ORDER BY a.xact_start NULLS LAST LIMIT 20
""")
