"""The checker of the side tables: do they agree with the tasks?  Same form as ``state.audit``.

``AGREEMENTS`` hold at any moment.  ``QUIET`` holds when nothing is under way any more: every task is final and every
worker has left in order.
"""

from __future__ import annotations

from types import MappingProxyType

from state.sql import Sql

__all__ = ["AGREEMENTS", "COUNTERS", "FAILURES", "QUIET"]

# the sums of the counters are the tasks counted
COUNTERS = Sql("""
SELECT coalesce(t.queue_id, c.queue_id) AS place, 'queue ' || coalesce(t.queue_id, c.queue_id) || ' state '
       || coalesce(t.state, c.state) || ': ' || coalesce(t.n, 0) || ' tasks, counted ' || coalesce(c.n, 0) AS what
FROM (SELECT queue_id, state, count(*) AS n FROM {s}.tasks GROUP BY 1, 2) t
FULL JOIN (SELECT queue_id, state, sum(n) AS n FROM {s}.task_counts GROUP BY 1, 2 HAVING sum(n) <> 0) c
USING (queue_id, state) WHERE t.n IS DISTINCT FROM c.n
""")

# every failed or cancelled task has its failure, with that state, and no other task has one
FAILURES = Sql("""
SELECT coalesce(t.id, f.task_id) AS place,
       'state ' || coalesce(t.state, 0) || ', failure ' || coalesce(f.state, 0) AS what
FROM {s}.tasks t FULL JOIN {s}.failures f ON f.task_id = t.id
WHERE (t.state IN (7, 8)) IS DISTINCT FROM (f.task_id IS NOT NULL) OR f.state <> t.state
""")

# whoever waits for a time has a timer of that attempt, and no finished task has one that would still move it
TIMERS = Sql("""
SELECT coalesce(t.id, x.task_id) AS place,
       'state ' || coalesce(t.state, 0) || CASE WHEN x.task_id IS NULL THEN ' without a timer' ELSE ' with a timer' END
FROM (SELECT id, state, attempt FROM {s}.tasks WHERE state IN (2, 5)) t
FULL JOIN (SELECT task_id, attempt FROM {s}.timers WHERE kind = 1) x ON x.task_id = t.id
WHERE x.task_id IS NULL OR x.attempt <> t.attempt
   OR (t.id IS NULL AND x.attempt >= (SELECT attempt FROM {s}.tasks WHERE id = x.task_id))
""")

# a running task stands in a claim of its session: otherwise nobody could rescue it
CLAIMS = Sql("""
SELECT t.id AS place, 'runs under session ' || t.session_id || ' without a claim of it' AS what
FROM {s}.tasks t WHERE t.state = 4 AND NOT EXISTS (
    SELECT 1 FROM {s}.claims c, unnest(c.task_ids, c.attempts) AS h (id, attempt)
    WHERE c.session_id = t.session_id AND h.id = t.id AND h.attempt = t.attempt)
""")

# every session that holds something is there to be found by the rescuer
SESSIONS = Sql("""
SELECT c.session_id AS place, 'claims of session ' || c.session_id || ', which is gone' AS what
FROM (SELECT DISTINCT session_id FROM {s}.claims) c
WHERE NOT EXISTS (SELECT 1 FROM {s}.sessions s WHERE s.id = c.session_id)
""")

AGREEMENTS = MappingProxyType(
    {"counters": COUNTERS, "failures": FAILURES, "timers": TIMERS, "claims": CLAIMS, "sessions": SESSIONS}
)
"""By name."""

_EMPTY = ("outbox", "claims", "sessions", "parked", "cancel_requests")

QUIET = MappingProxyType(
    {
        name: Sql(f"SELECT '{name}' AS place, n || ' rows left' AS what FROM (SELECT count(*) AS n FROM {{s}}.{name}) r"
                  " WHERE n > 0")
        for name in _EMPTY
    }
)  # fmt: skip
"""Tables that are empty then, by name."""
