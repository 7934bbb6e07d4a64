"""Flows: create them, read what a task takes over from others, show, cancel and retry them as a whole."""

from __future__ import annotations

from state.sql import Sql

__all__ = [
    "AGAIN",
    "COPY",
    "CREATE_BLOCKED",
    "CREATE_DEPS",
    "CREATE_FLOWS",
    "CREATE_JOINS",
    "CREATE_NODES",
    "FAILED",
    "FORGET",
    "FORGET_ONE",
    "HISTORY",
    "INPUTS",
    "LOCK_FLOW",
    "MARK_CANCELLED",
    "NODES",
    "OPEN",
    "PAST",
    "STATE",
    "STOPS",
    "TREE",
]

CREATE_BLOCKED = Sql("""
SELECT {s}.create_blocked(
    CAST(:types AS text[]), CAST(:queues AS text[]), CAST(:lanes AS text[]), CAST(:ids AS uuid[]),
    CAST(:profile AS int[]), CAST(:args AS bytea[]), CAST(:max_tries AS int[]), CAST(:flags AS int[]),
    CAST(:run_at AS timestamptz[]), CAST(:meta AS text[]))
""")

CREATE_FLOWS = Sql("""
WITH made AS (
    INSERT INTO {s}.flows (id, root_id, kind, name, total, stop)
    SELECT i.id, CAST(:root AS uuid), i.kind, i.name, i.total, i.stop
    FROM unnest(CAST(:ids AS uuid[]), CAST(:kinds AS int[]), CAST(:names AS text[]), CAST(:totals AS int[]),
                CAST(:stops AS boolean[])) AS i (id, kind, name, total, stop)
    RETURNING id
)
INSERT INTO {s}.flow_events (flow_id, seq, state) SELECT id, 1, 4 FROM made
""")

CREATE_NODES = Sql("""
INSERT INTO {s}.flow_nodes (node_id, flow_id, pos, slot, shard, name)
SELECT * FROM unnest(CAST(:nodes AS uuid[]), CAST(:flows AS uuid[]), CAST(:positions AS int[]), CAST(:slots AS int[]),
                     CAST(:shards AS int[]), CAST(:names AS text[]))
""")

CREATE_DEPS = Sql("""
INSERT INTO {s}.deps (parent_id, child_id, edge_key, rule, wants)
SELECT i.parent, i.child, i.key, i.rule, CAST(i.wants AS jsonb)
FROM unnest(CAST(:parents AS uuid[]), CAST(:children AS uuid[]), CAST(:keys AS text[]), CAST(:rules AS int[]),
            CAST(:wants AS text[])) AS i (parent, child, key, rule, wants)
""")

CREATE_JOINS = Sql("""
INSERT INTO {s}.joins (node_id, shard, is_flow, remaining)
SELECT * FROM unnest(CAST(:nodes AS uuid[]), CAST(:shards AS int[]), CAST(:are_flows AS boolean[]),
                     CAST(:remaining AS int[]))
""")

# What tasks take over: one row per task and parameter.  For an edge that waited for a failure the error instead of a
# result; value is NULL where a flow's results are together longer than :most bytes.
INPUTS = Sql("""
SELECT d.child_id, d.edge_key, d.rule,
       CASE WHEN t.id IS NULL THEN {s}.flow_value(d.parent_id, CAST(:most AS bigint))
            ELSE coalesce(t.result, convert_to('null', 'UTF8')) END AS value,
       d.parent_id, t.state, t.reason, (SELECT y.name FROM {s}.types y WHERE y.id = t.type_id) AS type,
       CASE WHEN d.rule = 3 THEN (SELECT f.error FROM {s}.failures f WHERE f.task_id = d.parent_id) END AS error
FROM unnest(CAST(:ids AS uuid[])) AS i (id)
JOIN {s}.deps d ON d.child_id = i.id AND d.edge_key <> '' AND d.edge_key <> '~children'
LEFT JOIN {s}.tasks t ON t.id = d.parent_id
""")

# The flows inside one, itself included: found among those with the same root, so that members are not looked through.
_INSIDE = """WITH RECURSIVE kin AS MATERIALIZED (
    SELECT f.id, n.flow_id AS parent FROM {s}.flows x JOIN {s}.flows f ON f.root_id = x.root_id
    LEFT JOIN {s}.flow_nodes n ON n.node_id = f.id WHERE x.id = CAST(:id AS uuid)
), inside AS (
    SELECT k.id FROM kin k WHERE k.id = CAST(:id AS uuid)
    UNION ALL
    SELECT k.id FROM inside i JOIN kin k ON k.parent = i.id
)"""

# One flow and how many of its tasks, at any depth, are in each state and for which reason.
STATE = Sql(f"""
{_INSIDE}, counted AS (
    SELECT t.state, CASE WHEN t.state = 8 AND t.reason = 16 THEN 16 END AS reason, count(*) AS n
    FROM inside i JOIN {{s}}.flow_nodes n ON n.flow_id = i.id JOIN {{s}}.tasks t ON t.id = n.node_id GROUP BY 1, 2
)
SELECT f.id, f.root_id, f.kind, f.name, f.state, f.total, f.created_at, f.finished_at,
       c.state AS task_state, c.reason, c.n
FROM {{s}}.flows f LEFT JOIN counted c ON true WHERE f.id = CAST(:id AS uuid)
""")

# The tree in one query: every flow and task with its place and state, and the names of what a task waits for.
TREE = Sql(f"""
{_INSIDE}
SELECT f.id, n.flow_id AS parent, n.pos, coalesce(f.name, n.name) AS name, f.kind, NULL AS type, f.state,
       CAST(NULL AS smallint) AS reason, NULL AS attempt, f.created_at, NULL AS started_at, f.finished_at,
       CAST(NULL AS uuid[]) AS waits_for
FROM inside i JOIN {{s}}.flows f ON f.id = i.id LEFT JOIN {{s}}.flow_nodes n ON n.node_id = f.id
UNION ALL
SELECT t.id, n.flow_id, n.pos, n.name, NULL, (SELECT y.name FROM {{s}}.types y WHERE y.id = t.type_id), t.state,
       t.reason, t.attempt, t.created_at, t.started_at, t.finished_at,
       CASE WHEN t.flags & 32 = 32 THEN ARRAY(
           SELECT DISTINCT d.parent_id FROM {{s}}.deps d WHERE d.child_id = t.id ORDER BY 1) END
FROM inside i JOIN {{s}}.flow_nodes n ON n.flow_id = i.id JOIN {{s}}.tasks t ON t.id = n.node_id
ORDER BY 2 NULLS FIRST, 3
""")

HISTORY = Sql("""
SELECT e.seq, e.state, e.at, e.actor FROM {s}.flow_events e WHERE e.flow_id = CAST(:id AS uuid) ORDER BY e.seq
""")

# Every node of one, the flow itself first, in the order of creation; and its copy as a new one.
NODES = Sql(f"""
{_INSIDE}
SELECT x.id FROM (
    SELECT i.id, 0 AS depth FROM inside i WHERE i.id = CAST(:id AS uuid)
    UNION ALL
    SELECT n.node_id, 1 FROM inside i JOIN {{s}}.flow_nodes n ON n.flow_id = i.id) x ORDER BY x.depth, x.id
""")
COPY = Sql("SELECT {s}.copy_flow(CAST(:old AS uuid[]), CAST(:new AS uuid[]))")

# What a cancel of the whole has to stop.
OPEN = Sql(f"""
{_INSIDE}
SELECT t.id FROM inside i JOIN {{s}}.flow_nodes n ON n.flow_id = i.id JOIN {{s}}.tasks t ON t.id = n.node_id
WHERE t.state < 6 AND t.flags & 1 = 0 ORDER BY t.id
""")
MARK_CANCELLED = Sql(f"""
{_INSIDE}
UPDATE {{s}}.flows f SET cancelled = true FROM inside i WHERE f.id = i.id AND f.state = 4
""")

_AFTER_BAD = """EXISTS (
    SELECT 1 FROM {s}.deps d LEFT JOIN {s}.tasks p ON p.id = d.parent_id LEFT JOIN {s}.flows g ON g.id = d.parent_id
    WHERE d.child_id = t.id AND ((p.state IN (7, 8) AND p.reason <> 16) OR g.state BETWEEN 7 AND 9))"""
# What a retry of the failed parts has to start: not those that only wait for them.  These follow by themselves; those
# that were cancelled meanwhile follow after AGAIN.
FAILED = Sql(f"""
{_INSIDE}
SELECT t.id FROM inside i JOIN {{s}}.flow_nodes n ON n.flow_id = i.id JOIN {{s}}.tasks t ON t.id = n.node_id
WHERE t.state IN (7, 8) AND CASE WHEN t.flags & 32 = 0 THEN true ELSE NOT EXISTS (
    SELECT 1 FROM {{s}}.joins j WHERE j.node_id = t.id AND j.shard = 0 AND j.remaining > 0) AND NOT {_AFTER_BAD} END
ORDER BY t.id
""")

AGAIN = Sql(f"""
{_INSIDE}
UPDATE {{s}}.joins j SET again = true
FROM inside i JOIN {{s}}.flow_nodes n ON n.flow_id = i.id JOIN {{s}}.tasks t ON t.id = n.node_id
WHERE j.node_id = t.id AND j.shard = 0 AND t.state IN (7, 8) AND (j.remaining > 0 OR {_AFTER_BAD})
""")

# Flows that are not wanted any more, because one task has failed or because the handler that waited for them was
# cancelled, one at a time: their tasks, except those that only wait for somebody's end or failure.
STOPS = Sql("""
WITH RECURSIVE asked AS MATERIALIZED (
    SELECT task_id FROM {s}.cancel_requests WHERE session_id = -1 LIMIT 1 FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM {s}.cancel_requests c USING asked a WHERE c.session_id = -1 AND c.task_id = a.task_id
), inside AS (
    SELECT task_id AS id FROM asked
    UNION ALL
    SELECT n.node_id FROM inside i JOIN {s}.flow_nodes n ON n.flow_id = i.id JOIN {s}.flows f ON f.id = n.node_id
)
SELECT (SELECT count(*) FROM asked), array_agg(t.id ORDER BY t.id) FROM inside i
JOIN {s}.flow_nodes n ON n.flow_id = i.id JOIN {s}.tasks t ON t.id = n.node_id
WHERE t.state < 6 AND t.flags & 1 = 0
  AND NOT EXISTS (SELECT 1 FROM {s}.deps d WHERE d.child_id = t.id AND d.rule IN (2, 3) AND d.edge_key <> '~children')
""")

# For the pruner: flows of which every task is past its time go as a whole, before their tasks, which are then like any
# others; a handler's children wait until their parent is gone.  Parameters as in state.prune; :low is where to go on.
# Returns the ids of those that are gone, in order.  At most :most flows in one call.
_PAST = """
WITH kept AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:queues AS int[]), CAST(:succeeded AS float8[]), CAST(:failed AS float8[]),
                         CAST(:cancelled AS float8[])) AS k (queue, succeeded, failed, cancelled)
), roots AS MATERIALIZED (
    SELECT f.id FROM {s}.flows f
    WHERE f.root_id = f.id AND f.id > CAST(:low AS uuid)
      AND f.finished_at < now() - (SELECT make_interval(secs => min(least(succeeded, failed, cancelled))) FROM kept)
      AND NOT EXISTS (SELECT FROM {s}.deps d JOIN {s}.tasks t ON t.id = d.child_id WHERE d.parent_id = f.id
                      AND d.edge_key = '~children')
      AND NOT EXISTS (
          SELECT FROM {s}.flows g JOIN {s}.flow_nodes n ON n.flow_id = g.id JOIN {s}.tasks t ON t.id = n.node_id
          LEFT JOIN kept k ON k.queue = t.queue_id
          WHERE g.root_id = f.id AND (t.finished_at < now() - make_interval(secs =>
              CASE t.state WHEN 6 THEN k.succeeded WHEN 7 THEN k.failed WHEN 8 THEN k.cancelled END)) IS NOT TRUE)
    ORDER BY f.id LIMIT CAST(:most AS int)"""
_INSIDE_ROOTS = """
), inside AS MATERIALIZED (
    SELECT f.id FROM roots r JOIN {s}.flows f ON f.root_id = r.id
)"""
_GONE = """, members AS (
    DELETE FROM {s}.flow_nodes n USING inside i WHERE n.flow_id = i.id RETURNING n.node_id
), nodes AS MATERIALIZED (
    SELECT node_id FROM members UNION SELECT id FROM inside
), edges AS (
    DELETE FROM {s}.deps d USING nodes n WHERE d.parent_id = n.node_id
), counters AS (
    DELETE FROM {s}.joins j USING nodes n WHERE j.node_id = n.node_id
), history AS (
    DELETE FROM {s}.flow_events e USING inside i WHERE e.flow_id = i.id
), gone AS (
    DELETE FROM {s}.flows f USING inside i WHERE f.id = i.id
)
"""
FORGET = Sql(f"{_PAST} FOR UPDATE OF f SKIP LOCKED{_INSIDE_ROOTS}{_GONE}SELECT id FROM roots ORDER BY id")
# What would go: one row (flow, queue, state, tasks) per queue and state.
PAST = Sql(f"""{_PAST}{_INSIDE_ROOTS}
SELECT r.id, t.queue_id, CAST(t.state AS int), count(*) FROM roots r JOIN {{s}}.flows f ON f.root_id = r.id
JOIN {{s}}.flow_nodes n ON n.flow_id = f.id JOIN {{s}}.tasks t ON t.id = n.node_id GROUP BY 1, 2, 3 ORDER BY 1
""")
# One flow that a person wants to be gone: what it is, locked, or no row; and then its end.  The ids of its tasks, which
# are like any others then.
LOCK_FLOW = Sql("SELECT id, root_id, kind, state FROM {s}.flows WHERE id = CAST(:id AS uuid) FOR UPDATE")
FORGET_ONE = Sql(
    f"WITH roots AS MATERIALIZED (SELECT CAST(:id AS uuid) AS id{_INSIDE_ROOTS}{_GONE}"
    "SELECT n.node_id FROM nodes n JOIN {s}.tasks t ON t.id = n.node_id ORDER BY 1"
)
