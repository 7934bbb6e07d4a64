"""Reading what attempts logged; ``state.settle`` writes it."""

from __future__ import annotations

from state.sql import Sql

__all__ = ["LOGS"]

# attempt, at, dropped, lines as JSON text; one row of NULLs for a task that logged nothing, none for no task.
LOGS = Sql("""
SELECT l.attempt, l.at, l.dropped, CAST(l.lines AS text)
FROM {s}.tasks t LEFT JOIN {s}.attempt_logs l ON l.task_id = t.id
WHERE t.id = CAST(:id AS uuid) ORDER BY l.attempt
""")
