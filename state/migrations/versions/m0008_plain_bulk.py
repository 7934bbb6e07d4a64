"""Creating many tasks that are all alike takes less: one function without arrays of what is the same for all of them.

``create_tasks`` takes nine arrays apart and passes every new row on to three more inserts.  Almost every bulk enqueue
is of one type with the options of that type, and nothing optional in them: ids and arguments are all that differs.
"""

from __future__ import annotations

from alembic import op

from state.sql import check_schema

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# The same promises as create_tasks.  Nothing is read back from what was inserted: the caller's ids and the names looked
# up once say it all.
CREATE_PLAIN_TASKS = """
CREATE FUNCTION {s}.create_plain_tasks(
    p_type text, p_queue text, p_lane text, p_max_tries int, p_flags int, p_ids uuid[], p_args bytea[]
) RETURNS void LANGUAGE plpgsql AS $plain$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_full boolean; v_type int; v_queue int; v_lane int;
BEGIN
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
    WITH task AS (
        INSERT INTO {s}.tasks (id, queue_id, lane_id, type_id, state, max_tries, flags, created_at, args)
        SELECT t.id, v_queue, v_lane, v_type, 3, p_max_tries, p_flags, v_now, t.args
        FROM unnest(p_ids, p_args) AS t (id, args)
    ), event AS (
        INSERT INTO {s}.task_events (task_id, seq, to_state, attempt, at)
        SELECT t.id, 1, 3, 1, v_now FROM unnest(p_ids) AS t (id)
    ), count AS (
        INSERT INTO {s}.task_counts (queue_id, state, n) VALUES (v_queue, 3, cardinality(p_ids))
    )
    INSERT INTO {s}.outbox (task_id, attempt, dispatch, lane_id) SELECT t.id, 1, 1, v_lane FROM unnest(p_ids) AS t (id);
END $plain$;
"""


def upgrade() -> None:
    """One more function; the others stay for the calls that need them."""
    op.execute(CREATE_PLAIN_TASKS.replace("{s}", check_schema(op.get_context().opts["dispatcher_schema"])))


def downgrade() -> None:
    """Remove it."""
    schema = check_schema(op.get_context().opts["dispatcher_schema"])
    op.execute(f"DROP FUNCTION {schema}.create_plain_tasks(text, text, text, int, int, uuid[], bytea[])")
