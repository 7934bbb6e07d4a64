"""Worker sessions: one id per busy period, renewed by the database clock, never revived."""

from __future__ import annotations

from state.sql import Sql

__all__ = ["CLOSE", "OPEN", "RENEW"]

# The log keeps the worker's name for the audit trail after the session itself is gone.
OPEN = Sql("""
WITH made AS (
    INSERT INTO {s}.sessions (worker, boot_id, lease, expires_at)
    VALUES (:worker, CAST(:boot AS uuid), make_interval(secs => CAST(:lease AS float8)),
            now() + make_interval(secs => CAST(:lease AS float8)))
    RETURNING id, worker, boot_id
), logged AS (
    INSERT INTO {s}.session_log (session_id, worker, boot_id) SELECT id, worker, boot_id FROM made
)
SELECT id FROM made
""")

# No row: the session was rescued; the worker must stop all its handlers.  An expired one that nobody rescued goes on.
RENEW = Sql("""
WITH renewed AS (
    UPDATE {s}.sessions SET expires_at = clock_timestamp() + lease
    WHERE id = CAST(:session AS bigint) AND boot_id = CAST(:boot AS uuid) RETURNING id
)
SELECT r.id, c.task_id, c.attempt FROM renewed r LEFT JOIN {s}.cancel_requests c ON c.session_id = r.id
""")

# Only an idle session may go: what it still holds would otherwise be running for ever.  With it go the cancel requests
# that its settles left: one that was committed between a settle's snapshot and its lock is seen by the lock alone.
CLOSE = Sql("""
WITH done AS (
    DELETE FROM {s}.claims WHERE session_id = CAST(:session AS bigint) AND batch = ANY (CAST(:batches AS bigint[]))
), gone AS (
    DELETE FROM {s}.sessions s WHERE s.id = CAST(:session AS bigint) AND NOT EXISTS (
        SELECT 1 FROM {s}.claims c WHERE c.session_id = s.id AND c.batch <> ALL (CAST(:batches AS bigint[])))
    RETURNING id
), asked AS (
    DELETE FROM {s}.cancel_requests WHERE session_id IN (SELECT id FROM gone)
)
SELECT id FROM gone
""")
