"""Delete finished tasks with everything that belongs to them: a person's bulk delete, and whoever prunes.

``OWNED`` is the one list of tables whose rows go with their task; a test compares it with the columns of the schema.
"""

from __future__ import annotations

from types import MappingProxyType

from state.sql import Sql

__all__ = ["DELETE_FINISHED", "LOG_DELETION", "NOT_OWNED", "OWNED"]

OWNED: tuple[str, ...] = (
    "task_events",
    "failures",
    "progress",
    "task_labels",
    "task_keys",
    "timers",
    "parked",
    "attempt_logs",
    "task_steps",
)
"""Tables with a column ``task_id`` and an index on it: their rows are deleted with the task."""
_PLACES = (("deps", "child_id"), ("joins", "node_id"))
"""What a task that waits for others has: only a handler's children are deleted apart from it, see state.flows."""
NOT_OWNED = MappingProxyType(
    {
        "outbox": "a task whose message is still on its way is kept until that has arrived",
        "cancel_requests": "the leader takes its rows away within moments of the task's end",
    }
)
"""Tables with a column ``task_id`` whose rows are not deleted, and why."""

_SIDES = "\n".join(
    f"), gone_{table} AS (\n    DELETE FROM {{s}}.{table} WHERE task_id = ANY (ARRAY(SELECT id FROM gone))"
    for table in OWNED
) + "\n".join(
    f"\n), gone_{table} AS (\n    DELETE FROM {{s}}.{table}"
    f" WHERE {column} = ANY (ARRAY(SELECT id FROM gone WHERE flags & 32 = 32))"
    for table, column in _PLACES
)

# Guard: a final state, the very move that was seen (a retry that ended again meanwhile has side rows this statement
# cannot see), and no message on its way.  Only a task that ended without its worker can have one: cancelled, expired or
# given up by the rescuer; a worker would quarantine that message, since "no such task" must never be run.  Such a task
# is left for later, as is a row that somebody holds: this never waits and never deadlocks.  Parts of flows go only
# after their flow has been forgotten, as a whole.
# Parameter :ids; returns (id, state) of each task that was deleted.  Give it some hundred ids at a time.
DELETE_FINISHED = Sql(f"""
WITH seen AS MATERIALIZED (
    SELECT t.id, t.seq, t.state = 8 OR t.reason IN (3, 5) AS doubtful FROM {{s}}.tasks t
    WHERE t.id = ANY (CAST(:ids AS uuid[])) AND t.state IN (6, 7, 8)
      AND CASE WHEN t.flags & 16 = 0 THEN true
               ELSE NOT EXISTS (SELECT FROM {{s}}.flow_nodes n WHERE n.node_id = t.id) END
), doubtful AS MATERIALIZED (
    SELECT id FROM seen WHERE doubtful
), on_the_way AS MATERIALIZED (
    SELECT d.id FROM {{s}}.outbox o JOIN doubtful d ON d.id = o.task_id WHERE (SELECT count(*) > 0 FROM doubtful)
    UNION ALL
    SELECT d.id FROM {{s}}.dispatch_log l CROSS JOIN LATERAL unnest(l.task_ids) AS u (id) JOIN doubtful d ON d.id = u.id
    WHERE (SELECT count(*) > 0 FROM doubtful)
), locked AS MATERIALIZED (
    SELECT t.id FROM seen s JOIN {{s}}.tasks t ON t.id = s.id
    WHERE t.state IN (6, 7, 8) AND t.seq = s.seq AND s.id NOT IN (SELECT id FROM on_the_way)
    ORDER BY t.id FOR UPDATE OF t SKIP LOCKED
), gone AS (
    DELETE FROM {{s}}.tasks t USING locked l WHERE t.id = l.id RETURNING t.id, t.queue_id, t.state, t.flags
{_SIDES}
), counted AS (
    INSERT INTO {{s}}.task_counts SELECT queue_id, state, -count(*) FROM gone GROUP BY 1, 2
)
SELECT id, state FROM gone
""")

# One row per command: written by its first batch, counted up by the others, in the transaction of each batch.
LOG_DELETION = Sql("""
INSERT INTO {s}.deletions AS d (id, actor, filter, deleted)
VALUES (CAST(:id AS uuid), CAST(:actor AS text), CAST(CAST(:filter AS text) AS jsonb), CAST(:deleted AS bigint))
ON CONFLICT (id) DO UPDATE SET deleted = d.deleted + excluded.deleted, ended_at = clock_timestamp()
""")
