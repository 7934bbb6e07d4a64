"""Counters by queue and state: every move appends a delta, the leader folds them into one row per queue and state."""

from __future__ import annotations

from state.sql import Sql

__all__ = ["FOLD"]

# Whatever the DELETE took is summed and written back in the same statement; deltas that commit meanwhile wait for the
# next fold.  Nothing is ever updated, so writers never wait for a counter.
FOLD = Sql("""
WITH gone AS (DELETE FROM {s}.task_counts RETURNING queue_id, state, n)
INSERT INTO {s}.task_counts SELECT queue_id, state, sum(n) FROM gone GROUP BY 1, 2 HAVING sum(n) <> 0
""")
