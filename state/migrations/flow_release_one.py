"""The functions of schema version 0007: ``release`` with a short way for one ended task, and ``small_inputs``.

In an idle system tasks end one at a time, and a chain is as fast as this: the general way is some twelve statements,
the short one two.  It also wakes the leader only for what there is: a statement trigger fires for a statement that
wrote nothing too, and an INSERT of no timers made the leader look at every table before it published.
"""

from __future__ import annotations

from state.migrations.flow_functions import VALUE
from state.migrations.flow_release import release_functions

__all__ = ["NEW_NAMES", "release_after", "release_before"]

NEW_NAMES = "release_one small_inputs"

# One task that has succeeded, with one dependant at most that needs nothing but its end, in a flow that counts in one
# row: everything else is not ``known`` and changes nothing here.  ``over``: the flow, if nothing in it is left.
# The flow's counter is locked before the dependant's, as everywhere: its id is the lower one.
_ONE = """
CREATE FUNCTION {s}.release_one(p_id uuid, OUT known boolean, OUT over uuid) LANGUAGE plpgsql AS $one$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_flow uuid; v_child uuid; v_left int; v_waits int; v_started int;
BEGIN
    SELECT n.flow_id, d.child INTO v_flow, v_child
        FROM {s}.tasks t JOIN {s}.flow_nodes n ON n.node_id = t.id CROSS JOIN LATERAL (
            SELECT count(*) AS n, (array_agg(e.child_id))[1] AS child, bool_and(e.rule < 3 AND e.wants IS NULL) AS plain
            FROM (SELECT x.* FROM {s}.deps x WHERE x.parent_id = t.id LIMIT 2) e) d
        WHERE t.id = p_id AND t.state = 6 AND n.shard = 0 AND d.n < 2 AND d.plain IS NOT FALSE;
    known := FOUND;
    IF NOT known THEN
        RETURN;
    END IF;
    IF v_child IS NULL THEN
        UPDATE {s}.joins j SET remaining = j.remaining - 1 WHERE j.node_id = v_flow AND j.shard = 0
            RETURNING j.remaining INTO v_left;
    ELSE
        WITH whole AS (
            UPDATE {s}.joins j SET remaining = j.remaining - 1 WHERE j.node_id = v_flow AND j.shard = 0
            RETURNING j.remaining
        ), child AS (
            UPDATE {s}.joins j SET remaining = j.remaining - 1
            FROM (SELECT count(*) FROM whole) first WHERE j.node_id = v_child AND j.shard = 0
            RETURNING j.remaining
        ), moved AS (
            UPDATE {s}.tasks t SET state = 3, seq = t.seq + 1
            FROM child c
            WHERE c.remaining = 0 AND t.id = v_child AND t.state = 1 AND t.reason IS NULL AND t.due_at IS NULL
              AND t.expires_at IS NULL AND (t.meta ?| '{delay,expires,deadline}'::text[]) IS NOT TRUE
            RETURNING t.id, t.attempt, t.dispatch, t.seq, t.queue_id, t.lane_id
        ), event AS (
            INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, attempt, at, actor)
            SELECT id, seq, 1, 3, attempt, v_now, 'flow' FROM moved
        ), sent AS (
            INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id)
            SELECT id, attempt, dispatch, lane_id FROM moved
        ), counted AS (
            INSERT INTO {s}.task_counts SELECT m.queue_id, d.state, d.n
            FROM moved m CROSS JOIN (VALUES (1, -1), (3, 1)) AS d (state, n)
        )
        SELECT (SELECT remaining FROM whole), (SELECT remaining FROM child), (SELECT count(*) FROM moved)
            INTO v_left, v_waits, v_started;
        IF v_waits = 0 AND v_started = 0 THEN
            PERFORM {s}.start_released(ARRAY[v_child]);
        END IF;
    END IF;
    over := CASE WHEN v_left = 0 THEN v_flow END;
END $one$;
"""

# What a task takes over, as the members of a JSON object without its braces: for the claim, which so spares the worker
# a question.  NULL where the results are together longer than p_most bytes, or not all of succeeded tasks.
_INPUTS = """
CREATE FUNCTION {s}.small_inputs(p_id uuid, p_most int) RETURNS bytea LANGUAGE plpgsql STABLE AS $inputs$
BEGIN
    RETURN (
        SELECT CASE WHEN bool_and(coalesce(t.state = 6 AND d.rule < 3, false)) AND sum(octet_length(t.result)) <= p_most
               THEN string_agg(convert_to(to_json(d.edge_key)::text || ':', 'UTF8')
                               || coalesce(t.result, 'null'::bytea), ','::bytea) END
        FROM {s}.deps d LEFT JOIN {s}.tasks t ON t.id = d.parent_id
        WHERE d.child_id = p_id AND d.edge_key <> '' AND d.edge_key <> '~children');
END $inputs$;
"""

_TIMERS = """
    INSERT INTO {s}.timers (task_id, kind, attempt, due_at)
        SELECT t.id, k.kind, t.attempt, k.at FROM {s}.tasks t,
               LATERAL (VALUES (1, t.due_at), (2, t.expires_at)) AS k (kind, at)
        WHERE t.id = ANY (p_ids) AND t.state IN (2, 3) AND k.at > v_now
          AND (t.state = 2 OR k.kind = 2)
        ON CONFLICT (task_id, kind) DO UPDATE SET attempt = excluded.attempt, due_at = excluded.due_at;
"""
_IF_TIMED = """
    IF EXISTS (SELECT FROM {s}.tasks t
               WHERE t.id = ANY (p_ids) AND t.state IN (2, 3) AND (t.due_at > v_now OR t.expires_at > v_now)) THEN"""

_TOLD = """
    ), told AS (
        INSERT INTO {s}.cancel_requests (session_id, task_id, attempt)
        SELECT 0, id, 0 FROM moved WHERE id = root_id ORDER BY id
        ON CONFLICT (session_id, task_id) DO UPDATE SET sent = false
    )
    SELECT array_agg(m.id), array_agg(CASE m.state WHEN 6 THEN 1 ELSE 2 END) INTO ids, ends FROM moved m;
"""
_TELL_ROOTS = """
    )
    SELECT array_agg(m.id), array_agg(CASE m.state WHEN 6 THEN 1 WHEN 10 THEN 3 ELSE 2 END),
           array_agg(m.id ORDER BY m.id) FILTER (WHERE m.id = m.root_id) INTO ids, ends, v_roots FROM moved m;
    IF v_roots IS NOT NULL THEN
        INSERT INTO {s}.cancel_requests (session_id, task_id, attempt) SELECT 0, r.id, 0 FROM unnest(v_roots) r (id)
        ON CONFLICT (session_id, task_id) DO UPDATE SET sent = false;
    END IF;
"""

_SUCCEEDED = "WHEN j.bad = 0 THEN 6"
# A part of a flow whose own result was skipped is skipped too: whoever waits for it must not go on with nothing.
_SUCCEEDED_OR_SKIPPED = """WHEN j.bad = 0 AND f.id <> f.root_id AND NOT EXISTS (
                            SELECT FROM {s}.flow_nodes n LEFT JOIN {s}.tasks p ON p.id = n.node_id
                            LEFT JOIN {s}.flows g ON g.id = n.node_id
                            WHERE n.flow_id = f.id AND n.slot IS NOT NULL
                              AND NOT coalesce(p.state = 8 AND p.reason = 16, g.state = 10)) THEN 10
                         WHEN j.bad = 0 THEN 6"""
_CANCELLED = "WHEN f.cancelled THEN 8"
_CANCELLED_BY_PARENT = """WHEN f.cancelled OR (f.kind = 4 AND EXISTS (
                                SELECT FROM {s}.deps d JOIN {s}.tasks p ON p.id = d.child_id
                                WHERE d.parent_id = f.id AND p.state = 8)) THEN 8"""

_FIRST = """
    SELECT array_agg(t.id), array_agg({s}.task_end(t.state, t.reason)) INTO v_ids, v_ends
        FROM {s}.tasks t WHERE t.id = ANY (p_ids) AND t.state >= 6;
"""
_SHORT_WAY = """
    IF cardinality(p_ids) = 1 THEN
        SELECT o.known, o.over INTO v_known, v_flow FROM {s}.release_one(p_ids[1]) o;
        IF v_known AND v_flow IS NULL THEN
            RETURN;
        END IF;
    END IF;
    IF v_known THEN
        SELECT f.ids, f.ends INTO v_ids, v_ends FROM {s}.end_flows(ARRAY[v_flow]) f;
    ELSE
        SELECT array_agg(t.id), array_agg({s}.task_end(t.state, t.reason)) INTO v_ids, v_ends
            FROM {s}.tasks t WHERE t.id = ANY (p_ids) AND t.state >= 6;
    END IF;
"""
_STOPPED = """
            ), stopped AS (  -- one has failed and the others are not wanted any more: the leader cancels them
                INSERT INTO {s}.cancel_requests (session_id, task_id, attempt)
                SELECT DISTINCT -1, f.id, 0 FROM lowered l JOIN {s}.flows f ON f.id = l.node_id
                WHERE l.is_flow AND l.more_bad > 0 AND f.stop AND f.state = 4
                ON CONFLICT (session_id, task_id) DO UPDATE SET sent = false
            ), up AS ("""
_SHARDS = """
            v_shards := array_fill(0, ARRAY[coalesce(cardinality(v_nodes), 0)]);
        END LOOP;
"""
_STOP_AFTER = """
        IF v_worse IS NOT NULL THEN
            -- one has failed and the others are not wanted any more: the leader cancels them
            SELECT array_agg(f.id ORDER BY f.id) INTO v_worse FROM {s}.flows f
                WHERE f.id = ANY (v_worse) AND f.stop AND f.state = 4;
            IF v_worse IS NOT NULL THEN
                INSERT INTO {s}.cancel_requests (session_id, task_id, attempt)
                    SELECT -1, w.id, 0 FROM unnest(v_worse) w (id)
                    ON CONFLICT (session_id, task_id) DO UPDATE SET sent = false;
            END IF;
        END IF;
"""
_ENDED = """
                   (SELECT array_agg(node_id) FROM up), (SELECT array_agg(n) FROM up), (SELECT array_agg(bad) FROM up)
                INTO v_ready, v_over, v_nodes, v_less, v_bad;"""
_ENDED_WORSE = """
                   v_worse || (SELECT array_agg(node_id) FROM lowered WHERE is_flow AND more_bad > 0),
                   (SELECT array_agg(node_id) FROM up), (SELECT array_agg(n) FROM up), (SELECT array_agg(bad) FROM up)
                INTO v_ready, v_over, v_worse, v_nodes, v_less, v_bad;"""

_KIND = """    SELECT f.kind INTO v_kind FROM {s}.flows f WHERE f.id = p_id AND f.state <> 10;
    IF NOT FOUND THEN
        RETURN 'null'::bytea;
    END IF;"""

# By function: what stands in version 0006, and what stands there now.
_CHANGES = {
    "start_released": ((_TIMERS, _IF_TIMED + _TIMERS.replace("\n    ", "\n        ") + "    END IF;\n"),),
    "end_flows": (
        ("    v_now timestamptz", "    v_roots uuid[];\n    v_now timestamptz"),
        (_SUCCEEDED, _SUCCEEDED_OR_SKIPPED),
        (_CANCELLED, _CANCELLED_BY_PARENT),
        (_TOLD, _TELL_ROOTS),
    ),
    "release": (
        ("    v_ready uuid[];", "    v_known boolean := false; v_flow uuid; v_worse uuid[];\n    v_ready uuid[];"),
        (_FIRST, _SHORT_WAY),
        ("v_ready := NULL; v_over := NULL;", "v_ready := NULL; v_over := NULL; v_worse := NULL;"),
        (_STOPPED, "\n            ), up AS ("),
        (_ENDED, _ENDED_WORSE),
        (_SHARDS, _SHARDS + _STOP_AFTER.removeprefix("\n")),
    ),
    "revive": (("CASE m.was WHEN 6 THEN 1 ELSE 2 END", "CASE m.was WHEN 6 THEN 1 WHEN 10 THEN 3 ELSE 2 END"),),
    "flow_value": (("    SELECT f.kind INTO v_kind FROM {s}.flows f WHERE f.id = p_id;", _KIND),),
}


def _changed() -> dict[str, str]:
    """The functions of version 0006 that change, by name."""
    named = {script.split("FUNCTION {s}.", 1)[1].split("(", 1)[0]: script for script in (*release_functions(), VALUE)}
    return {name: named[name].replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1) for name in _CHANGES}


def release_before() -> tuple[str, ...]:
    """The statements that make them as they were in version 0006; ``{s}`` still stands for the schema."""
    return tuple(_changed().values())


def release_after() -> tuple[str, ...]:
    """The statements that make them as they are now, with the new ones first."""
    scripts = [_ONE, _INPUTS]
    for name, script in _changed().items():
        for old, new in _CHANGES[name]:
            assert script.count(old) == 1, (name, old)
            script = script.replace(old, new)
        scripts.append(script)
    return tuple(scripts)
