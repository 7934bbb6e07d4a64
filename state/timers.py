"""Timers: due tasks go to the outbox, unstarted tasks past their expiry fail.

Rows are locked timer first, then task, both with SKIP LOCKED: a timer whose task is locked by somebody else stays and
is looked at again; nothing here ever waits, so nothing can deadlock with a cancel that holds the task and wants the
timer.
"""

from __future__ import annotations

from state.sql import Sql

__all__ = ["EXPIRE_DUE", "NEXT_DUE", "PROMOTE"]

# Guard: (scheduled ∨ retrying) ∧ attempt.  Timers whose task moved on are dropped on the way.
PROMOTE = Sql("""
WITH due AS MATERIALIZED (
    SELECT task_id, attempt FROM {s}.timers WHERE due_at <= now() AND kind = 1
    ORDER BY due_at LIMIT CAST(:most AS int) FOR UPDATE SKIP LOCKED
), locked AS MATERIALIZED (
    SELECT t.id, t.state, t.attempt FROM due d JOIN {s}.tasks t ON t.id = d.task_id
    ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED
), gone AS (
    DELETE FROM {s}.timers x USING locked l WHERE x.task_id = l.id AND x.kind = 1 RETURNING x.task_id, x.attempt
), moved AS (
    UPDATE {s}.tasks t SET state = 3, seq = t.seq + 1
    FROM locked l JOIN gone g ON g.task_id = l.id
    WHERE t.id = l.id AND l.state IN (2, 5) AND l.attempt = g.attempt
    RETURNING t.id, t.attempt, t.dispatch, t.seq, t.queue_id, t.lane_id, l.state AS from_state
), event AS (
    INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, attempt, actor)
    SELECT id, seq, from_state, 3, attempt, 'scheduler' FROM moved
), again AS (
    INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id) SELECT id, attempt, dispatch, lane_id FROM moved
), counted AS (
    INSERT INTO {s}.task_counts
    SELECT m.queue_id, d.state, sum(d.n)
    FROM moved m, LATERAL (VALUES (CAST(m.from_state AS int), -1), (3, 1)) AS d (state, n)
    GROUP BY 1, 2
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM moved)
""")

# Takes the due expiry timers away and says which tasks to look at; state.claims.EXPIRE then moves those still waiting.
EXPIRE_DUE = Sql("""
WITH due AS MATERIALIZED (
    SELECT task_id FROM {s}.timers WHERE due_at <= now() AND kind = 2
    ORDER BY due_at LIMIT CAST(:most AS int) FOR UPDATE SKIP LOCKED
), locked AS MATERIALIZED (
    SELECT t.id, t.attempt FROM due d JOIN {s}.tasks t ON t.id = d.task_id
    ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED
), gone AS (
    DELETE FROM {s}.timers x USING locked l WHERE x.task_id = l.id AND x.kind = 2
)
SELECT id, attempt FROM locked
""")

NEXT_DUE = Sql("""
SELECT CAST(extract(epoch FROM min(due_at) - now()) AS float8) FROM {s}.timers HAVING count(*) > 0
""")
