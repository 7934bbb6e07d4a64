"""Statements of the leader's small chores: forward cancel requests, and one look that tells what is left to do."""

from __future__ import annotations

from state.sql import Sql

__all__ = ["CANCELS", "LEADER_PID", "LOOK", "STEP_DOWN"]

# Everything a backstop look needs to know, in one statement: an idle system sends only this, twice a minute.
LOOK = Sql("""
SELECT EXISTS (SELECT 1 FROM {s}.outbox),
       EXISTS (SELECT 1 FROM {s}.cancel_requests WHERE NOT sent),
       EXISTS (SELECT 1 FROM {s}.parked p JOIN {s}.queues q ON q.id = p.gate_key WHERE p.gate = 1 AND NOT q.paused),
       EXISTS (SELECT 1 FROM {s}.dispatch_log),
       (SELECT CAST(extract(epoch FROM min(due_at) - now()) AS float8) FROM {s}.timers),
       (SELECT CAST(extract(epoch FROM min(expires_at) - now()) AS float8) FROM {s}.sessions)
""")

# Requests to running tasks with their attempt; tasks that a person's cancel ended (session 0) without, and only once.
# Requests to sessions that are gone only make room: a rescue has the blind spot of a settle (see state.sessions).
CANCELS = Sql("""
WITH unsent AS MATERIALIZED (
    SELECT session_id, task_id FROM {s}.cancel_requests WHERE NOT sent AND session_id >= 0
    LIMIT 1000 FOR UPDATE SKIP LOCKED
), asked AS (
    UPDATE {s}.cancel_requests c SET sent = true FROM unsent u
    WHERE c.session_id = u.session_id AND c.task_id = u.task_id
      AND EXISTS (SELECT 1 FROM {s}.sessions s WHERE s.id = u.session_id) RETURNING c.task_id, c.attempt
), lost AS (
    DELETE FROM {s}.cancel_requests c
    WHERE c.session_id > 0 AND NOT EXISTS (SELECT 1 FROM {s}.sessions s WHERE s.id = c.session_id)
), ended AS (
    DELETE FROM {s}.cancel_requests c USING unsent u
    WHERE c.session_id = 0 AND u.session_id = 0 AND c.task_id = u.task_id RETURNING c.task_id
)
SELECT task_id, attempt FROM asked UNION ALL SELECT task_id, CAST(NULL AS int) FROM ended
""")

# Who holds the leader's lock, by its process id.  The server shows the first key without its sign.
LEADER_PID = Sql("""
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 2
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND CAST(classid AS bigint) = CAST(:k1 AS bigint) & 4294967295 AND CAST(objid AS bigint) = CAST(:k2 AS bigint)
""")

# Ends every session of a leader that stopped beating, whatever it is in the middle of: its sessions share one name.
STEP_DOWN = Sql("""
SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
  AND a.application_name = (SELECT application_name FROM pg_stat_activity WHERE pid = CAST(:pid AS int))
""")
