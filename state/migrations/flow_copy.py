"""The function of schema version 0006 that runs a whole flow again: a copy, because what succeeded stays succeeded."""

from __future__ import annotations

__all__ = ["COPY"]

# p_old are all nodes of the flow, the flow itself first; p_new their new ids, rising in the same order.
COPY = """
CREATE FUNCTION {s}.copy_flow(p_old uuid[], p_new uuid[]) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $copy$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    INSERT INTO {s}.flows (id, root_id, kind, name, total, stop, copy_of, created_at)
        SELECT m.new, p_new[1], f.kind, f.name, f.total, f.stop, f.id, v_now
        FROM unnest(p_old, p_new) AS m (old, new) JOIN {s}.flows f ON f.id = m.old;
    INSERT INTO {s}.flow_events (flow_id, seq, state, at)
        SELECT m.new, 1, 4, v_now FROM unnest(p_old, p_new) AS m (old, new) JOIN {s}.flows f ON f.id = m.old;
    INSERT INTO {s}.flow_nodes (node_id, flow_id, pos, slot, shard, name)
        SELECT m.new, w.new, n.pos, n.slot, n.shard, n.name
        FROM unnest(p_old, p_new) AS m (old, new) JOIN {s}.flow_nodes n ON n.node_id = m.old
        JOIN unnest(p_old, p_new) AS w (old, new) ON w.old = n.flow_id;
    INSERT INTO {s}.deps (parent_id, child_id, edge_key, rule, wants)
        SELECT p.new, c.new, d.edge_key, d.rule, d.wants
        FROM unnest(p_old, p_new) AS c (old, new) JOIN {s}.deps d ON d.child_id = c.old
        JOIN unnest(p_old, p_new) AS p (old, new) ON p.old = d.parent_id;
    INSERT INTO {s}.joins (node_id, shard, is_flow, remaining)
        SELECT m.new, 0, false, count(*) FROM unnest(p_new) AS m (new) JOIN {s}.deps d ON d.child_id = m.new GROUP BY 1
        UNION ALL
        SELECT n.flow_id, n.shard, true, count(*) FROM unnest(p_new) AS m (new)
        JOIN {s}.flow_nodes n ON n.node_id = m.new GROUP BY 1, 2
        UNION ALL
        SELECT n.flow_id, 0, true, max(n.shard) FROM unnest(p_new) AS m (new)
        JOIN {s}.flow_nodes n ON n.node_id = m.new GROUP BY 1 HAVING max(n.shard) > 0;
    WITH made AS (
        INSERT INTO {s}.tasks (id, tenant_id, queue_id, lane_id, type_id, state, max_tries, flags, created_at, codec,
                               key_id, payload_version, args, meta)
        SELECT m.new, t.tenant_id, t.queue_id, t.lane_id, t.type_id, CASE WHEN j.node_id IS NULL THEN 3 ELSE 1 END,
               t.max_tries, (t.flags & ~33) | CASE WHEN j.node_id IS NULL THEN 0 ELSE 32 END, v_now, t.codec, t.key_id,
               t.payload_version, t.args, t.meta
        FROM unnest(p_old, p_new) AS m (old, new) JOIN {s}.tasks t ON t.id = m.old
        LEFT JOIN {s}.joins j ON j.node_id = m.new AND j.shard = 0
        RETURNING tasks.id, tasks.queue_id, tasks.lane_id, tasks.state
    ), event AS (
        INSERT INTO {s}.task_events (task_id, seq, to_state, attempt, at) SELECT id, 1, state, 1, v_now FROM made
    ), counted AS (
        INSERT INTO {s}.task_counts SELECT queue_id, state, count(*) FROM made GROUP BY 1, 2
    ), label AS (
        INSERT INTO {s}.task_labels (kind, value, task_id)
        SELECT l.kind, l.value, m.new FROM unnest(p_old, p_new) AS m (old, new)
        JOIN {s}.task_labels l ON l.task_id = m.old AND l.kind = 1
    )
    INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id)
        SELECT id, 1, 1, lane_id FROM made WHERE state = 3 ORDER BY id;
END $copy$;
"""
