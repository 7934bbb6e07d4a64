"""``release`` and ``revive`` of schema version 0006: what the end of a task means for others, and the reversal.

The one place that knows it.  Every statement that can end a task calls ``release`` with those whose flag 16 says that
somebody must be told; every statement that takes a task back from an end calls ``revive``.  Both run in the transaction
of their caller.

Locks are always taken in one direction: the ended task, counters sorted by node and shard, dependants sorted by id,
then the counters of what those were part of.  Ids rise along the edges, so two transactions rarely meet crosswise; when
they do PostgreSQL ends one, whose caller tries again.
"""

from __future__ import annotations

__all__ = ["RELEASE_NAMES", "RIGHTS", "release_functions"]

RELEASE_NAMES = "release revive start_released stop_unneeded end_flows task_end"

# How a node ended, for those who wait for it: 1 succeeded, 2 failed or cancelled, 3 skipped.
_ENDS = """
CREATE FUNCTION {s}.task_end(p_state int, p_reason int) RETURNS int LANGUAGE sql IMMUTABLE AS
$end$ SELECT CASE WHEN p_state = 6 THEN 1 WHEN p_reason = 16 THEN 3 ELSE 2 END $end$;
"""

# Rules of an edge d whose parent ended as e.how: 1 it must succeed (with this result, if ``wants`` says so), 2 it must
# end, 3 it must fail.
_FROM_EDGES = """FROM unnest(v_ids, v_ends) AS e (id, how) JOIN {s}.deps d ON d.parent_id = e.id
                    LEFT JOIN {s}.tasks t ON d.wants IS NOT NULL AND t.id = d.parent_id"""
_HOLDS = """CASE WHEN d.rule = 2 THEN true WHEN d.rule = 3 THEN e.how = 2 WHEN e.how <> 1 THEN false
                         WHEN d.wants IS NULL THEN true
                         ELSE coalesce(convert_from(t.result, 'UTF8')::jsonb = d.wants, false) END"""

# Blocked tasks that have everything they waited for: to the outbox, or to a timer if they were asked to wait longer.
# A task that had failed or was skipped only because of others, and whose others were retried, begins a new generation;
# so does one that was cancelled with its flow, when the flow was retried (``again``).
_START = """
CREATE FUNCTION {s}.start_released(p_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $start$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_again uuid[]; v_ends int[];
BEGIN
    PERFORM 1 FROM {s}.tasks t WHERE t.id = ANY (p_ids) ORDER BY t.id FOR NO KEY UPDATE;
    SELECT array_agg(t.id), array_agg({s}.task_end(t.state, t.reason)) INTO v_again, v_ends
        FROM {s}.tasks t JOIN {s}.joins j ON j.node_id = t.id AND j.shard = 0
        WHERE t.id = ANY (p_ids) AND t.state IN (7, 8) AND (t.reason IN (6, 16) OR j.again);
    WITH due AS MATERIALIZED (
        SELECT t.id, t.state, d.due_at,
               least(coalesce(d.due_at, v_now) + make_interval(secs => (t.meta ->> 'expires')::float8),
                     CASE WHEN t.state = 1 AND (t.reason IS DISTINCT FROM 17 OR t.expires_at IS NOT NULL)
                          THEN t.created_at + make_interval(secs => (t.meta ->> 'deadline')::float8) END) AS expires_at
        FROM {s}.tasks t CROSS JOIN LATERAL (SELECT CASE
            WHEN t.meta ? 'delay' AND t.reason IS DISTINCT FROM 17
            THEN v_now + make_interval(secs => (t.meta ->> 'delay')::float8)
            ELSE t.due_at END AS due_at) d
        WHERE t.id = ANY (p_ids) AND (t.state = 1 OR t.id = ANY (v_again))
    ), moved AS (
        UPDATE {s}.tasks t
        SET state = CASE WHEN d.due_at > v_now THEN 2 ELSE 3 END, reason = NULL, seq = t.seq + 1,
            due_at = d.due_at, expires_at = d.expires_at, finished_at = NULL,
            generation = t.generation + CASE d.state WHEN 1 THEN 0 ELSE 1 END,
            attempt = t.attempt + CASE d.state WHEN 1 THEN 0 ELSE 1 END,
            dispatch = t.dispatch + CASE d.state WHEN 1 THEN 0 ELSE 1 END,
            tries = CASE d.state WHEN 1 THEN t.tries ELSE 0 END, flags = t.flags & ~1
        FROM due d WHERE t.id = d.id
        RETURNING t.id, t.attempt, t.dispatch, t.seq, t.queue_id, t.lane_id, t.state, t.due_at, t.expires_at,
                  d.state AS from_state
    ), event AS (
        INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, attempt, at, actor)
        SELECT id, seq, from_state, state, attempt, v_now, 'flow' FROM moved
    ), sent AS (
        INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id)
        SELECT id, attempt, dispatch, lane_id FROM moved WHERE state = 3 ORDER BY id
    ), failure AS (
        DELETE FROM {s}.failures f USING moved m WHERE m.from_state <> 1 AND f.task_id = m.id
    )
    INSERT INTO {s}.task_counts
    SELECT m.queue_id, d.state, sum(d.n)
    FROM moved m, LATERAL (VALUES (m.from_state::int, -1), (m.state::int, 1)) AS d (state, n) GROUP BY 1, 2;
    INSERT INTO {s}.timers (task_id, kind, attempt, due_at)
        SELECT t.id, k.kind, t.attempt, k.at FROM {s}.tasks t,
               LATERAL (VALUES (1, t.due_at), (2, t.expires_at)) AS k (kind, at)
        WHERE t.id = ANY (p_ids) AND t.state IN (2, 3) AND k.at > v_now
          AND (t.state = 2 OR k.kind = 2)
        ON CONFLICT (task_id, kind) DO UPDATE SET attempt = excluded.attempt, due_at = excluded.due_at;
    IF v_again IS NOT NULL THEN
        UPDATE {s}.joins j SET again = false WHERE j.node_id = ANY (v_again) AND j.shard = 0 AND j.again;
        PERFORM {s}.revive(v_again, v_ends);
    END IF;
END $start$;
"""

# Blocked tasks that will never have what they wait for: failed (dependency_failed) or, where only a condition does not
# hold, cancelled (skipped).  Returns those that others must hear of.
_STOP = """
CREATE FUNCTION {s}.stop_unneeded(p_ids uuid[], p_ends int[], OUT ids uuid[], OUT ends int[])
LANGUAGE plpgsql AS $stop$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM 1 FROM {s}.tasks t WHERE t.id = ANY (p_ids) ORDER BY t.id FOR NO KEY UPDATE;
    WITH moved AS (
        UPDATE {s}.tasks t
        SET state = CASE i.how WHEN 2 THEN 7 ELSE 8 END, reason = CASE i.how WHEN 2 THEN 6 ELSE 16 END,
            finished_at = v_now, seq = t.seq + 1
        FROM unnest(p_ids, p_ends) AS i (id, how) WHERE t.id = i.id AND t.state = 1
        RETURNING t.id, t.tenant_id, t.queue_id, t.type_id, t.state, t.reason, t.attempt, t.seq, t.flags, i.how
    ), event AS (
        INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, reason, attempt, at, actor)
        SELECT id, seq, 1, state, reason, attempt, v_now, 'flow' FROM moved
    ), failure AS (
        INSERT INTO {s}.failures (task_id, tenant_id, queue_id, type_id, state, reason, error, finished_at)
        SELECT id, tenant_id, queue_id, type_id, state, reason,
               CASE how WHEN 2 THEN 'a task it waits for did not succeed' END, v_now
        FROM moved ORDER BY id
        ON CONFLICT (task_id) DO UPDATE SET state = excluded.state, reason = excluded.reason, error = excluded.error,
            fingerprint = NULL, finished_at = excluded.finished_at
    ), told AS (  -- the leader tells whoever waits for them
        INSERT INTO {s}.cancel_requests (session_id, task_id, attempt) SELECT 0, id, attempt FROM moved ORDER BY id
        ON CONFLICT (session_id, task_id) DO UPDATE SET attempt = excluded.attempt, sent = false
    ), counted AS (
        INSERT INTO {s}.task_counts
        SELECT m.queue_id, d.state, sum(d.n)
        FROM moved m, LATERAL (VALUES (1, -1), (m.state::int, 1)) AS d (state, n) GROUP BY 1, 2
    )
    SELECT array_agg(m.id), array_agg(m.how) INTO ids, ends FROM moved m WHERE m.flags & 16 = 16;
END $stop$;
"""

# Flows whose members have all ended (one that begins again at this moment counts as waiting by now): 6 succeeded,
# 7 failed, 8 cancelled, 9 partly succeeded.
_END_FLOWS = """
CREATE FUNCTION {s}.end_flows(p_ids uuid[], OUT ids uuid[], OUT ends int[]) LANGUAGE plpgsql AS $flows$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    WITH moved AS (
        UPDATE {s}.flows f
        SET state = CASE WHEN j.bad = 0 THEN 6 WHEN f.cancelled THEN 8 WHEN f.kind = 1 OR j.bad >= f.total THEN 7
                         ELSE 9 END,
            finished_at = v_now, seq = f.seq + 1
        FROM {s}.joins j
        WHERE f.id = ANY (p_ids) AND j.node_id = f.id AND j.shard = 0 AND j.remaining = 0 AND f.state = 4
        RETURNING f.id, f.root_id, f.state, f.seq
    ), event AS (
        INSERT INTO {s}.flow_events (flow_id, seq, state, at, actor) SELECT id, seq, state, v_now, 'flow' FROM moved
    ), told AS (
        INSERT INTO {s}.cancel_requests (session_id, task_id, attempt)
        SELECT 0, id, 0 FROM moved WHERE id = root_id ORDER BY id
        ON CONFLICT (session_id, task_id) DO UPDATE SET sent = false
    )
    SELECT array_agg(m.id), array_agg(CASE m.state WHEN 6 THEN 1 ELSE 2 END) INTO ids, ends FROM moved m;
END $flows$;
"""

# Called with tasks that the caller has just ended.  Counters are lowered by sums over all of them: three parents of one
# child in one batch are one row to update, and an UPDATE would change it only once.
_RELEASE = """
CREATE FUNCTION {s}.release(p_ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $release$
DECLARE
    v_ids uuid[]; v_ends int[]; v_nodes uuid[]; v_shards int[]; v_less int[]; v_bad int[];
    v_ready uuid[]; v_over uuid[]; v_stop uuid[]; v_why int[]; v_more uuid[]; v_more_ends int[];
BEGIN
    SELECT array_agg(t.id), array_agg({s}.task_end(t.state, t.reason)) INTO v_ids, v_ends
        FROM {s}.tasks t WHERE t.id = ANY (p_ids) AND t.state >= 6;
    WHILE v_ids IS NOT NULL LOOP
        v_ready := NULL; v_over := NULL;
        SELECT array_agg(g.node), array_agg(g.shard), array_agg(g.n), array_agg(g.bad)
            INTO v_nodes, v_shards, v_less, v_bad FROM (
                SELECT h.node, h.shard, count(*)::int AS n, sum(h.bad)::int AS bad FROM (
                    SELECT n.flow_id AS node, n.shard, CASE e.how WHEN 2 THEN 1 ELSE 0 END AS bad
                    FROM unnest(v_ids, v_ends) AS e (id, how) JOIN {s}.flow_nodes n ON n.node_id = e.id
                    UNION ALL
                    SELECT d.child_id, 0, 0 __FROM_EDGES__
                    WHERE __HOLDS__
                ) h GROUP BY 1, 2 ORDER BY 1, 2) g;
        SELECT array_agg(g.child_id), array_agg(g.why) INTO v_stop, v_why FROM (
            SELECT d.child_id, min(CASE WHEN d.rule = 1 AND e.how = 2 THEN 2 ELSE 3 END) AS why
            __FROM_EDGES__
            WHERE NOT __HOLDS__ GROUP BY 1) g;
        -- members beyond a thousand count in shards; a shard that is done counts as one in the flow's own row
        WHILE v_nodes IS NOT NULL LOOP
            IF cardinality(v_nodes) > 1 THEN
                PERFORM 1 FROM unnest(v_nodes, v_shards) AS u (node, shard)
                    JOIN {s}.joins j ON j.node_id = u.node AND j.shard = u.shard
                    ORDER BY j.node_id, j.shard FOR NO KEY UPDATE OF j;
            END IF;
            WITH lowered AS (
                UPDATE {s}.joins j SET remaining = j.remaining - u.less, bad = j.bad + u.bad
                FROM unnest(v_nodes, v_shards, v_less, v_bad) AS u (node, shard, less, bad)
                WHERE j.node_id = u.node AND j.shard = u.shard
                RETURNING j.node_id, j.shard, j.remaining, j.bad, j.is_flow, u.bad AS more_bad
            ), stopped AS (  -- one has failed and the others are not wanted any more: the leader cancels them
                INSERT INTO {s}.cancel_requests (session_id, task_id, attempt)
                SELECT DISTINCT -1, f.id, 0 FROM lowered l JOIN {s}.flows f ON f.id = l.node_id
                WHERE l.is_flow AND l.more_bad > 0 AND f.stop AND f.state = 4
                ON CONFLICT (session_id, task_id) DO UPDATE SET sent = false
            ), up AS (
                SELECT node_id, count(*)::int AS n, sum(bad)::int AS bad FROM lowered
                WHERE shard > 0 AND remaining = 0 GROUP BY 1 ORDER BY 1
            )
            SELECT v_ready || (SELECT array_agg(node_id) FROM lowered WHERE remaining = 0 AND NOT is_flow),
                   v_over || (SELECT array_agg(node_id) FROM lowered WHERE remaining = 0 AND is_flow AND shard = 0),
                   (SELECT array_agg(node_id) FROM up), (SELECT array_agg(n) FROM up), (SELECT array_agg(bad) FROM up)
                INTO v_ready, v_over, v_nodes, v_less, v_bad;
            v_shards := array_fill(0, ARRAY[coalesce(cardinality(v_nodes), 0)]);
        END LOOP;
        IF v_ready IS NOT NULL THEN
            PERFORM {s}.start_released(v_ready);
        END IF;
        v_ids := NULL; v_ends := NULL;
        IF v_stop IS NOT NULL THEN
            SELECT s.ids, s.ends INTO v_ids, v_ends FROM {s}.stop_unneeded(v_stop, v_why) s;
        END IF;
        IF v_over IS NOT NULL THEN
            SELECT f.ids, f.ends INTO v_more, v_more_ends FROM {s}.end_flows(v_over) f;
            v_ids := v_ids || v_more; v_ends := v_ends || v_more_ends;
        END IF;
    END LOOP;
END $release$;
"""

# The reversal, for tasks that a retry takes back from failed or cancelled: whatever their end had counted for counts
# again as waiting, and a flow that was over runs again.  p_ends says how they had ended.
_REVIVE = """
CREATE FUNCTION {s}.revive(p_ids uuid[], p_ends int[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $revive$
DECLARE
    v_ids uuid[] := p_ids; v_ends int[] := p_ends;
    v_nodes uuid[]; v_shards int[]; v_more int[]; v_bad int[];
BEGIN
    WHILE v_ids IS NOT NULL LOOP
        SELECT array_agg(g.node), array_agg(g.shard), array_agg(g.n), array_agg(g.bad)
            INTO v_nodes, v_shards, v_more, v_bad FROM (
                SELECT h.node, h.shard, count(*)::int AS n, sum(h.bad)::int AS bad FROM (
                    SELECT n.flow_id AS node, n.shard, CASE e.how WHEN 2 THEN 1 ELSE 0 END AS bad
                    FROM unnest(v_ids, v_ends) AS e (id, how) JOIN {s}.flow_nodes n ON n.node_id = e.id
                    UNION ALL
                    SELECT d.child_id, 0, 0 __FROM_EDGES__
                    WHERE __HOLDS__
                ) h GROUP BY 1, 2 ORDER BY 1, 2) g;
        WHILE v_nodes IS NOT NULL LOOP
            PERFORM 1 FROM unnest(v_nodes, v_shards) AS u (node, shard)
                JOIN {s}.joins j ON j.node_id = u.node AND j.shard = u.shard
                ORDER BY j.node_id, j.shard FOR NO KEY UPDATE OF j;
            WITH raised AS (
                UPDATE {s}.joins j SET remaining = j.remaining + u.more, bad = j.bad - u.bad
                FROM unnest(v_nodes, v_shards, v_more, v_bad) AS u (node, shard, more, bad)
                WHERE j.node_id = u.node AND j.shard = u.shard
                RETURNING j.node_id, j.shard, j.remaining - u.more AS before, j.bad + u.bad AS bad_before
            ), up AS (
                SELECT node_id, count(*)::int AS n, sum(bad_before)::int AS bad FROM raised
                WHERE shard > 0 AND before = 0 GROUP BY 1 ORDER BY 1
            )
            SELECT (SELECT array_agg(node_id) FROM up), (SELECT array_agg(n) FROM up), (SELECT array_agg(bad) FROM up)
                INTO v_nodes, v_more, v_bad;
            v_shards := array_fill(0, ARRAY[coalesce(cardinality(v_nodes), 0)]);
        END LOOP;
        WITH over AS MATERIALIZED (
            SELECT DISTINCT f.id, f.state FROM unnest(v_ids) AS e (id) JOIN {s}.flow_nodes n ON n.node_id = e.id
            JOIN {s}.flows f ON f.id = n.flow_id WHERE f.state <> 4
        ), moved AS (
            UPDATE {s}.flows f SET state = 4, finished_at = NULL, cancelled = false, seq = f.seq + 1
            FROM over o WHERE f.id = o.id
            RETURNING f.id, f.seq, o.state AS was
        ), event AS (
            INSERT INTO {s}.flow_events (flow_id, seq, state, at, actor)
            SELECT id, seq, 4, clock_timestamp(), 'retry' FROM moved
        )
        SELECT array_agg(m.id), array_agg(CASE m.was WHEN 6 THEN 1 ELSE 2 END) INTO v_ids, v_ends FROM moved m;
    END LOOP;
END $revive$;
"""


RIGHTS = """
REVOKE ALL ON FUNCTION {s}.release, {s}.revive, {s}.complete_task, {s}.suspend_task FROM PUBLIC;
"""
"""They act with the rights of their owner, so that who ends tasks may touch no counter and read no result itself."""


def release_functions() -> tuple[str, ...]:
    """The statements that create the functions; ``{s}`` still stands for the schema."""
    scripts = (_ENDS, _START, _STOP, _END_FLOWS, _RELEASE, _REVIVE)
    return tuple(script.replace("__FROM_EDGES__", _FROM_EDGES).replace("__HOLDS__", _HOLDS) for script in scripts)
