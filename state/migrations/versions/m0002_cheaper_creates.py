"""Creating one task takes less of the server: one look-up, one statement that writes, a shorter CHECK for the moves.

PostgreSQL reads the text of every CHECK anew in each statement that writes the table; the one for the moves was a third
of all that a create has to read.  Together 12 to 15 % of the server's time for a transaction that creates one task
(benchmarks/RESULTS.md).
"""

from __future__ import annotations

from alembic import op

from state.migrations.functions import CREATE_ONE_V1
from state.migrations.versions.m0001_main_job import LEGAL, MOVES
from state.sql import check_schema

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# One bit per pair of states, at 9 * from + to; from-state 0: created.  A pair outside of the table meets a zero or is
# refused by get_bit itself.
BITS = "".join(str(int(after in MOVES.get(before, ()))) for before in range(9) for after in range(9))
SHORT = f"get_bit(B'{BITS}', coalesce(from_state, 0) * 9 + to_state) = 1"

# The same promises as before.  What a plain task needs is written by one statement: each statement of a function
# starts and ends an executor of its own.
CREATE_ONE_V2 = """
CREATE OR REPLACE FUNCTION {s}.create_task(
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
        SELECT s.last_value - r.low_id > r.outbox_limit, t.id, l.queue_id, l.id INTO v_full, v_type, v_queue, v_lane
            FROM {s}.outbox_id_seq s, {s}.relay_state r, {s}.types t, {s}.queues q, {s}.lanes l
            WHERE t.name = p_type AND q.name = p_queue AND l.queue_id = q.id AND l.name = p_lane;
        EXIT WHEN FOUND;
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
    WITH task AS (
        INSERT INTO {s}.tasks (id, queue_id, lane_id, type_id, state, max_tries, flags, created_at, due_at, expires_at,
                               args, meta)
        VALUES (p_id, v_queue, v_lane, v_type, v_state, p_max_tries, p_flags, v_now, v_due, v_expires, p_args, v_meta)
    ), event AS (
        INSERT INTO {s}.task_events (task_id, seq, to_state, attempt, at) VALUES (p_id, 1, v_state, 1, v_now)
    ), count AS (
        INSERT INTO {s}.task_counts (queue_id, state, n) VALUES (v_queue, v_state, 1)
    )
    INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id) SELECT p_id, 1, 1, v_lane WHERE v_state = 3;
    IF v_state = 2 THEN
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


def _schema() -> str:
    return check_schema(op.get_context().opts["dispatcher_schema"])


def _moves(condition: str) -> str:
    # NOT VALID first: what is stored passed the other form of the same condition, and reading it all takes long
    return (
        "ALTER TABLE {s}.task_events DROP CONSTRAINT task_events_move_legal,"
        f" ADD CONSTRAINT task_events_move_legal CHECK ({condition}) NOT VALID;"
        "ALTER TABLE {s}.task_events VALIDATE CONSTRAINT task_events_move_legal"
    )


def upgrade() -> None:
    """Replace the function and the constraint; nothing that is stored changes."""
    for script in (_moves(SHORT), CREATE_ONE_V2):
        op.execute(script.replace("{s}", _schema()))


def downgrade() -> None:
    """Put the first ones back."""
    for script in (_moves(LEGAL), CREATE_ONE_V1.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")):
        op.execute(script.replace("{s}", _schema()))
