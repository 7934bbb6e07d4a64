"""The read side: one task, a page of tasks, counts, history, result.  Nothing here locks or writes."""

from __future__ import annotations

from state.listing import Shape, listing
from state.sql import Sql

__all__ = ["BACKLOG", "COUNTS", "HISTORY", "ONE", "OUTCOME", "QUEUES", "TOLD", "ids", "page"]

# The order is that of dispatcher.status; every sub-select finds its row by a primary key.
_COLUMNS = """
    p.id,
    (SELECT x.name FROM {s}.types x WHERE x.id = p.type_id) AS type,
    (SELECT x.name FROM {s}.queues x WHERE x.id = p.queue_id) AS queue,
    (SELECT x.name FROM {s}.lanes x WHERE x.id = p.lane_id) AS lane,
    p.state, p.reason, p.attempt, p.tries, p.max_tries, p.generation, p.dispatch, p.flags,
    p.created_at, p.due_at, p.started_at, p.finished_at, p.expires_at,
    CAST(p.meta AS text) AS meta,
    CASE WHEN p.flags & 2 = 2 THEN
        (SELECT x.value FROM {s}.task_labels x WHERE x.task_id = p.id AND x.kind = 2 LIMIT 1) END AS key,
    (SELECT x.worker FROM {s}.session_log x WHERE x.session_id = p.session_id) AS worker,
    p.state = 3 AND EXISTS (SELECT 1 FROM {s}.parked x WHERE x.task_id = p.id AND x.attempt = p.attempt) AS parked,
    CASE WHEN p.state IN (5, 7, 8) THEN
        (SELECT CAST(__DETAIL__ AS text) FROM {s}.task_events x WHERE x.task_id = p.id AND x.seq = p.seq) END AS detail,
    CASE WHEN p.state IN (7, 8) THEN (SELECT x.error FROM {s}.failures x WHERE x.task_id = p.id) END AS error,
    (SELECT json_build_array(x.fraction, x.message, extract(epoch FROM x.at)) #>> '{}'
     FROM {s}.progress x WHERE x.task_id = p.id AND x.attempt = p.attempt) AS progress
"""
_LISTED = _COLUMNS.replace("__DETAIL__", "x.detail - 'traceback'")

ONE = Sql(f"""
SELECT {_COLUMNS.replace("__DETAIL__", "x.detail")}, p.args, p.result, p.codec, p.key_id
FROM {{s}}.tasks p WHERE p.id = CAST(:id AS uuid)
""")

# What a waiter needs: state, reason, flags, result, the error's one line.
OUTCOME = Sql("""
SELECT t.state, t.reason, t.flags, t.result, (SELECT x.error FROM {s}.failures x WHERE x.task_id = t.id)
FROM {s}.tasks t WHERE t.id = CAST(:id AS uuid)
""")

HISTORY = Sql("""
SELECT e.seq, e.from_state, e.to_state, e.reason, e.attempt, e.at, e.actor,
       (SELECT x.worker FROM {s}.session_log x WHERE x.session_id = e.session_id) AS worker,
       CAST(e.detail AS text) AS detail
FROM {s}.task_events e WHERE e.task_id = CAST(:id AS uuid) ORDER BY e.seq
""")

# How many tasks are in the states that have no index of their own: decides where a listing starts.
BACKLOG = Sql("""
SELECT c.state, CAST(sum(c.n) AS bigint) FROM {s}.task_counts c WHERE c.state IN (1, 3) GROUP BY 1 HAVING sum(c.n) > 0
""")

COUNTS = Sql("""
SELECT q.name, c.state, CAST(sum(c.n) AS bigint) FROM {s}.task_counts c JOIN {s}.queues q ON q.id = c.queue_id
GROUP BY 1, 2 HAVING sum(c.n) <> 0 ORDER BY 1, 2
""")

# Every queue with its pause, its parked tasks, its tasks by state, and since when its longest waiting task is queued.
# Bounded: looks at the first queued task of the 20 oldest batches of the dispatch log, of the 5,000 oldest outbox rows,
# and at the first parked one; with a backlog far beyond that in other lanes the age is NULL or a little young, never a
# wrong queue's.
QUEUES = Sql("""
WITH early AS MATERIALIZED (
    SELECT o.task_id, o.lane_id, o.id FROM {s}.outbox o ORDER BY o.id LIMIT 5000
), depth AS MATERIALIZED (
    SELECT n.queue_id, max(n.n) FILTER (WHERE n.state = 3) AS n,
           CAST(jsonb_object_agg(n.state, n.n) AS text) AS by_state
    FROM (SELECT c.queue_id, c.state, sum(c.n) AS n FROM {s}.task_counts c GROUP BY 1, 2 HAVING sum(c.n) <> 0) n
    GROUP BY 1
)
SELECT q.name, q.stream, q.paused, q.paused_at, q.paused_by,
       (SELECT count(*) FROM (
           SELECT 1 FROM {s}.parked p WHERE p.gate = 1 AND p.gate_key = q.id LIMIT 100000) n) AS parked,
       CASE WHEN d.n > 0 THEN (SELECT min(e.at) FROM (
           (SELECT u.id FROM (
               SELECT l.batch, l.task_ids FROM {s}.dispatch_log l
               WHERE l.lane_id = ANY (ARRAY(SELECT x.id FROM {s}.lanes x WHERE x.queue_id = q.id))
               ORDER BY l.batch LIMIT 20) b CROSS JOIN LATERAL unnest(b.task_ids) WITH ORDINALITY AS u (id, n)
            WHERE (SELECT x.state FROM {s}.tasks x WHERE x.id = u.id) = 3 LIMIT 1)
           UNION ALL
           (SELECT o.task_id FROM early o
            WHERE o.lane_id = ANY (ARRAY(SELECT x.id FROM {s}.lanes x WHERE x.queue_id = q.id))
              AND (SELECT x.state FROM {s}.tasks x WHERE x.id = o.task_id) = 3 ORDER BY o.id LIMIT 1)
           UNION ALL
           (SELECT p.task_id FROM {s}.parked p WHERE p.gate = 1 AND p.gate_key = q.id ORDER BY p.pos LIMIT 1)
       ) f (id) CROSS JOIN LATERAL (
           SELECT e.at FROM {s}.tasks t JOIN {s}.task_events e ON e.task_id = t.id AND e.seq = t.seq
           WHERE t.id = f.id AND t.state = 3 OFFSET 0) e) END AS oldest, d.by_state
FROM {s}.queues q LEFT JOIN depth d ON d.queue_id = q.id ORDER BY q.name
""")

# What a tail shows of tasks that were just announced, in the order of the announcement.
TOLD = Sql("""
SELECT i.n, t.id, (SELECT x.name FROM {s}.types x WHERE x.id = t.type_id),
       (SELECT x.name FROM {s}.queues x WHERE x.id = t.queue_id),
       (SELECT x.name FROM {s}.lanes x WHERE x.id = t.lane_id),
       t.reason, t.attempt, t.tries, t.max_tries, t.created_at, t.started_at, t.finished_at, t.due_at,
       CASE WHEN t.state IN (5, 7, 8) THEN (SELECT left(CASE WHEN x.detail ? 'message' THEN
            concat_ws(': ', x.detail ->> 'type', x.detail ->> 'message') END, 500)
           FROM {s}.task_events x WHERE x.task_id = t.id AND x.seq = t.seq) END
FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS i (id, n) JOIN {s}.tasks t ON t.id = i.id ORDER BY i.n
""")


def page(shape: Shape) -> Sql:
    """The listing statement for these filters, with the columns that ``ONE`` has except arguments and result."""
    return listing(shape, _LISTED)


def ids(shape: Shape) -> Sql:
    """The same with nothing but the ids."""
    return listing(shape, "p.id")
