"""Statements of the relay: take a batch out of the outbox and log it, forget what needs no message, mark, limit."""

from __future__ import annotations

from state.sql import Sql

__all__ = ["FORGET", "LIMIT", "LOW_WATER", "TAKE"]

# The rows are gone only when the transaction commits, and it commits only after every publish was acknowledged.
# The low id makes the scan start behind the dead rows of earlier batches (2.7 instead of 11 ms per 1,000 rows behind
# a pinned xmin, reference measurement); id order is not commit order, so the caller must come back to 0 regularly.
# A full reconcile holds the fence exclusively: it must not look while a drain has published but not committed.
TAKE = Sql("""
WITH fence AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(CAST(:k1 AS int), CAST(:k2 AS int))
), gone AS (
    DELETE FROM {s}.outbox WHERE id = ANY (ARRAY(
        SELECT id FROM {s}.outbox WHERE id >= CAST(:low AS bigint) ORDER BY id
        LIMIT (SELECT CAST(:most AS int) * count(*) FROM fence) FOR UPDATE SKIP LOCKED))
    RETURNING id, task_id, attempt, dispatch, lane_id
), log AS (
    INSERT INTO {s}.dispatch_log (lane_id, task_ids, attempts, dispatches)
    SELECT lane_id, array_agg(task_id ORDER BY id), array_agg(attempt ORDER BY id), array_agg(dispatch ORDER BY id)
    FROM gone GROUP BY lane_id
)
SELECT id, task_id, attempt, dispatch, lane_id FROM gone ORDER BY id
""")

# An entry is needed as long as its task is queued with that attempt.  Once a worker has claimed it, which is durable
# before it can be seen here, or somebody cancelled it, nobody waits for its message: every way back to the queue is a
# new attempt with an entry of its own.  A task that is not there at all is left to the drain, and so to the quarantine.
# Returns how many were forgotten, and the tasks of those that are needed.
FORGET = Sql("""
WITH seen AS MATERIALIZED (
    SELECT o.id, o.task_id, t.id IS NULL OR (t.state = 3 AND t.attempt = o.attempt) AS needed
    FROM (SELECT id, task_id, attempt FROM {s}.outbox ORDER BY id LIMIT CAST(:most AS int) FOR UPDATE SKIP LOCKED) o
    LEFT JOIN {s}.tasks t ON t.id = o.task_id
), gone AS (
    DELETE FROM {s}.outbox WHERE id = ANY (ARRAY(SELECT id FROM seen WHERE NOT needed))
)
SELECT count(*) FILTER (WHERE NOT needed), coalesce(array_agg(task_id) FILTER (WHERE needed), '{}') FROM seen
""")

# Creation compares the outbox's sequence with this mark: the difference is the backlog, at the price of two reads.
LOW_WATER = Sql("""
UPDATE {s}.relay_state SET low_id = coalesce(
    (SELECT min(id) - 1 FROM {s}.outbox), (SELECT last_value FROM {s}.outbox_id_seq))
""")

LIMIT = Sql("UPDATE {s}.relay_state SET outbox_limit = :limit WHERE outbox_limit <> :limit")
