"""What has become of some tasks: the read that waiters and ``Task.result`` make."""

from __future__ import annotations

from state.sql import Sql

__all__ = ["OUTCOMES"]

# id, state, reason, result, error; ids that do not exist (yet) have no row.  A flow is told as a task would be: with
# the results of its parts as one value, and one that succeeded only in part as failed.
OUTCOMES = Sql("""
SELECT t.id, t.state, t.reason, t.result,
       CASE WHEN t.state IN (7, 8) THEN (SELECT f.error FROM {s}.failures f WHERE f.task_id = t.id) END
FROM {s}.tasks t WHERE t.id = ANY (CAST(:ids AS uuid[]))
UNION ALL
SELECT f.id, CASE f.state WHEN 9 THEN 7 WHEN 10 THEN 8 ELSE f.state END, NULL,
       CASE WHEN f.state = 6 THEN {s}.flow_value(f.id, 1073741824) END,
       CASE WHEN f.state BETWEEN 7 AND 9 THEN (SELECT j.bad || ' of ' || f.total || ' parts did not succeed'
                                   FROM {s}.joins j WHERE j.node_id = f.id AND j.shard = 0) END
FROM {s}.flows f WHERE f.id = ANY (CAST(:ids AS uuid[]))
""")
