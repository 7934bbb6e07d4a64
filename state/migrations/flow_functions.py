"""The functions of schema version 0006: create tasks that wait, end or suspend one in its handler's own transaction.

``state.migrations.flow_release`` has those that let dependants go.
"""

from __future__ import annotations

from state.migrations.flow_copy import COPY
from state.migrations.flow_release import RELEASE_NAMES, RIGHTS, release_functions

__all__ = ["FUNCTION_NAMES", "VALUE", "flow_functions"]

FUNCTION_NAMES = "create_blocked copy_flow flow_value complete_task suspend_task " + RELEASE_NAMES

# Tasks that wait for others.  Like create_tasks, with fewer options: a delay and an expiry begin with the release and
# stand in ``meta`` until then; there are no keys.
_CREATE = """
CREATE FUNCTION {s}.create_blocked(
    p_types text[], p_queues text[], p_lanes text[], p_ids uuid[], p_profile int[], p_args bytea[], p_max_tries int[],
    p_flags int[], p_run_at timestamptz[], p_meta text[]
) RETURNS void LANGUAGE plpgsql AS $create$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_types int[]; v_queues int[]; v_lanes int[];
BEGIN
    FOR i IN 1..2 LOOP
        SELECT array_agg(t.id ORDER BY p.n), array_agg(q.id ORDER BY p.n), array_agg(l.id ORDER BY p.n)
            INTO v_types, v_queues, v_lanes
            FROM unnest(p_types, p_queues, p_lanes) WITH ORDINALITY AS p (type, queue, lane, n)
            LEFT JOIN {s}.types t ON t.name = p.type
            LEFT JOIN {s}.queues q ON q.name = p.queue
            LEFT JOIN {s}.lanes l ON l.queue_id = q.id AND l.name = p.lane;
        EXIT WHEN array_position(v_types, NULL) IS NULL AND array_position(v_lanes, NULL) IS NULL;
        IF i = 2 THEN
            RAISE EXCEPTION 'queue "%" has no lane "%"', p_queues[array_position(v_lanes, NULL)],
                p_lanes[array_position(v_lanes, NULL)]
                USING ERRCODE = 'DS002', HINT =
                    'Use high, default or low, or add the lane to streams.conf and run: dispatcher streams apply';
        END IF;
        PERFORM {s}.ensure_names(p_types, p_queues, p_lanes);
    END LOOP;
    WITH made AS (
        INSERT INTO {s}.tasks (id, queue_id, lane_id, type_id, state, max_tries, flags, created_at, due_at, args, meta)
        SELECT u.id, v_queues[u.profile], v_lanes[u.profile], v_types[u.profile], 1, u.max_tries, u.flags, v_now,
               u.run_at, u.args, u.meta::jsonb
        FROM unnest(p_ids, p_profile, p_args, p_max_tries, p_flags, p_run_at, p_meta)
            AS u (id, profile, args, max_tries, flags, run_at, meta)
        RETURNING tasks.id, tasks.queue_id
    ), event AS (
        INSERT INTO {s}.task_events (task_id, seq, to_state, attempt, at) SELECT m.id, 1, 1, 1, v_now FROM made m
    )
    INSERT INTO {s}.task_counts SELECT m.queue_id, 1, count(*) FROM made m GROUP BY 1;
    INSERT INTO {s}.task_labels (kind, value, task_id)
        SELECT DISTINCT 1, tag.value, u.id FROM unnest(p_ids, p_meta) AS u (id, meta),
               jsonb_array_elements_text(u.meta::jsonb -> 'tags') AS tag (value);
END $create$;
"""

# The results of a flow as one JSON value: of a chain that of its last part, of a group a list, of a graph an object by
# name.  What has no result is null.  NULL when it would be longer than p_most bytes: it is never built then.
VALUE = """
CREATE FUNCTION {s}.flow_value(p_id uuid, p_most bigint) RETURNS bytea
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $value$
DECLARE
    v_kind int; v_size bigint; v_names text[]; v_slots int[]; v_values bytea[];
BEGIN
    SELECT f.kind INTO v_kind FROM {s}.flows f WHERE f.id = p_id;
    SELECT sum(octet_length(t.result)) INTO v_size FROM {s}.flow_nodes n JOIN {s}.tasks t ON t.id = n.node_id
        WHERE n.flow_id = p_id AND n.slot IS NOT NULL;
    IF v_size > p_most THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(n.name ORDER BY n.slot), array_agg(n.slot ORDER BY n.slot), array_agg(
            CASE WHEN t.id IS NULL THEN {s}.flow_value(n.node_id, p_most)
                 ELSE coalesce(t.result, 'null'::bytea) END ORDER BY n.slot)
        INTO v_names, v_slots, v_values
        FROM {s}.flow_nodes n LEFT JOIN {s}.tasks t ON t.id = n.node_id
        WHERE n.flow_id = p_id AND n.slot IS NOT NULL;
    IF v_values IS NULL THEN
        RETURN 'null'::bytea;
    END IF;
    IF array_position(v_values, NULL) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    RETURN CASE v_kind
        WHEN 1 THEN v_values[1]
        WHEN 3 THEN '{'::bytea || (SELECT string_agg(
            convert_to(to_json(v_names[i])::text || ':', 'UTF8') || v_values[i], ','::bytea ORDER BY i)
            FROM generate_subscripts(v_values, 1) i) || '}'::bytea
        ELSE '['::bytea || (SELECT string_agg(x.value, ','::bytea ORDER BY x.i)
            FROM unnest(v_values) WITH ORDINALITY AS x (value, i)) || ']'::bytea END;
END $value$;
"""

# A handler's own transaction ends its task.  False: the attempt is not this worker's any more; nothing was changed.
# Two statements, so that the second one sees what whoever held the row has committed.
_COMPLETE = """
CREATE FUNCTION {s}.complete_task(p_id uuid, p_attempt int, p_session bigint, p_result bytea) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $complete$
DECLARE
    v_task record;
BEGIN
    PERFORM 1 FROM {s}.tasks t WHERE t.id = p_id FOR NO KEY UPDATE;
    UPDATE {s}.tasks t
        SET state = 6, session_id = NULL, reason = NULL, result = p_result, finished_at = clock_timestamp(),
            seq = t.seq + 1
        WHERE t.id = p_id AND t.state = 4 AND t.attempt = p_attempt AND t.session_id = p_session
        RETURNING t.seq, t.queue_id, t.flags INTO v_task;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, attempt, session_id, at)
        VALUES (p_id, v_task.seq, 4, 6, p_attempt, p_session, clock_timestamp());
    INSERT INTO {s}.task_counts VALUES (v_task.queue_id, 4, -1), (v_task.queue_id, 6, 1);
    IF v_task.flags & 1 = 1 THEN
        DELETE FROM {s}.cancel_requests c WHERE c.session_id = p_session AND c.task_id = p_id;
    END IF;
    IF v_task.flags & 16 = 16 THEN
        PERFORM {s}.release(ARRAY[p_id]);
    END IF;
    RETURN true;
END $complete$;
"""

# A handler gives its slot back until a flow that it has just made is over: running -> blocked, and the try is refunded.
_SUSPEND = """
CREATE FUNCTION {s}.suspend_task(p_id uuid, p_attempt int, p_session bigint, p_flow uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $suspend$
DECLARE
    v_task record;
BEGIN
    PERFORM 1 FROM {s}.tasks t WHERE t.id = p_id FOR NO KEY UPDATE;
    UPDATE {s}.tasks t
        SET state = 1, session_id = NULL, reason = 17, attempt = t.attempt + 1, tries = t.tries - 1, due_at = NULL,
            flags = t.flags | 32, seq = t.seq + 1
        WHERE t.id = p_id AND t.state = 4 AND t.attempt = p_attempt AND t.session_id = p_session AND t.flags & 1 = 0
        RETURNING t.seq, t.queue_id INTO v_task;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, reason, attempt, session_id, at)
        VALUES (p_id, v_task.seq, 4, 1, 17, p_attempt, p_session, clock_timestamp());
    INSERT INTO {s}.task_counts VALUES (v_task.queue_id, 4, -1), (v_task.queue_id, 1, 1);
    INSERT INTO {s}.deps (parent_id, child_id, edge_key, rule) VALUES (p_flow, p_id, '~children', 2);
    INSERT INTO {s}.joins AS j (node_id, shard, is_flow, remaining) VALUES (p_id, 0, false, 1)
        ON CONFLICT (node_id, shard) DO UPDATE SET remaining = j.remaining + 1;
    RETURN true;
END $suspend$;
"""


def flow_functions() -> tuple[str, ...]:
    """The statements that create the functions; ``{s}`` still stands for the schema."""
    return (*release_functions(), _CREATE, VALUE, _COMPLETE, _SUSPEND, COPY, RIGHTS)
