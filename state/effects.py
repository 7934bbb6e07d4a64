"""What a handler's own transaction writes: the end of its task, and the steps it has finished.

Guard of every write here: running ∧ attempt ∧ session, as in ``state.settle``; but these wait for a locked row instead
of skipping it, because the handler's transaction has nothing else to do.
"""

from __future__ import annotations

from state.sql import Sql

__all__ = ["COMPLETE", "COMPLETED", "LOCK", "STEP_OPEN", "STEP_WRITE", "SUSPEND"]

# One row: true, or false when the attempt is not this session's any more; nothing was changed then.
COMPLETE = Sql("""
SELECT {s}.complete_task(CAST(:id AS uuid), CAST(:attempt AS int), CAST(:session AS bigint), CAST(:result AS bytea))
""")

# The same for a handler that waits for a flow it has made in this transaction: running -> blocked.
SUSPEND = Sql("""
SELECT {s}.suspend_task(CAST(:id AS uuid), CAST(:attempt AS int), CAST(:session AS bigint), CAST(:flow AS uuid))
""")

# After a commit whose answer was lost.  LOCK waits until that transaction is over; it must be a statement of its own,
# because the one after it needs a snapshot from after the wait.
LOCK = Sql("SELECT 1 FROM {s}.tasks WHERE id = CAST(:id AS uuid) FOR NO KEY UPDATE")
COMPLETED = Sql("""
SELECT EXISTS (
    SELECT 1 FROM {s}.task_events WHERE task_id = CAST(:id AS uuid) AND from_state = 4 AND to_state IN (1, 6)
      AND attempt = CAST(:attempt AS int) AND session_id = CAST(:session AS bigint)),
    EXISTS (SELECT 1 FROM {s}.task_steps
            WHERE task_id = CAST(:id AS uuid) AND name = :step AND attempt = CAST(:attempt AS int))
""")

# One row (attempt is ours, result of the step or NULL).  The row lock keeps the attempt ours until the step commits.
STEP_OPEN = Sql("""
SELECT t.id IS NOT NULL, s.result
FROM (SELECT CAST(:id AS uuid) AS id) i
LEFT JOIN (
    SELECT x.id FROM {s}.tasks x
    WHERE x.id = CAST(:id AS uuid) AND x.state = 4 AND x.attempt = CAST(:attempt AS int)
      AND x.session_id = CAST(:session AS bigint) FOR SHARE) t ON t.id = i.id
LEFT JOIN {s}.task_steps s ON s.task_id = i.id AND s.name = :step
""")
STEP_WRITE = Sql("""
INSERT INTO {s}.task_steps (task_id, name, attempt, result)
VALUES (CAST(:id AS uuid), :step, CAST(:attempt AS int), CAST(:result AS bytea))
""")
