"""The checker: reads the whole audit trail and returns every task whose story does not add up.

Each statement returns rows ``(task_id, what)``; an empty answer is the proof.  They read everything and are meant for
tests, the demo's proof and ``doctor``, not for hot paths.  The database refuses most of these things already when they
are written; here nothing is taken on trust.
"""

from __future__ import annotations

from types import MappingProxyType

from state.sql import Sql

__all__ = [
    "AGREES_WITH_TASK",
    "ATTEMPTS",
    "CHECKS",
    "CONTINUOUS",
    "FINALS",
    "GAPLESS",
    "LEGAL",
    "TRIES",
    "VIOLATIONS",
]

# seq runs 1, 2, 3 ... without holes
GAPLESS = Sql("""
SELECT task_id, 'events ' || min(seq) || ' to ' || max(seq) || ' but ' || count(*) || ' of them' AS what
FROM {s}.task_events GROUP BY task_id HAVING min(seq) <> 1 OR max(seq) <> count(*)
""")

# every move is in the table of the state machine
LEGAL = Sql("""
SELECT e.task_id, 'event ' || e.seq || ' moves from ' || coalesce(e.from_state, 0) || ' to ' || e.to_state AS what
FROM {s}.task_events e LEFT JOIN {s}.task_moves m
    ON m.from_state = coalesce(e.from_state, 0) AND m.to_state = e.to_state
WHERE m.to_state IS NULL
""")

# each move starts where the one before it ended
CONTINUOUS = Sql("""
SELECT task_id, 'event ' || seq || ' leaves ' || from_state || ' but the task was in ' || coalesce(before, 0) AS what
FROM (SELECT task_id, seq, from_state, lag(to_state) OVER (PARTITION BY task_id ORDER BY seq) AS before
      FROM {s}.task_events) e
WHERE from_state IS DISTINCT FROM before
""")

# the last event and the row say the same; no task without events, no events of a task that never was
AGREES_WITH_TASK = Sql("""
SELECT coalesce(t.id, e.task_id) AS task_id,
       CASE WHEN t.id IS NULL THEN 'events without a task'
            WHEN e.task_id IS NULL THEN 'a task without events'
            ELSE 'row: state ' || t.state || ' seq ' || t.seq || ' session ' || coalesce(t.session_id, 0)
                 || ', last event: state ' || e.to_state || ' seq ' || e.seq || ' session ' || coalesce(e.session_id, 0)
       END AS what
FROM {s}.tasks t FULL JOIN (
    SELECT DISTINCT ON (task_id) task_id, seq, to_state, session_id FROM {s}.task_events ORDER BY task_id, seq DESC
) e ON e.task_id = t.id
WHERE t.id IS NULL OR e.task_id IS NULL OR t.state <> e.to_state OR t.seq <> e.seq
   OR (t.state = 4 AND t.session_id IS DISTINCT FROM e.session_id)
""")

# A person's retry (an event that leaves failed or cancelled) opens a new generation.  Each generation has exactly one
# final event, the last one none while its task is still on its way.
FINALS = Sql("""
WITH numbered AS (
    SELECT task_id, to_state,
           1 + count(*) FILTER (WHERE from_state IN (7, 8)) OVER (PARTITION BY task_id ORDER BY seq) AS generation
    FROM {s}.task_events
), finals AS (
    SELECT task_id, generation, count(*) FILTER (WHERE to_state IN (6, 7, 8)) AS n FROM numbered GROUP BY 1, 2
)
SELECT t.id AS task_id,
       CASE WHEN f.generation > t.generation THEN 'more generations in the events than in the row'
            ELSE 'generation ' || f.generation || ' has ' || f.n || ' final events' END AS what
FROM finals f JOIN {s}.tasks t ON t.id = f.task_id
WHERE f.generation > t.generation
   OR f.n <> CASE WHEN f.generation < t.generation OR t.state IN (6, 7, 8) THEN 1 ELSE 0 END
UNION ALL
SELECT t.id, 'more generations in the row than in the events'
FROM {s}.tasks t WHERE t.generation > 1
  AND t.generation <> 1 + (SELECT count(*) FROM {s}.task_events e WHERE e.task_id = t.id AND e.from_state IN (7, 8))
""")

# Claims of the present generation minus the tries given back (12 snoozed, 13 released, and those that wait
# for children) are the row's tries.
TRIES = Sql("""
WITH numbered AS (
    SELECT task_id, from_state, to_state, reason,
           1 + count(*) FILTER (WHERE from_state IN (7, 8)) OVER (PARTITION BY task_id ORDER BY seq) AS generation
    FROM {s}.task_events
), used AS (
    SELECT n.task_id, count(*) FILTER (WHERE n.to_state = 4)
           - count(*) FILTER (WHERE n.from_state = 4 AND ((n.to_state IN (2, 3) AND n.reason IN (12, 13))
                                                               OR n.to_state = 1)) AS n
    FROM numbered n JOIN {s}.tasks t ON t.id = n.task_id AND t.generation = n.generation GROUP BY 1
)
SELECT t.id AS task_id, u.n || ' tries in the events, ' || t.tries || ' in the row, at most ' || t.max_tries AS what
FROM used u JOIN {s}.tasks t ON t.id = u.task_id
WHERE u.n <> t.tries OR u.n > t.max_tries
""")

# The fence: an attempt is claimed at most once and left at most once, by the session that claimed it, and the number
# never falls.
ATTEMPTS = Sql("""
SELECT task_id, 'attempt ' || attempt || ' was claimed ' || claims || ' and left ' || leaves || ' times by '
       || sessions || ' sessions' AS what
FROM (SELECT task_id, attempt, count(*) FILTER (WHERE to_state = 4) AS claims,
             count(*) FILTER (WHERE from_state = 4) AS leaves,
             count(DISTINCT session_id) FILTER (WHERE from_state = 4 OR to_state = 4) AS sessions
      FROM {s}.task_events WHERE from_state = 4 OR to_state = 4 GROUP BY 1, 2) a
WHERE claims > 1 OR leaves > claims OR sessions > 1
UNION ALL
SELECT task_id, 'event ' || seq || ' falls back to attempt ' || attempt
FROM (SELECT task_id, seq, attempt, lag(attempt) OVER (PARTITION BY task_id ORDER BY seq) AS before
      FROM {s}.task_events) e
WHERE attempt < before
""")

CHECKS = MappingProxyType(
    {
        "gapless": GAPLESS,
        "legal": LEGAL,
        "continuous": CONTINUOUS,
        "agrees_with_task": AGREES_WITH_TASK,
        "one_final_per_generation": FINALS,
        "tries_bounded": TRIES,
        "one_claim_per_attempt": ATTEMPTS,
    }
)
"""All checks by name."""

VIOLATIONS = Sql(
    "\nUNION ALL\n".join(
        f"SELECT '{name}' AS name, task_id, what FROM ({check.text}) AS {name}" for name, check in CHECKS.items()
    )
)
"""Everything that is wrong anywhere, as rows ``(name of the check, task_id, what)``."""
