"""What has become of some tasks: the read that waiters and ``Task.result`` make."""

from __future__ import annotations

from state.sql import Sql

__all__ = ["OUTCOMES"]

# id, state, reason, result, error; ids that do not exist (yet) have no row.
OUTCOMES = Sql("""
SELECT t.id, t.state, t.reason, t.result,
       CASE WHEN t.state IN (7, 8) THEN (SELECT f.error FROM {s}.failures f WHERE f.task_id = t.id) END
FROM {s}.tasks t WHERE t.id = ANY (CAST(:ids AS uuid[]))
""")
