"""The checker of flows: reads everything and returns each node whose counters, state or history do not add up.

Like ``state.audit``: every statement returns rows ``(id, what)``, and an empty answer is the proof.
"""

from __future__ import annotations

from types import MappingProxyType

from state.sql import Sql

__all__ = ["FLOW_CHECKS", "FLOW_VIOLATIONS"]

_ENDS = """ends AS (
    SELECT t.id, {s}.task_end(t.state, t.reason) AS how, t.result FROM {s}.tasks t WHERE t.state >= 6
    UNION ALL
    SELECT f.id, CASE f.state WHEN 6 THEN 1 WHEN 10 THEN 3 ELSE 2 END, NULL FROM {s}.flows f WHERE f.state <> 4
)"""
_EDGES = f"""WITH {_ENDS}, edges AS (
    SELECT d.child_id, d.edge_key, coalesce(CASE WHEN e.id IS NULL THEN false WHEN d.rule = 2 THEN true
           WHEN d.rule = 3 THEN e.how = 2 WHEN e.how <> 1 THEN false WHEN d.wants IS NULL THEN true
           ELSE CAST(convert_from(e.result, 'UTF8') AS jsonb) = d.wants END, false) AS holds
    FROM {{s}}.deps d LEFT JOIN ends e ON e.id = d.parent_id
)"""

# what a task still waits for is what its counter says; nothing waits for nothing
COUNTERS = Sql(f"""
{_EDGES}
SELECT j.node_id AS id, 'waits for ' || count(*) FILTER (WHERE NOT e.holds) || ' but counts ' || j.remaining AS what
FROM {{s}}.joins j JOIN edges e ON e.child_id = j.node_id WHERE NOT j.is_flow
GROUP BY j.node_id, j.remaining HAVING count(*) FILTER (WHERE NOT e.holds) <> j.remaining
UNION ALL
SELECT t.id, 'blocked, but waits for nothing' FROM {{s}}.tasks t
LEFT JOIN {{s}}.joins j ON j.node_id = t.id AND j.shard = 0 WHERE t.state = 1 AND coalesce(j.remaining, 0) = 0
""")

# a task runs if and only if everything it waits for has happened
RAN = Sql(f"""
{_EDGES}, needs AS (
    SELECT child_id AS id, bool_and(holds) AS may FROM edges WHERE edge_key <> '~children' GROUP BY 1
)
SELECT n.id, CASE WHEN n.may THEN 'may run, but ended without' ELSE 'may not run, but did' END AS what
FROM needs n JOIN {{s}}.tasks t ON t.id = n.id
WHERE (NOT n.may AND t.state IN (3, 4, 5, 6)) OR (n.may AND t.state >= 7 AND t.reason IN (6, 16))
""")

# a flow is over when its members are, and its counters know how they ended
MEMBERS = Sql(f"""
WITH {_ENDS}, members AS (
    SELECT n.flow_id, count(*) AS total, count(e.id) AS ended, count(*) FILTER (WHERE e.how = 2) AS bad
    FROM {{s}}.flow_nodes n LEFT JOIN ends e ON e.id = n.node_id GROUP BY 1
), counted AS (
    SELECT j.node_id, sum(j.bad) AS bad FROM {{s}}.joins j
    WHERE j.is_flow AND (j.shard > 0) = EXISTS (
        SELECT 1 FROM {{s}}.joins x WHERE x.node_id = j.node_id AND x.shard = 1) GROUP BY 1
)
SELECT f.id, 'flow in state ' || f.state || ' with ' || m.ended || ' of ' || m.total || ' members ended, ' || m.bad
       || ' badly, counted ' || c.bad AS what
FROM {{s}}.flows f JOIN members m ON m.flow_id = f.id JOIN counted c ON c.node_id = f.id
WHERE m.total <> f.total OR (f.state <> 4) <> (m.ended = m.total) OR m.bad <> c.bad
   OR (f.state IN (6, 10) AND m.bad > 0)
   OR f.seq <> (SELECT count(*) FROM {{s}}.flow_events v WHERE v.flow_id = f.id)
""")

FLOW_CHECKS = MappingProxyType({"flow_counters": COUNTERS, "ran_if_and_only_if": RAN, "flow_members": MEMBERS})
"""All checks by name."""

FLOW_VIOLATIONS = Sql(
    "\nUNION ALL\n".join(
        f"SELECT '{name}' AS name, id, what FROM ({check.text}) AS {name}" for name, check in FLOW_CHECKS.items()
    )
)
"""Everything that is wrong with any flow, as rows ``(name of the check, id, what)``."""
