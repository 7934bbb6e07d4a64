"""A person's writes: cancel, retry, pause and resume, and the parking place of a paused queue.

Every statement takes its row locks in id order first.  Run ``LOCK`` before ``CANCEL`` and ``RETRY``, in the same
transaction: a statement that has to wait for a row goes on with the snapshot from before the wait, and would not see
the timer or the failure that the other transaction left in a side table.
"""

from __future__ import annotations

from state.sql import Sql

__all__ = ["CANCEL", "LOCK", "PARK", "PAUSE", "QUEUE_NAMES", "RESUME", "RETRY", "UNPARK", "UNPARK_ANY"]

# Waits for whoever holds the rows, so that the statement after it starts with a snapshot that sees their work.
LOCK = Sql("""
SELECT t.id FROM {s}.tasks t WHERE t.id = ANY (CAST(:ids AS uuid[])) ORDER BY t.id FOR NO KEY UPDATE
""")

# Waiting tasks end at once; a running one gets its flag and a request row, whose trigger wakes the leader.  So does a
# row with session 0 for each task that ended here: the leader tells those who wait for it, and deletes the row.  The
# children of a handler that waited for them end with it: that is the leader's work too, however many they are.
# Returns (id, outcome, state) for every id asked for; outcome is 'cancelled', 'cancel_requested', 'too_late' or
# 'not_found'.  'cancelled' is only said of a row that this statement, or an earlier cancel, really ended.
CANCEL = Sql("""
WITH asked AS MATERIALIZED (
    SELECT DISTINCT id FROM unnest(CAST(:ids AS uuid[])) AS i (id)
), found AS MATERIALIZED (
    SELECT t.id, t.state, t.attempt, t.session_id FROM {s}.tasks t
    WHERE t.id = ANY (CAST(:ids AS uuid[])) ORDER BY t.id FOR NO KEY UPDATE
), stopped AS (
    UPDATE {s}.tasks t SET state = 8, reason = 7, finished_at = clock_timestamp(), seq = t.seq + 1
    FROM found f
    WHERE t.id = f.id AND f.state IN (1, 2, 3, 5) AND t.state = f.state AND t.attempt = f.attempt
    RETURNING t.id, t.tenant_id, t.queue_id, t.type_id, t.attempt, t.seq, t.finished_at, t.flags,
              f.state AS from_state
), flagged AS (
    UPDATE {s}.tasks t SET flags = t.flags | 1
    FROM found f
    WHERE t.id = f.id AND f.state = 4 AND t.state = 4 AND t.attempt = f.attempt AND t.session_id = f.session_id
    RETURNING t.id, t.session_id, t.attempt
), children AS (  -- what a handler waited for that will not go on: the leader cancels it
    SELECT w.id FROM stopped s JOIN {s}.deps d ON d.child_id = s.id AND d.edge_key = '~children'
    JOIN {s}.flows w ON w.id = d.parent_id AND w.state = 4 WHERE s.flags & 32 = 32
), request AS (
    INSERT INTO {s}.cancel_requests (session_id, task_id, attempt)
    SELECT session_id, id, attempt FROM flagged UNION ALL SELECT 0, id, attempt FROM stopped
    UNION ALL SELECT -1, id, 0 FROM children ORDER BY 1, 2
    ON CONFLICT (session_id, task_id) DO UPDATE SET attempt = excluded.attempt, sent = false
), event AS (
    INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, reason, attempt, at, actor)
    SELECT id, seq, from_state, 8, 7, attempt, finished_at, CAST(:actor AS text) FROM stopped
), failure AS (
    INSERT INTO {s}.failures AS x (task_id, tenant_id, queue_id, type_id, state, reason, error, finished_at)
    SELECT id, tenant_id, queue_id, type_id, 8, 7, NULL, finished_at FROM stopped ORDER BY id
    ON CONFLICT (task_id) DO UPDATE
        SET state = excluded.state, reason = excluded.reason, error = NULL, finished_at = excluded.finished_at
), timer AS (
    DELETE FROM {s}.timers WHERE task_id IN (SELECT id FROM stopped)
), place AS (
    DELETE FROM {s}.parked WHERE task_id IN (SELECT id FROM stopped)
), counted AS (
    INSERT INTO {s}.task_counts
    SELECT m.queue_id, d.state, sum(d.n)
    FROM stopped m, LATERAL (VALUES (CAST(m.from_state AS int), -1), (8, 1)) AS d (state, n) GROUP BY 1, 2
), released AS MATERIALIZED (
    SELECT {s}.release(ended.ids) FROM (SELECT array_agg(id) AS ids FROM stopped WHERE flags & 16 = 16) ended
    WHERE ended.ids IS NOT NULL
)
SELECT a.id,
       CASE WHEN s.id IS NOT NULL OR f.state = 8 THEN 'cancelled'
            WHEN r.id IS NOT NULL THEN 'cancel_requested'
            WHEN f.id IS NULL THEN 'not_found'
            ELSE 'too_late' END AS outcome,
       CASE WHEN s.id IS NOT NULL THEN 8 ELSE f.state END AS state
FROM asked a LEFT JOIN found f ON f.id = a.id LEFT JOIN stopped s ON s.id = a.id LEFT JOIN flagged r ON r.id = a.id
    LEFT JOIN released ON true
""")

# A new generation: nothing consumed, no cancel, no expiry (a person wants it run), a new attempt and a new message.
# A task that still waits for others is not retryable: retry those, and it follows.
# Returns (id, outcome, state); outcome is 'queued', 'not_retryable' or 'not_found'.
RETRY = Sql("""
WITH asked AS MATERIALIZED (
    SELECT DISTINCT id FROM unnest(CAST(:ids AS uuid[])) AS i (id)
), found AS MATERIALIZED (
    SELECT t.id, t.state, t.reason, t.attempt FROM {s}.tasks t
    WHERE t.id = ANY (CAST(:ids AS uuid[])) ORDER BY t.id FOR NO KEY UPDATE
), moved AS (
    UPDATE {s}.tasks t
    SET state = 3, reason = NULL, generation = t.generation + 1, attempt = t.attempt + 1, dispatch = t.dispatch + 1,
        tries = 0, flags = t.flags & ~1, seq = t.seq + 1, due_at = NULL, expires_at = NULL, started_at = NULL,
        finished_at = NULL, result = NULL
    FROM found f
    WHERE t.id = f.id AND f.state IN (7, 8) AND t.state = f.state AND t.attempt = f.attempt
      AND CASE WHEN t.flags & 32 = 0 THEN true ELSE NOT EXISTS (
          SELECT 1 FROM {s}.joins j WHERE j.node_id = t.id AND j.shard = 0 AND j.remaining > 0) END
    RETURNING t.id, t.queue_id, t.lane_id, t.attempt, t.dispatch, t.seq, t.flags, f.state AS from_state, f.reason
), event AS (
    INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, reason, attempt, at, actor)
    SELECT id, seq, from_state, 3, 7, attempt, clock_timestamp(), CAST(:actor AS text) FROM moved
), sent AS (
    INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id)
    SELECT id, attempt, dispatch, lane_id FROM moved ORDER BY id
), failure AS (
    DELETE FROM {s}.failures WHERE task_id IN (SELECT id FROM moved)
), timer AS (
    DELETE FROM {s}.timers WHERE task_id IN (SELECT id FROM moved)
), bar AS (
    DELETE FROM {s}.progress WHERE task_id IN (SELECT id FROM moved)
), counted AS (
    INSERT INTO {s}.task_counts
    SELECT m.queue_id, d.state, sum(d.n)
    FROM moved m, LATERAL (VALUES (CAST(m.from_state AS int), -1), (3, 1)) AS d (state, n) GROUP BY 1, 2
), revived AS MATERIALIZED (
    SELECT {s}.revive(again.ids, again.ends) FROM (
        SELECT array_agg(id) AS ids, array_agg({s}.task_end(from_state, reason)) AS ends
        FROM moved WHERE flags & 16 = 16) again
    WHERE again.ids IS NOT NULL
)
SELECT a.id,
       CASE WHEN m.id IS NOT NULL THEN 'queued' WHEN f.id IS NULL THEN 'not_found' ELSE 'not_retryable' END AS outcome,
       CASE WHEN m.id IS NOT NULL THEN 3 ELSE f.state END AS state
FROM asked a LEFT JOIN found f ON f.id = a.id LEFT JOIN moved m ON m.id = a.id LEFT JOIN revived ON true
""")

# Both return (id, changed) for a known queue and no row for an unknown one.  The row lock makes a park wait.
PAUSE = Sql("""
WITH before AS MATERIALIZED (SELECT id, paused FROM {s}.queues WHERE name = :queue FOR NO KEY UPDATE)
UPDATE {s}.queues q
SET paused = true, paused_at = coalesce(q.paused_at, clock_timestamp()),
    paused_by = CASE WHEN b.paused THEN q.paused_by ELSE CAST(:actor AS text) END
FROM before b WHERE q.id = b.id RETURNING q.id, NOT b.paused
""")
RESUME = Sql("""
WITH before AS MATERIALIZED (SELECT id, paused FROM {s}.queues WHERE name = :queue FOR NO KEY UPDATE)
UPDATE {s}.queues q SET paused = false, paused_at = NULL, paused_by = NULL
FROM before b WHERE q.id = b.id RETURNING q.id, b.paused
""")
QUEUE_NAMES = Sql("SELECT name FROM {s}.queues ORDER BY name")

# Used by workers for messages of a paused queue.  Returns the ids that are parked now: their messages may be acked.
# Every other id was not parked (not paused any more, claimed, ended, or its row is locked): keep the message.
# FOR SHARE on the queue waits for a resume that is under way, and a resume that comes later waits for us; so a parked
# row is either seen by the unpark that follows the resume, or never written.
PARK = Sql("""
WITH input AS MATERIALIZED (
    SELECT DISTINCT ON (i.id) i.id, i.attempt
    FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS i (id, attempt) ORDER BY i.id, i.attempt DESC
), gate AS MATERIALIZED (
    SELECT q.id FROM {s}.queues q
    WHERE q.paused AND q.id = ANY (ARRAY(SELECT t.queue_id FROM input i JOIN {s}.tasks t ON t.id = i.id))
    ORDER BY q.id FOR SHARE
), held AS MATERIALIZED (
    SELECT t.id, t.attempt, t.queue_id FROM input i JOIN {s}.tasks t ON t.id = i.id
    WHERE t.state = 3 AND t.attempt = i.attempt AND t.queue_id = ANY (ARRAY(SELECT id FROM gate))
    ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED
)
INSERT INTO {s}.parked AS p (task_id, attempt, gate, gate_key)
SELECT id, attempt, 1, queue_id FROM held ORDER BY id
ON CONFLICT (task_id) DO UPDATE SET attempt = excluded.attempt, gate_key = excluded.gate_key
RETURNING p.task_id
""")

# Parked rows whose task moved on meanwhile are only cleared away.  A task that somebody else has locked stays parked
# for the next call.  Not a move: the task was queued and stays queued, it gets a new message (dispatch + 1).
_UNPARK = """
WITH gate AS MATERIALIZED (
    SELECT q.id FROM {s}.queues q
    WHERE NOT q.paused AND __WHICH__ ORDER BY q.id FOR SHARE
), head AS MATERIALIZED (
    SELECT h.task_id, h.attempt, h.pos FROM gate g CROSS JOIN LATERAL (
        SELECT p.task_id, p.attempt, p.pos FROM {s}.parked p WHERE p.gate = 1 AND p.gate_key = g.id
        ORDER BY p.pos LIMIT CAST(:most AS int) FOR UPDATE SKIP LOCKED) h
    LIMIT CAST(:most AS int)
), held AS MATERIALIZED (
    SELECT t.id, t.state, t.attempt, h.attempt AS parked_attempt, h.pos FROM head h JOIN {s}.tasks t ON t.id = h.task_id
    ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED
), cleared AS (
    DELETE FROM {s}.parked p USING held h WHERE p.task_id = h.id
), moved AS (
    UPDATE {s}.tasks t SET dispatch = t.dispatch + 1 FROM held h
    WHERE t.id = h.id AND h.state = 3 AND h.attempt = h.parked_attempt AND t.state = 3 AND t.attempt = h.attempt
    RETURNING t.id, t.attempt, t.dispatch, t.lane_id, h.pos
), sent AS (
    INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id)
    SELECT id, attempt, dispatch, lane_id FROM moved ORDER BY pos
)
SELECT (SELECT count(*) FROM held) AS cleared, (SELECT count(*) FROM moved) AS moved
"""

# Both return (cleared, moved): call again, in a new transaction, while ``cleared`` is not 0.
UNPARK = Sql(_UNPARK.replace("__WHICH__", "q.id = CAST(:queue_id AS int)"))
# The leader's backstop, for a resume whose command died half-way.
UNPARK_ANY = Sql(
    _UNPARK.replace(
        "__WHICH__",
        "EXISTS (SELECT 1 FROM {s}.parked p WHERE p.gate = 1 AND p.gate_key = q.id)",
    )
)
