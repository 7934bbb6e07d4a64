"""The functions of schema version 0001: create tasks, wake the relay.

They live in the database because creating a task must be *one statement on the caller's connection, whatever the
driver*, and because under READ COMMITTED every statement inside a volatile function takes a fresh snapshot, which is
what makes an idempotency key safe without ever poisoning the caller's transaction.
"""

from __future__ import annotations

from state.locks import SLEEP, advisory_key

__all__ = ["CREATE_ONE_V1", "functions_v1"]

# Writers notify only when the relay's leader holds (or has asked for) this lock exclusively, that is: when it sleeps.
_WAKE = """
CREATE FUNCTION {s}.wake() RETURNS trigger LANGUAGE plpgsql AS $wake$
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(__KEY__) THEN
        PERFORM pg_notify('{s}.wake', TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END $wake$;
CREATE FUNCTION {s}.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $refuse$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only' USING ERRCODE = 'DS004';
END $refuse$;
"""

# The three lanes every queue has; streams.conf may give a queue others.
_NAMES = """
CREATE FUNCTION {s}.ensure_names(p_types text[], p_queues text[], p_lanes text[])
RETURNS void LANGUAGE plpgsql AS $names$
BEGIN
    INSERT INTO {s}.types (name)
        SELECT DISTINCT n FROM unnest(p_types) n
        WHERE NOT EXISTS (SELECT 1 FROM {s}.types t WHERE t.name = n) ORDER BY n
        ON CONFLICT DO NOTHING;
    INSERT INTO {s}.queues (name)
        SELECT DISTINCT n FROM unnest(p_queues) n
        WHERE NOT EXISTS (SELECT 1 FROM {s}.queues q WHERE q.name = n) ORDER BY n
        ON CONFLICT DO NOTHING;
    INSERT INTO {s}.lanes (queue_id, name, priority)
        SELECT q.id, l.name, l.priority
        FROM {s}.queues q CROSS JOIN (VALUES ('high', 10), ('default', 20), ('low', 30)) AS l (name, priority)
        WHERE q.name = ANY (p_queues) AND NOT EXISTS (SELECT 1 FROM {s}.lanes x WHERE x.queue_id = q.id)
        ORDER BY q.id, l.priority
        ON CONFLICT DO NOTHING;
END $names$;
"""

# Takes a key for a task, or says whose it is: ('existing' | 'conflict').  Under READ COMMITTED each statement in the
# loop sees what others committed meanwhile, so it never fails; under stricter isolation a concurrent duplicate is the
# ordinary serialization failure.  An expired key is deleted rather than taken over, so that giving up later means
# deleting the own key and nothing else.
_KEY = """
CREATE FUNCTION {s}.take_key(
    p_type_id int, p_hash bytea, p_id uuid, p_args_hash bytea, p_now timestamptz, p_ttl float8,
    OUT task_id uuid, OUT outcome text
) LANGUAGE plpgsql AS $key$
DECLARE v_old record;
BEGIN
    LOOP
        INSERT INTO {s}.task_keys (type_id, key_hash, task_id, args_hash, expires_at)
            VALUES (p_type_id, p_hash, p_id, p_args_hash, p_now + make_interval(secs => p_ttl))
            ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND;
        SELECT t.task_id, t.args_hash, t.expires_at INTO v_old FROM {s}.task_keys t
            WHERE t.tenant_id = 0 AND t.type_id = p_type_id AND t.key_hash = p_hash;
        CONTINUE WHEN NOT FOUND;
        IF v_old.expires_at <= p_now THEN
            DELETE FROM {s}.task_keys t
                WHERE t.tenant_id = 0 AND t.type_id = p_type_id AND t.key_hash = p_hash AND t.expires_at <= p_now;
            CONTINUE;
        END IF;
        task_id := v_old.task_id;
        outcome := CASE WHEN v_old.args_hash = p_args_hash THEN 'existing' ELSE 'conflict' END;
        EXIT;
    END LOOP;
END $key$;
"""

# p_types, p_queues, p_lanes hold one entry per *profile*; p_profile says which profile each task has (1-based).
# Optional per-task arrays are NULL as a whole when no task of the call uses them.
# Returns a row only for tasks that a key turned into an existing one ('existing') or refused ('conflict'); with one
# conflict nothing at all is created.
_CREATE = """
CREATE FUNCTION {s}.create_tasks(
    p_types text[], p_queues text[], p_lanes text[],
    p_ids uuid[], p_profile int[], p_args bytea[], p_max_tries int[], p_flags int[],
    p_run_at timestamptz[] DEFAULT NULL, p_delay float8[] DEFAULT NULL, p_expires float8[] DEFAULT NULL,
    p_meta text[] DEFAULT NULL, p_keys text[] DEFAULT NULL, p_args_hash bytea[] DEFAULT NULL,
    p_key_ttl float8[] DEFAULT NULL
) RETURNS TABLE (ord int, task_id uuid, outcome text) LANGUAGE plpgsql AS $create$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_types int[]; v_queues int[]; v_lanes int[];
    v_skip int[] := '{}'; v_conflict boolean := false;
    v_key record;
BEGIN
    IF (SELECT q.last_value - r.low_id > r.outbox_limit FROM {s}.outbox_id_seq q, {s}.relay_state r) THEN
        RAISE EXCEPTION 'the outbox is full: its limit of % waiting tasks is reached',
            (SELECT r.outbox_limit FROM {s}.relay_state r)
            USING ERRCODE = 'DS001', HINT = 'See that a relay runs and reaches NATS, or raise the outbox limit.';
    END IF;
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

    IF p_keys IS NOT NULL THEN
        -- sorted (by name, so that a caller with several statements can sort alike): two callers with the same keys
        -- wait for each other instead of deadlocking
        FOR v_key IN
            SELECT k.n::int AS n, k.id, k.args_hash, k.ttl, v_types[k.profile] AS type_id,
                   sha256(convert_to(k.key, 'UTF8')) AS hash
            FROM unnest(p_ids, p_profile, p_keys, p_args_hash, p_key_ttl)
                WITH ORDINALITY AS k (id, profile, key, args_hash, ttl, n)
            WHERE k.key IS NOT NULL
            ORDER BY p_types[k.profile] COLLATE "C", 6, k.n
        LOOP
            SELECT v_key.n, t.task_id, t.outcome INTO ord, task_id, outcome
                FROM {s}.take_key(v_key.type_id, v_key.hash, v_key.id, v_key.args_hash, v_now, v_key.ttl) t;
            IF outcome IS NOT NULL THEN
                v_skip := v_skip || v_key.n;
                v_conflict := v_conflict OR outcome = 'conflict';
                RETURN NEXT;
            END IF;
        END LOOP;
        IF v_conflict THEN
            -- all or nothing, and without an error, which would abort the caller's transaction
            DELETE FROM {s}.task_keys t WHERE t.task_id = ANY (p_ids);
            RETURN;
        END IF;
    END IF;

    WITH input AS (
        SELECT u.id, v_types[u.profile] AS type_id, v_queues[u.profile] AS queue_id, v_lanes[u.profile] AS lane_id,
               u.args, u.max_tries, u.flags, u.meta,
               coalesce(u.run_at, v_now + make_interval(secs => u.delay)) AS due_at,
               coalesce(u.run_at, v_now + make_interval(secs => u.delay), v_now)
                   + make_interval(secs => u.expires) AS expires_at
        FROM unnest(p_ids, p_profile, p_args, p_max_tries, p_flags, p_run_at, p_delay, p_expires, p_meta)
            WITH ORDINALITY AS u (id, profile, args, max_tries, flags, run_at, delay, expires, meta, n)
        WHERE u.n <> ALL (v_skip)
    ), made AS (
        INSERT INTO {s}.tasks (id, queue_id, lane_id, type_id, state, max_tries, flags, created_at, due_at,
                               expires_at, args, meta)
        SELECT i.id, i.queue_id, i.lane_id, i.type_id, CASE WHEN i.due_at > v_now THEN 2 ELSE 3 END,
               i.max_tries, i.flags, v_now, i.due_at, i.expires_at, i.args, i.meta::jsonb
        FROM input i
        RETURNING tasks.id, tasks.queue_id, tasks.lane_id, tasks.state
    ), event AS (
        INSERT INTO {s}.task_events (task_id, seq, to_state, attempt, at) SELECT m.id, 1, m.state, 1, v_now FROM made m
    ), count AS (
        INSERT INTO {s}.task_counts SELECT m.queue_id, m.state, count(*) FROM made m GROUP BY 1, 2
    )
    INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id)
        SELECT m.id, 1, 1, m.lane_id FROM made m WHERE m.state = 3;
    -- from the input again, never from tasks: with hundreds of ids the planner reads a mid-size table whole
    IF p_run_at IS NOT NULL OR p_delay IS NOT NULL THEN
        INSERT INTO {s}.timers (task_id, kind, attempt, due_at)
            SELECT u.id, 1, 1, d.due_at
            FROM unnest(p_ids, p_run_at, p_delay) WITH ORDINALITY AS u (id, run_at, delay, n)
            CROSS JOIN LATERAL (SELECT coalesce(u.run_at, v_now + make_interval(secs => u.delay))) AS d (due_at)
            WHERE d.due_at > v_now AND u.n <> ALL (v_skip);
    END IF;
    IF p_expires IS NOT NULL THEN
        INSERT INTO {s}.timers (task_id, kind, attempt, due_at)
            SELECT u.id, 2, 1, coalesce(u.run_at, v_now + make_interval(secs => u.delay), v_now)
                               + make_interval(secs => u.expires)
            FROM unnest(p_ids, p_run_at, p_delay, p_expires) WITH ORDINALITY AS u (id, run_at, delay, expires, n)
            WHERE u.expires IS NOT NULL AND u.n <> ALL (v_skip);
    END IF;
    IF p_meta IS NOT NULL THEN
        INSERT INTO {s}.task_labels (kind, value, task_id)
            SELECT DISTINCT 1, tag.value, u.id
            FROM unnest(p_ids, p_meta) WITH ORDINALITY AS u (id, meta, n),
                 jsonb_array_elements_text(u.meta::jsonb -> 'tags') AS tag (value)
            WHERE u.n <> ALL (v_skip);
    END IF;
    IF p_keys IS NOT NULL THEN
        INSERT INTO {s}.task_labels (kind, value, task_id)
            SELECT 2, k.key, k.id FROM unnest(p_ids, p_keys) WITH ORDINALITY AS k (id, key, n)
            WHERE k.key IS NOT NULL AND k.n <> ALL (v_skip);
    END IF;
END $create$;
"""

# One task with plain scalar parameters: the same as create_tasks with one entry, in a third of the server's time
# (60 against 200 us without the CHECK constraints), because no statement in it has to take arrays apart.
# p_strict makes a conflicting key an error, for callers who run the statement themselves.
CREATE_ONE_V1 = """
CREATE FUNCTION {s}.create_task(
    p_id uuid, p_type text, p_queue text, p_lane text, p_args bytea, p_max_tries int, p_flags int,
    p_run_at timestamptz DEFAULT NULL, p_delay float8 DEFAULT NULL, p_expires float8 DEFAULT NULL,
    p_meta text DEFAULT NULL, p_key text DEFAULT NULL, p_args_hash bytea DEFAULT NULL, p_key_ttl float8 DEFAULT NULL,
    p_strict boolean DEFAULT true, OUT task_id uuid, OUT created boolean, OUT conflict boolean
) LANGUAGE plpgsql AS $one$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_due timestamptz := coalesce(p_run_at, v_now + make_interval(secs => p_delay));
    v_expires timestamptz := coalesce(v_due, v_now) + make_interval(secs => p_expires);
    v_state int := CASE WHEN v_due > v_now THEN 2 ELSE 3 END;
    v_meta jsonb := p_meta::jsonb;
    v_full boolean; v_type int; v_queue int; v_lane int; v_other record;
BEGIN
    task_id := p_id; created := true; conflict := false;
    FOR i IN 1..2 LOOP
        SELECT s.last_value - r.low_id > r.outbox_limit, (SELECT t.id FROM {s}.types t WHERE t.name = p_type)
            INTO v_full, v_type FROM {s}.outbox_id_seq s, {s}.relay_state r;
        SELECT l.queue_id, l.id INTO v_queue, v_lane
            FROM {s}.queues q JOIN {s}.lanes l ON l.queue_id = q.id WHERE q.name = p_queue AND l.name = p_lane;
        EXIT WHEN v_full OR (v_type IS NOT NULL AND v_lane IS NOT NULL);
        IF i = 2 THEN
            RAISE EXCEPTION 'queue "%" has no lane "%"', p_queue, p_lane USING ERRCODE = 'DS002', HINT =
                'Use high, default or low, or add the lane to streams.conf and run: dispatcher streams apply';
        END IF;
        PERFORM {s}.ensure_names(ARRAY[p_type], ARRAY[p_queue], ARRAY[p_lane]);
    END LOOP;
    IF v_full THEN
        RAISE EXCEPTION 'the outbox is full: its limit of % waiting tasks is reached',
            (SELECT r.outbox_limit FROM {s}.relay_state r)
            USING ERRCODE = 'DS001', HINT = 'See that a relay runs and reaches NATS, or raise the outbox limit.';
    END IF;
    IF p_key IS NOT NULL THEN
        SELECT k.task_id, k.outcome INTO v_other FROM {s}.take_key(
            v_type, sha256(convert_to(p_key, 'UTF8')), p_id, p_args_hash, v_now, p_key_ttl) k;
        IF v_other.outcome IS NOT NULL THEN
            task_id := v_other.task_id; created := false; conflict := v_other.outcome = 'conflict';
            IF conflict AND p_strict THEN
                RAISE EXCEPTION 'key "%" of task type "%" already belongs to task % with other arguments',
                    p_key, p_type, task_id USING ERRCODE = 'DS003', HINT = 'Use another key, or the same arguments.';
            END IF;
            RETURN;
        END IF;
    END IF;
    INSERT INTO {s}.tasks (id, queue_id, lane_id, type_id, state, max_tries, flags, created_at, due_at, expires_at,
                           args, meta)
        VALUES (p_id, v_queue, v_lane, v_type, v_state, p_max_tries, p_flags, v_now, v_due, v_expires, p_args, v_meta);
    INSERT INTO {s}.task_events (task_id, seq, to_state, attempt, at) VALUES (p_id, 1, v_state, 1, v_now);
    INSERT INTO {s}.task_counts (queue_id, state, n) VALUES (v_queue, v_state, 1);
    IF v_state = 3 THEN
        INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id) VALUES (p_id, 1, 1, v_lane);
    ELSE
        INSERT INTO {s}.timers (task_id, kind, attempt, due_at) VALUES (p_id, 1, 1, v_due);
    END IF;
    IF v_expires IS NOT NULL THEN
        INSERT INTO {s}.timers (task_id, kind, attempt, due_at) VALUES (p_id, 2, 1, v_expires);
    END IF;
    IF v_meta ? 'tags' THEN
        INSERT INTO {s}.task_labels (kind, value, task_id)
            SELECT DISTINCT 1, t.value, p_id FROM jsonb_array_elements_text(v_meta -> 'tags') AS t (value);
    END IF;
    IF p_key IS NOT NULL THEN
        INSERT INTO {s}.task_labels (kind, value, task_id) VALUES (2, p_key, p_id);
    END IF;
END $one$;
"""


def functions_v1(schema: str) -> tuple[str, ...]:
    """The statements that create the functions; ``{s}`` still stands for the schema."""
    return (
        _WAKE.replace("__KEY__", "{}, {}".format(*advisory_key(schema, SLEEP))),
        _NAMES,
        _KEY,
        _CREATE,
        CREATE_ONE_V1,
    )
