"""Read-only views, one per question that people ask, with names instead of numbers and secrets masked.

They start from the side tables wherever the question is about a state, because no index on ``tasks`` knows it.
"""

from __future__ import annotations

__all__ = ["SQL_VIEWS", "VIEW_NAMES"]

_STATES = "'{blocked,scheduled,queued,running,retrying,succeeded,failed,cancelled}'"
_REASONS = (
    "'{exhausted,rejected,lease_expired,timeout,expired,dependency_failed,by_request,undecodable,disabled,"
    "unserialisable,error,snoozed,released,redispatched}'"
)


def _state(column: str) -> str:
    return f"(CAST({_STATES} AS text[]))[{column}]"


def _reason(column: str) -> str:
    return f"(CAST({_REASONS} AS text[]))[{column}]"


_NAMES = """
    JOIN {s}.types y ON y.id = t.type_id JOIN {s}.queues q ON q.id = t.queue_id JOIN {s}.lanes l ON l.id = t.lane_id"""

_TASKS = f"""
SELECT t.id, y.name AS type, q.name AS queue, l.name AS lane, {_state("t.state")} AS state,
       {_reason("t.reason")} AS reason, t.tries, t.max_tries AS max_attempts, t.attempt, t.generation, t.created_at,
       t.due_at, t.started_at, t.finished_at, t.expires_at, t.flags & 1 = 1 AS cancel_requested,
       CASE WHEN t.flags & 2 = 2 THEN
           (SELECT x.value FROM {{s}}.task_labels x WHERE x.task_id = t.id AND x.kind = 2 LIMIT 1) END AS key,
       t.meta -> 'tags' AS tags, t.meta -> 'headers' AS headers,
       (SELECT x.error FROM {{s}}.failures x WHERE x.task_id = t.id) AS error,
       (SELECT x.worker FROM {{s}}.session_log x WHERE x.session_id = t.session_id) AS worker,
       (SELECT x.fraction FROM {{s}}.progress x WHERE x.task_id = t.id AND x.attempt = t.attempt) AS progress,
       (SELECT x.message FROM {{s}}.progress x WHERE x.task_id = t.id AND x.attempt = t.attempt) AS progress_message,
       {{s}}.masked(t.args, t.meta -> 'secret', t.codec, t.key_id) AS args,
       CASE WHEN t.result IS NULL THEN NULL WHEN t.flags & 8 = 8 THEN jsonb '"**********"'
            ELSE {{s}}.masked(t.result, NULL, t.codec, t.key_id) END AS result
FROM {{s}}.tasks t{_NAMES}
"""

_HISTORY = f"""
SELECT e.task_id, e.seq, {_state("e.from_state")} AS from_state, {_state("e.to_state")} AS to_state,
       {_reason("e.reason")} AS reason, e.attempt, e.at, e.actor,
       (SELECT x.worker FROM {{s}}.session_log x WHERE x.session_id = e.session_id) AS worker, e.detail
FROM {{s}}.task_events e
"""

_FAILURES = f"""
SELECT f.task_id AS id, y.name AS type, q.name AS queue, {_state("f.state")} AS state, {_reason("f.reason")} AS reason,
       f.error, encode(f.fingerprint, 'hex') AS fingerprint, f.finished_at,
       (SELECT x.tries FROM {{s}}.tasks x WHERE x.id = f.task_id) AS tries,
       (SELECT e.detail ->> 'traceback'
        FROM {{s}}.tasks x JOIN {{s}}.task_events e ON e.task_id = x.id AND e.seq = x.seq
        WHERE x.id = f.task_id) AS traceback
FROM {{s}}.failures f JOIN {{s}}.types y ON y.id = f.type_id JOIN {{s}}.queues q ON q.id = f.queue_id
"""

_RUNNING = (
    """
SELECT t.id, y.name AS type, q.name AS queue, l.name AS lane, s.worker, t.attempt, t.tries, t.started_at,
       now() - t.started_at AS running_for, s.expires_at AS lease_ends_at, t.flags & 1 = 1 AS cancel_requested,
       p.fraction AS progress, p.message AS progress_message
FROM {s}.claims c CROSS JOIN LATERAL unnest(c.task_ids, c.attempts) AS h (id, attempt)
    JOIN {s}.tasks t ON t.id = h.id AND t.state = 4 AND t.session_id = c.session_id AND t.attempt = h.attempt
    JOIN {s}.sessions s ON s.id = c.session_id
    LEFT JOIN {s}.progress p ON p.task_id = t.id AND p.attempt = t.attempt"""
    + _NAMES
    + "\n"
)

_WORKERS = """
SELECT s.worker, s.id AS session, s.boot_id, g.started_at AS busy_since, s.lease, s.expires_at AS lease_ends_at,
       s.expires_at < now() AS overdue,
       (SELECT count(*) FROM {s}.claims c CROSS JOIN LATERAL unnest(c.task_ids, c.attempts) AS h (id, attempt)
            JOIN {s}.tasks t ON t.id = h.id AND t.state = 4 AND t.session_id = s.id AND t.attempt = h.attempt
        WHERE c.session_id = s.id) AS running
FROM {s}.sessions s LEFT JOIN {s}.session_log g ON g.session_id = s.id
"""

# Side tables may hold too much, never too little: every row is checked against the task.
_WAITING = (
    """
SELECT t.id, y.name AS type, q.name AS queue, l.name AS lane, w.waits_for, w.since, w.until, t.attempt
FROM (
    SELECT x.task_id AS id, x.attempt, CAST(NULL AS int) AS dispatch, 2 AS state, 'time' AS waits_for,
           CAST(NULL AS timestamptz) AS since, x.due_at AS until FROM {s}.timers x WHERE x.kind = 1
    UNION ALL
    SELECT x.task_id, x.attempt, NULL, 5, 'retry', NULL, x.due_at FROM {s}.timers x WHERE x.kind = 1
    UNION ALL
    SELECT x.task_id, x.attempt, x.dispatch, 3, 'relay', NULL, NULL FROM {s}.outbox x
    UNION ALL
    SELECT x.task_id, x.attempt, NULL, 3, 'resume', NULL, NULL FROM {s}.parked x
    UNION ALL
    SELECT e.id, e.attempt, e.dispatch, 3, 'worker', d.published_at, NULL
    FROM {s}.dispatch_log d CROSS JOIN LATERAL unnest(d.task_ids, d.attempts, d.dispatches) AS e (id, attempt, dispatch)
    WHERE NOT EXISTS (SELECT FROM {s}.parked x WHERE x.task_id = e.id AND x.attempt = e.attempt)
) w JOIN {s}.tasks t ON t.id = w.id AND t.state = w.state AND t.attempt = w.attempt
    AND (w.dispatch IS NULL OR t.dispatch = w.dispatch)"""
    + _NAMES
    + "\n"
)

_COUNTS = f"""
SELECT q.name AS queue, {_state("c.state")} AS state, CAST(sum(c.n) AS bigint) AS tasks
FROM {{s}}.task_counts c JOIN {{s}}.queues q ON q.id = c.queue_id GROUP BY 1, c.state HAVING sum(c.n) <> 0
"""

# The age looks at the first queued task of the 20 oldest batches of each queue, at the 5,000 oldest outbox rows and at
# the first parked task, like dispatcher.status: with a backlog far beyond that it may be NULL or a little young.
_QUEUES = """
WITH early AS MATERIALIZED (
    SELECT o.task_id, o.lane_id, o.id FROM {s}.outbox o ORDER BY o.id LIMIT 5000
), n AS MATERIALIZED (
    SELECT c.queue_id, c.state, CAST(sum(c.n) AS bigint) AS n FROM {s}.task_counts c GROUP BY 1, 2
)
SELECT q.name AS queue, q.stream, q.paused, q.paused_at, q.paused_by, __COUNTS__,
       (SELECT min(e.at) FROM (
           (SELECT u.id FROM (
               SELECT d.batch, d.task_ids FROM {s}.dispatch_log d
               WHERE d.lane_id = ANY (ARRAY(SELECT x.id FROM {s}.lanes x WHERE x.queue_id = q.id))
               ORDER BY d.batch LIMIT 20) b CROSS JOIN LATERAL unnest(b.task_ids) WITH ORDINALITY AS u (id, n)
            WHERE (SELECT x.state FROM {s}.tasks x WHERE x.id = u.id) = 3 LIMIT 1)
           UNION ALL
           (SELECT o.task_id FROM early o
            WHERE o.lane_id = ANY (ARRAY(SELECT x.id FROM {s}.lanes x WHERE x.queue_id = q.id))
              AND (SELECT x.state FROM {s}.tasks x WHERE x.id = o.task_id) = 3 ORDER BY o.id LIMIT 1)
           UNION ALL
           (SELECT p.task_id FROM {s}.parked p WHERE p.gate = 1 AND p.gate_key = q.id ORDER BY p.pos LIMIT 1)
       ) f (id) CROSS JOIN LATERAL (
           SELECT e.at FROM {s}.tasks t JOIN {s}.task_events e ON e.task_id = t.id AND e.seq = t.seq
           WHERE t.id = f.id AND t.state = 3 OFFSET 0) e) AS oldest_queued_at
FROM {s}.queues q
""".replace(
    "__COUNTS__",
    ", ".join(
        f"coalesce((SELECT n.n FROM n WHERE n.queue_id = q.id AND n.state = {number}), 0) AS {name}"
        for number, name in enumerate(_STATES.strip("'{}").split(","), 1)
    ),
)

_KEYS = """
SELECT y.name AS type, l.value AS key, k.task_id, k.expires_at
FROM {s}.task_labels l JOIN {s}.task_keys k ON k.task_id = l.task_id JOIN {s}.types y ON y.id = k.type_id
WHERE l.kind = 2
"""

_TAGS = "SELECT l.value AS tag, l.task_id AS id FROM {s}.task_labels l WHERE l.kind = 1\n"

_TYPES = """
SELECT y.name AS type, y.options ->> 'queue' AS queue, y.options ->> 'lane' AS lane,
       CAST(y.options ->> 'max_attempts' AS int) AS max_attempts, y.options -> 'secret' AS secret,
       y.options IS NOT NULL AS registered, y.created_at
FROM {s}.types y
"""

_OUTBOX = """
SELECT CAST(count(*) AS bigint) AS waiting, count(*) = 100000 AS or_more,
       (SELECT r.outbox_limit FROM {s}.relay_state r) AS most,
       (SELECT t.created_at FROM {s}.outbox o JOIN {s}.tasks t ON t.id = o.task_id ORDER BY o.id LIMIT 1)
           AS first_created_at
FROM (SELECT FROM {s}.outbox LIMIT 100000) w
"""

_VIEWS = {
    "v_tasks": _TASKS,
    "v_history": _HISTORY,
    "v_failures": _FAILURES,
    "v_running": _RUNNING,
    "v_workers": _WORKERS,
    "v_waiting": _WAITING,
    "v_counts": _COUNTS,
    "v_queues": _QUEUES,
    "v_keys": _KEYS,
    "v_tags": _TAGS,
    "v_types": _TYPES,
    "v_outbox": _OUTBOX,
}

VIEW_NAMES = tuple(_VIEWS)
"""In the order in which they can be made."""
SQL_VIEWS = tuple(
    f"CREATE VIEW {{s}}.{name} AS{text if text[0] == chr(10) else ' ' + text}" for name, text in _VIEWS.items()
)
"""The statements that create them; ``{s}`` still stands for the schema."""
