"""Rescue: give back the tasks of workers whose lease ended.

Two statements in one transaction, on purpose.  The first deletes (and thereby locks) the expired sessions: a claim
that is under way holds its session FOR KEY SHARE and is waited for, a renewal that committed meanwhile takes the row
out.  The second, with a fresh snapshot, sees every claim those sessions ever made.  As one joined UPDATE this rescued
tasks of a worker that had just renewed (measured, see docs/decisions.md).
"""

from __future__ import annotations

from state.sql import Sql

__all__ = ["END_EXPIRED", "GIVE_BACK", "NEXT_END"]

# A database that was away longer than a lease finds every lease expired: the fleet gets one full lease to renew first.
END_EXPIRED = Sql("""
DELETE FROM {s}.sessions WHERE id IN (
    SELECT id FROM {s}.sessions WHERE expires_at < now() AND pg_postmaster_start_time() + lease < now()
    ORDER BY id LIMIT 50 FOR UPDATE SKIP LOCKED)
  AND expires_at < now()
RETURNING id, worker
""")

# A crash consumes the try it had; with none left the task ends as failed (lease_expired).
GIVE_BACK = Sql("""
WITH held AS (
    SELECT c.session_id, h.id, h.attempt FROM {s}.claims c, unnest(c.task_ids, c.attempts) AS h (id, attempt)
    WHERE c.session_id = ANY (CAST(:sessions AS bigint[]))
), locked AS MATERIALIZED (
    SELECT t.id, CASE WHEN t.flags & 1 = 1 THEN 8 WHEN t.tries >= t.max_tries THEN 7 ELSE 3 END AS goal
    FROM held h JOIN {s}.tasks t ON t.id = h.id
    WHERE t.state = 4 AND t.session_id = h.session_id AND t.attempt = h.attempt
    ORDER BY t.id FOR NO KEY UPDATE OF t
), moved AS (
    UPDATE {s}.tasks t
    SET state = l.goal, session_id = NULL, reason = CASE WHEN l.goal = 8 THEN 7 ELSE 3 END, seq = t.seq + 1,
        attempt = t.attempt + CASE WHEN l.goal = 3 THEN 1 ELSE 0 END,
        finished_at = CASE WHEN l.goal >= 6 THEN now() END
    FROM locked l, {s}.tasks o WHERE t.id = l.id AND o.id = l.id
    RETURNING t.id, t.attempt, t.dispatch, t.seq, t.tenant_id, t.queue_id, t.lane_id, t.type_id, t.state, t.reason,
              t.flags, o.session_id AS lost
), event AS (
    INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, reason, attempt, session_id, actor)
    SELECT id, seq, 4, state, reason, attempt - CASE WHEN state = 3 THEN 1 ELSE 0 END, lost, 'rescuer' FROM moved
), again AS (
    INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id)
    SELECT id, attempt, dispatch, lane_id FROM moved WHERE state = 3
), failure AS (
    INSERT INTO {s}.failures (task_id, tenant_id, queue_id, type_id, state, reason, error)
    SELECT id, tenant_id, queue_id, type_id, state, reason, 'the worker stopped answering while it ran this task'
    FROM moved WHERE state >= 7
    ON CONFLICT (task_id) DO UPDATE SET state = excluded.state, reason = excluded.reason, error = excluded.error,
        fingerprint = excluded.fingerprint, finished_at = excluded.finished_at
), gone AS (  -- after the tasks, as a settle locks them: tasks first, then claims
    DELETE FROM {s}.claims WHERE session_id = ANY (CAST(:sessions AS bigint[]))
), asked AS (
    DELETE FROM {s}.cancel_requests WHERE session_id = ANY (CAST(:sessions AS bigint[]))
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
""")

# Seconds until the earliest lease ends (may be negative); no row: nobody works.
NEXT_END = Sql("""
SELECT CAST(extract(epoch FROM min(expires_at) - now()) AS float8) FROM {s}.sessions HAVING count(*) > 0
""")
