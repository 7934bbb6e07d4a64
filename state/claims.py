"""Claim: a worker's session takes the right to run a batch of tasks, and what to do with those it did not get."""

from __future__ import annotations

from state.sql import Sql

__all__ = ["ADOPT", "CLAIM", "CLAIM_ONE", "EXPIRE", "LOOK", "QUARANTINE"]

_MOST_INLINE = 8192
"""Bytes of results per task: a batch has up to 500 tasks."""

# A task with a deadline comes with the seconds it has left, by the database's clock; after a person's retry, which
# clears the expiry, the deadline holds no more.
_META = """CASE WHEN t.meta ? 'deadline' AND t.expires_at IS NOT NULL
        THEN t.meta || jsonb_build_object('left', extract(epoch FROM t.created_at - clock_timestamp())
                                                  + CAST(t.meta ->> 'deadline' AS float8))
        ELSE t.meta END AS meta"""

# Guard: queued ∧ attempt ∧ no cancel ∧ not expired ∧ type known ∧ queue not paused ∧ the session lives.
# The session row is locked FOR KEY SHARE: the rescuer's DELETE waits for us, a renewal does not.  Rows are locked in
# id order and locked ones are skipped: a foreign row lock must stall one task, not the batch.  The update finds the
# rows it has just locked by ctid, which spares a second walk down the index; the id stands beside it because a ctid
# would not be unique in a partitioned table.
# The + 0 keeps the planner from looking an id up in the index by type, once for each type that the worker knows.
# Returns the position of each claimed task in :ids (from 1) instead of its id: numbers cost a client less to read.
# A task that takes over small results of others comes with them; larger ones are read when it starts, so that a batch
# stays small.
_CLAIM = """
WITH alive AS MATERIALIZED (
    SELECT id FROM {s}.sessions WHERE id = CAST(:session AS bigint) AND expires_at > now() FOR KEY SHARE
), locked AS MATERIALIZED (
    SELECT t.ctid AS place, t.id, i.n
    FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) WITH ORDINALITY AS i (id, attempt, n)
    JOIN {s}.tasks t ON t.id = i.id
    WHERE t.state = 3 AND t.attempt = i.attempt AND t.flags & 1 = 0 AND t.tries < t.max_tries
      AND (t.expires_at IS NULL OR t.expires_at > now())
      AND t.type_id + 0 = ANY (CAST(:types AS int[]))
      AND t.queue_id <> ALL (ARRAY(SELECT q.id FROM {s}.queues q WHERE q.paused))
    __ORDER__FOR NO KEY UPDATE OF t SKIP LOCKED
), moved AS (
    UPDATE {s}.tasks t
    SET state = 4, session_id = a.id, tries = t.tries + 1, started_at = clock_timestamp(), seq = t.seq + 1,
        reason = NULL
    FROM locked l, alive a WHERE t.ctid = l.place AND t.id = l.id
    RETURNING l.n, t.id, t.attempt, t.seq, t.queue_id, t.type_id, t.tries, t.max_tries, t.args, __META__
), event AS (
    INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, attempt, session_id)
    SELECT id, seq, 3, 4, attempt, CAST(:session AS bigint) FROM moved
), claim AS (
    INSERT INTO {s}.claims (session_id, batch, task_ids, attempts)
    SELECT CAST(:session AS bigint), CAST(:batch AS bigint), __TAKEN__
), counted AS (
    INSERT INTO {s}.task_counts
    SELECT m.queue_id, d.state, d.sign * m.n FROM __BY_QUEUE__ m
    CROSS JOIN (VALUES (3, -1), (4, 1)) AS d (state, sign)
)
SELECT CAST(n AS int), tries, max_tries, type_id, queue_id, args, meta,
       CASE WHEN meta ? 'takes' THEN {s}.small_inputs(id, __MOST__) END
FROM moved
"""


def _claim(**parts: str) -> Sql:
    text = _CLAIM.replace("__META__", _META).replace("__MOST__", str(_MOST_INLINE))
    for name, part in parts.items():
        text = text.replace(f"__{name.upper()}__", part)
    return Sql(text)


CLAIM = _claim(
    order="ORDER BY t.id ",
    taken="array_agg(id), array_agg(attempt) FROM moved HAVING count(*) > 0",
    by_queue="(SELECT queue_id, count(*) AS n FROM moved GROUP BY 1)",
)
# The same for a batch of one, as it comes when little is going on: a third less time (0.70 against 1.09 ms warm),
# because nothing in it is sorted or grouped.
CLAIM_ONE = _claim(order="", taken="ARRAY[id], ARRAY[attempt] FROM moved", by_queue="moved")

# What became of messages the claim did not return.  ``mine``: an earlier claim of this session whose reply got lost.
LOOK = Sql("""
SELECT i.id, i.attempt, t.attempt AS row_attempt, t.state, t.session_id = CAST(:session AS bigint) AS mine,
       t.type_id = ANY (CAST(:types AS int[])) AS known, q.paused, t.expires_at <= now() AS expired, t.type_id, t.flags
FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS i (id, attempt)
LEFT JOIN {s}.tasks t ON t.id = i.id
LEFT JOIN {s}.queues q ON q.id = t.queue_id
""")

# A claim whose reply was lost belongs to this session already: take its tasks over and register them under this batch.
ADOPT = Sql(
    """
WITH mine AS (
    SELECT i.n, t.id, t.attempt, t.tries, t.max_tries, t.type_id, t.queue_id, t.args, __META__
    FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) WITH ORDINALITY AS i (id, attempt, n)
    JOIN {s}.tasks t ON t.id = i.id
    WHERE t.state = 4 AND t.attempt = i.attempt AND t.session_id = CAST(:session AS bigint)
), claim AS (
    INSERT INTO {s}.claims (session_id, batch, task_ids, attempts)
    SELECT CAST(:session AS bigint), CAST(:batch AS bigint), array_agg(id), array_agg(attempt) FROM mine
    HAVING count(*) > 0
)
SELECT CAST(n AS int), tries, max_tries, type_id, queue_id, args, meta, CAST(NULL AS bytea) FROM mine
""".replace("__META__", _META)
)

# Queued tasks past their expiry end as failed (expired): found by a worker at the claim, or by the expiry timer.
EXPIRE = Sql("""
WITH locked AS MATERIALIZED (
    SELECT t.id FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS i (id, attempt)
    JOIN {s}.tasks t ON t.id = i.id
    WHERE t.state IN (2, 3, 5) AND t.attempt = i.attempt AND t.expires_at <= now()
    ORDER BY t.id FOR NO KEY UPDATE OF t SKIP LOCKED
), moved AS (
    UPDATE {s}.tasks t
    SET state = 7, finished_at = now(), seq = t.seq + 1,
        reason = CASE WHEN t.created_at + make_interval(secs => CAST(t.meta ->> 'deadline' AS float8)) <= now()
                      THEN 15 ELSE 5 END
    FROM {s}.tasks o JOIN locked l ON l.id = o.id WHERE t.id = l.id
    RETURNING t.id, t.attempt, t.seq, t.tenant_id, t.queue_id, t.type_id, t.reason, t.flags, o.state AS from_state
), event AS (
    INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, reason, attempt)
    SELECT id, seq, from_state, 7, reason, attempt FROM moved
), failure AS (
    INSERT INTO {s}.failures (task_id, tenant_id, queue_id, type_id, state, reason, error)
    SELECT id, tenant_id, queue_id, type_id, 7, reason,
           CASE reason WHEN 15 THEN 'not finished by its deadline' ELSE 'not started before its expiry' END FROM moved
    ON CONFLICT (task_id) DO UPDATE SET state = excluded.state, reason = excluded.reason, error = excluded.error,
        fingerprint = excluded.fingerprint, finished_at = excluded.finished_at
), timer AS (
    DELETE FROM {s}.timers WHERE task_id IN (SELECT id FROM moved)
), park AS (
    DELETE FROM {s}.parked WHERE task_id IN (SELECT id FROM moved)
), counted AS (
    INSERT INTO {s}.task_counts
    SELECT m.queue_id, d.state, sum(d.n) FROM moved m, LATERAL (VALUES (m.from_state, -1), (7, 1)) AS d (state, n)
    GROUP BY 1, 2
), released AS MATERIALIZED (
    SELECT {s}.release(ended.ids) FROM (SELECT array_agg(id) AS ids FROM moved WHERE flags & 16 = 16) ended
    WHERE ended.ids IS NOT NULL
)
SELECT id, attempt FROM moved LEFT JOIN released ON true
""")

QUARANTINE = Sql("""
INSERT INTO {s}.quarantine (subject, payload, why, worker) VALUES (:subject, :payload, :why, :worker)
""")
