"""Settle: write the outcome of attempts.  Guard of every statement here: running ∧ attempt ∧ session.

``SUCCEED`` is the hot one.  ``LEAVE`` is every other exit from running; each of them goes to ``cancelled`` when a
cancel was requested, and to ``failed`` when no try is left for another attempt.  Tasks with flag 16 are part of flows:
the function ``release`` lets those go on that wait for them, in the same commit.
"""

from __future__ import annotations

from state.sql import Sql

__all__ = [
    "LEAVE",
    "LEAVE_LOGGED",
    "LOG",
    "PROGRESS",
    "SUCCEED",
    "SUCCEED_IN_FLOW",
    "SUCCEED_IN_FLOW_LOGGED",
    "SUCCEED_LOGGED",
]

# Returns one row: NULL if every outcome was accepted, otherwise the positions in :ids (from 1) of those that were.
# Rows that were locked by others are not among them and are tried again.
_SUCCEED = """
WITH locked AS MATERIALIZED (
    SELECT t.ctid AS place, t.id, i.n, i.result
    FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:results AS bytea[]))
        WITH ORDINALITY AS i (id, attempt, result, n)
    JOIN {s}.tasks t ON t.id = i.id
    WHERE t.state = 4 AND t.attempt = i.attempt AND t.session_id = CAST(:session AS bigint) AND t.flags & 16 = 0
    ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED
), moved AS (
    UPDATE {s}.tasks t
    SET state = 6, session_id = NULL, reason = NULL, result = l.result, finished_at = now(), seq = t.seq + 1
    FROM locked l WHERE t.ctid = l.place AND t.id = l.id
    RETURNING l.n, t.id, t.attempt, t.seq, t.queue_id, t.flags
), event AS (
    INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, attempt, session_id)
    SELECT id, seq, 4, 6, attempt, CAST(:session AS bigint) FROM moved
), done AS (
    DELETE FROM {s}.claims WHERE session_id = CAST(:session AS bigint) AND batch = ANY (CAST(:batches AS bigint[]))
), asked AS (
    DELETE FROM {s}.cancel_requests WHERE session_id = CAST(:session AS bigint)
      AND task_id IN (SELECT id FROM moved WHERE flags & 1 = 1)
), counted AS (
    INSERT INTO {s}.task_counts
    SELECT m.queue_id, d.state, d.sign * m.n FROM (SELECT queue_id, count(*) AS n FROM moved GROUP BY 1) m
    CROSS JOIN (VALUES (4, -1), (6, 1)) AS d (state, sign)
)
SELECT CASE WHEN count(*) < cardinality(CAST(:ids AS uuid[])) THEN coalesce(array_agg(CAST(n AS int)), '{}') END
FROM moved
"""
SUCCEED = Sql(_SUCCEED)


def _in_flow(plain: Sql) -> Sql:
    """The same for tasks of flows, which the plain statement leaves alone: their dependants are released with them."""
    guard, end = " AND t.flags & 16 = 0", "FROM moved"
    assert guard in plain.text and plain.text.endswith(end)
    told = ", {s}.release(array_agg(id) FILTER (WHERE flags & 16 = 16)) FROM moved"
    return Sql(plain.text.replace(guard, "").removesuffix(end) + told)


# :to is the wanted state: 5 retrying, 2 scheduled (snooze, release with delay), 3 queued (release), 7 failed,
# 8 cancelled.  :refund gives the try back (snooze and release).  :delay in seconds, ignored where no timer is needed.
_LEAVE = """
WITH input AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:to AS int[]), CAST(:reasons AS int[]),
                         CAST(:delays AS float8[]), CAST(:refunds AS int[]), CAST(:details AS text[]))
        AS i (id, attempt, wanted, reason, delay, refund, detail)
), locked AS MATERIALIZED (
    SELECT t.id, i.delay, i.refund, i.detail,
           CASE WHEN t.flags & 1 = 1 THEN 8
                WHEN i.wanted = 5 AND t.tries >= t.max_tries THEN 7
                ELSE i.wanted END AS goal,
           CASE WHEN t.flags & 1 = 1 THEN 7
                WHEN i.wanted = 5 AND t.tries >= t.max_tries AND i.reason = 11 THEN 1
                ELSE i.reason END AS why
    FROM input i JOIN {s}.tasks t ON t.id = i.id
    WHERE t.state = 4 AND t.attempt = i.attempt AND t.session_id = CAST(:session AS bigint)
    ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED
), moved AS (
    UPDATE {s}.tasks t
    SET state = l.goal, session_id = NULL, reason = l.why, seq = t.seq + 1,
        attempt = t.attempt + CASE WHEN l.goal < 6 THEN 1 ELSE 0 END,
        tries = t.tries - CASE WHEN l.goal < 6 THEN l.refund ELSE 0 END,
        due_at = CASE WHEN l.goal IN (2, 5) THEN now() + make_interval(secs => l.delay) ELSE t.due_at END,
        finished_at = CASE WHEN l.goal >= 6 THEN now() END
    FROM locked l WHERE t.id = l.id
    RETURNING t.id, t.attempt, t.dispatch, t.seq, t.tenant_id, t.queue_id, t.lane_id, t.type_id, t.state, t.reason,
              t.due_at, t.flags, CAST(l.detail AS jsonb) AS detail
), event AS (
    INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, reason, attempt, session_id, detail)
    SELECT id, seq, 4, state, reason, attempt - CASE WHEN state < 6 THEN 1 ELSE 0 END, CAST(:session AS bigint), detail
    FROM moved
), timer AS (
    INSERT INTO {s}.timers (task_id, kind, attempt, due_at)
    SELECT id, 1, attempt, due_at FROM moved WHERE state IN (2, 5)
    ON CONFLICT (task_id, kind) DO UPDATE SET attempt = excluded.attempt, due_at = excluded.due_at
), again AS (
    INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id)
    SELECT id, attempt, dispatch, lane_id FROM moved WHERE state = 3
), failure AS (
    INSERT INTO {s}.failures (task_id, tenant_id, queue_id, type_id, state, reason, error, fingerprint)
    SELECT id, tenant_id, queue_id, type_id, state, reason,
           left(concat_ws(': ', detail ->> 'type', detail ->> 'message'), 2000),
           decode(detail ->> 'fingerprint', 'hex')
    FROM moved WHERE state >= 7
    ON CONFLICT (task_id) DO UPDATE SET state = excluded.state, reason = excluded.reason, error = excluded.error,
        fingerprint = excluded.fingerprint, finished_at = excluded.finished_at
), done AS (
    DELETE FROM {s}.claims WHERE session_id = CAST(:session AS bigint) AND batch = ANY (CAST(:batches AS bigint[]))
), asked AS (
    DELETE FROM {s}.cancel_requests WHERE session_id = CAST(:session AS bigint)
      AND task_id IN (SELECT id FROM moved WHERE flags & 1 = 1)
), counted AS (
    INSERT INTO {s}.task_counts
    SELECT m.queue_id, d.state, sum(d.n)
    FROM moved m, LATERAL (VALUES (4, -1), (CAST(m.state AS int), 1)) AS d (state, n)
    GROUP BY 1, 2
), released AS MATERIALIZED (
    SELECT {s}.release(e.ids)
    FROM (SELECT array_agg(id) AS ids FROM moved WHERE state >= 6 AND flags & 16 = 16) e
    WHERE e.ids IS NOT NULL
)
SELECT id, state FROM moved LEFT JOIN released ON true
"""
LEAVE = Sql(_LEAVE)

# The same two with log lines, used for batches in which a handler logged: the lines of what was accepted, no others.
_LOGGED = """, logged AS (
    INSERT INTO {s}.attempt_logs (task_id, attempt, dropped, lines)
    SELECT g.id, g.attempt, g.dropped, CAST(g.lines AS jsonb)
    FROM unnest(CAST(:log_ids AS uuid[]), CAST(:log_attempts AS int[]), CAST(:log_dropped AS int[]),
                CAST(:log_lines AS text[])) AS g (id, attempt, dropped, lines)
    JOIN moved m ON m.id = g.id
)
"""
SUCCEED_LOGGED = Sql(_SUCCEED.replace("\nSELECT CASE WHEN count", f"{_LOGGED}SELECT CASE WHEN count"))
LEAVE_LOGGED = Sql(_LEAVE.replace("\nSELECT id, state", f"{_LOGGED}SELECT id, state"))
SUCCEED_IN_FLOW, SUCCEED_IN_FLOW_LOGGED = _in_flow(SUCCEED), _in_flow(SUCCEED_LOGGED)

# The log lines of attempts that a transaction of their handler has settled.
LOG = Sql("""
INSERT INTO {s}.attempt_logs (task_id, attempt, dropped, lines)
SELECT g.id, g.attempt, g.dropped, CAST(g.lines AS jsonb)
FROM unnest(CAST(:log_ids AS uuid[]), CAST(:log_attempts AS int[]), CAST(:log_dropped AS int[]),
            CAST(:log_lines AS text[])) AS g (id, attempt, dropped, lines)
JOIN {s}.tasks t ON t.id = g.id
ON CONFLICT DO NOTHING
""")

PROGRESS = Sql("""
INSERT INTO {s}.progress (task_id, attempt, fraction, message)
SELECT i.id, i.attempt, i.fraction, i.message
FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:fractions AS real[]), CAST(:messages AS text[]))
    AS i (id, attempt, fraction, message)
JOIN {s}.tasks t ON t.id = i.id AND t.state = 4 AND t.attempt = i.attempt AND t.session_id = CAST(:session AS bigint)
ORDER BY i.id
ON CONFLICT (task_id) DO UPDATE
    SET attempt = excluded.attempt, fraction = excluded.fraction, message = excluded.message, at = now()
""")
