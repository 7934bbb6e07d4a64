"""The main job: tasks, their audit trail, the outbox, and the small tables that keep hot rows narrow.

Rules behind the shape (measured, see docs/decisions.md): no index on a column that claim or settle writes, so that
their updates stay HOT; no foreign key to ``tasks`` and no second unique key on it, so that range partitioning by id
stays possible; whatever must be found by state has a row in a small side table.
"""

from __future__ import annotations

from alembic import op

from state.migrations.functions import functions_v1
from state.sql import check_schema

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The machine of this version, written out: a migration must not change when the code does.  From-state 0: created.
MOVES = {
    0: (1, 2, 3),
    1: (2, 3, 7, 8),
    2: (3, 7, 8),
    3: (2, 4, 7, 8),
    4: (1, 2, 3, 5, 6, 7, 8),
    5: (3, 7, 8),
    7: (2, 3),
    8: (2, 3),
}
# The database itself refuses every move that is not in the table.  One bit mask of to-states per from-state: PostgreSQL
# compiles a CHECK anew for each statement, and as a CASE this took 45 instead of 19 us of a single event's insert.
MASKS = ",".join(str(sum(1 << after for after in MOVES.get(before, ()))) for before in range(9))
LEGAL = (
    "to_state BETWEEN 1 AND 8 AND coalesce(from_state, 0) BETWEEN 0 AND 8"
    f" AND (CAST('{{{MASKS}}}' AS int[]))[coalesce(from_state, 0) + 1] & (1 << to_state) <> 0"
)

TABLES = """
CREATE TABLE {s}.queues (
    id          int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL UNIQUE CONSTRAINT queues_name_legal CHECK (name ~ '^[A-Za-z0-9_-]{1,64}$'),
    stream      text NOT NULL DEFAULT 'TASKS'
                CONSTRAINT queues_stream_legal CHECK (stream ~ '^[A-Za-z0-9_-]{1,64}$'),
    paused      boolean NOT NULL DEFAULT false,
    paused_at   timestamptz,
    paused_by   text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT queues_paused_has_time CHECK (paused = (paused_at IS NOT NULL))
);
CREATE TABLE {s}.lanes (
    id          int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue_id    int NOT NULL REFERENCES {s}.queues (id),
    name        text NOT NULL CONSTRAINT lanes_name_legal CHECK (name ~ '^[A-Za-z0-9_-]{1,64}$'),
    priority    smallint NOT NULL,
    CONSTRAINT lanes_queue_id_name_key UNIQUE (queue_id, name)
);
CREATE TABLE {s}.types (
    id          int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL UNIQUE CONSTRAINT types_name_length CHECK (length(name) BETWEEN 1 AND 200),
    options     jsonb,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE {s}.tasks (
    id              uuid PRIMARY KEY,
    tenant_id       int NOT NULL DEFAULT 0,
    queue_id        int NOT NULL,
    lane_id         int NOT NULL,
    type_id         int NOT NULL,
    state           smallint NOT NULL,
    reason          smallint,
    attempt         int NOT NULL DEFAULT 1,
    tries           smallint NOT NULL DEFAULT 0,
    max_tries       smallint NOT NULL,
    generation      smallint NOT NULL DEFAULT 1,
    dispatch        int NOT NULL DEFAULT 1,
    seq             int NOT NULL DEFAULT 1,
    flags           int NOT NULL DEFAULT 0,
    session_id      bigint,
    created_at      timestamptz NOT NULL,
    due_at          timestamptz,
    expires_at      timestamptz,
    started_at      timestamptz,
    finished_at     timestamptz,
    codec           smallint NOT NULL DEFAULT 1,
    key_id          smallint,
    payload_version smallint NOT NULL DEFAULT 1,
    args            bytea NOT NULL,
    result          bytea,
    meta            jsonb,
    CONSTRAINT tasks_state_known CHECK (state BETWEEN 1 AND 8),
    CONSTRAINT tasks_reason_known CHECK (reason BETWEEN 1 AND 14),
    CONSTRAINT tasks_numbers_positive CHECK (attempt >= 1 AND generation >= 1 AND dispatch >= 1 AND seq >= 1),
    CONSTRAINT tasks_tries_bounded CHECK (tries BETWEEN 0 AND max_tries AND max_tries >= 1),
    CONSTRAINT tasks_running_has_session CHECK ((state = 4) = (session_id IS NOT NULL)),
    CONSTRAINT tasks_running_has_try CHECK (state NOT IN (4, 6) OR (tries >= 1 AND started_at IS NOT NULL)),
    CONSTRAINT tasks_final_has_time CHECK ((state >= 6) = (finished_at IS NOT NULL)),
    CONSTRAINT tasks_result_only_on_success CHECK (result IS NULL OR state = 6),
    CONSTRAINT tasks_stopped_has_reason CHECK (state NOT IN (7, 8) OR reason IS NOT NULL),
    CONSTRAINT tasks_waiting_has_due CHECK (state NOT IN (2, 5) OR due_at IS NOT NULL)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
CREATE INDEX tasks_queue_id_id ON {s}.tasks (queue_id, id);
CREATE INDEX tasks_type_id_id ON {s}.tasks (type_id, id);

CREATE TABLE {s}.task_moves (
    from_state  smallint NOT NULL,
    to_state    smallint NOT NULL,
    PRIMARY KEY (from_state, to_state)
);
CREATE TABLE {s}.task_events (
    task_id     uuid NOT NULL,
    seq         int NOT NULL,
    from_state  smallint,
    to_state    smallint NOT NULL,
    reason      smallint,
    attempt     int NOT NULL,
    session_id  bigint,
    at          timestamptz NOT NULL DEFAULT now(),
    actor       text,
    detail      jsonb,
    PRIMARY KEY (task_id, seq),
    CONSTRAINT task_events_created_is_first CHECK ((seq = 1) = (from_state IS NULL)),
    CONSTRAINT task_events_move_legal CHECK (__LEGAL__),
    CONSTRAINT task_events_reason_known CHECK (reason BETWEEN 1 AND 14)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);

CREATE TABLE {s}.outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id     uuid NOT NULL,
    attempt     int NOT NULL,
    dispatch    int NOT NULL,
    lane_id     int NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 1000000);
CREATE TABLE {s}.dispatch_log (
    batch       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane_id     int NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    task_ids    uuid[] NOT NULL,
    attempts    int[] NOT NULL,
    dispatches  int[] NOT NULL
) WITH (toast_tuple_target = 8160);
ALTER TABLE {s}.dispatch_log ALTER COLUMN task_ids SET STORAGE EXTERNAL;  -- random ids do not compress: do not try
CREATE TABLE {s}.relay_state (
    singleton   boolean PRIMARY KEY DEFAULT true CONSTRAINT relay_state_one_row CHECK (singleton),
    low_id      bigint NOT NULL DEFAULT 0,
    outbox_limit bigint NOT NULL DEFAULT 1000000
) WITH (fillfactor = 50);
INSERT INTO {s}.relay_state DEFAULT VALUES;

CREATE TABLE {s}.sessions (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    worker      text NOT NULL,
    boot_id     uuid NOT NULL,
    lease       interval NOT NULL,
    expires_at  timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
CREATE TABLE {s}.session_log (
    session_id  bigint PRIMARY KEY,
    worker      text NOT NULL,
    boot_id     uuid NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE {s}.claims (
    session_id  bigint NOT NULL,
    batch       bigint NOT NULL,
    task_ids    uuid[] NOT NULL,
    attempts    int[] NOT NULL,
    PRIMARY KEY (session_id, batch)
) WITH (toast_tuple_target = 8160,
        autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE {s}.claims ALTER COLUMN task_ids SET STORAGE EXTERNAL;
CREATE TABLE {s}.cancel_requests (
    session_id  bigint NOT NULL,
    task_id     uuid NOT NULL,
    attempt     int NOT NULL,
    sent        boolean NOT NULL DEFAULT false,
    PRIMARY KEY (session_id, task_id)
);
CREATE TABLE {s}.timers (
    task_id     uuid NOT NULL,
    kind        smallint NOT NULL CONSTRAINT timers_kind_known CHECK (kind IN (1, 2)),
    attempt     int NOT NULL,
    due_at      timestamptz NOT NULL,
    PRIMARY KEY (task_id, kind)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX timers_due_at ON {s}.timers (due_at);
CREATE TABLE {s}.parked (
    task_id     uuid PRIMARY KEY,
    attempt     int NOT NULL,
    gate        smallint NOT NULL CONSTRAINT parked_gate_known CHECK (gate = 1),
    gate_key    bigint NOT NULL,
    pos         bigint GENERATED ALWAYS AS IDENTITY
);
CREATE INDEX parked_gate_gate_key_pos ON {s}.parked (gate, gate_key, pos);
CREATE TABLE {s}.failures (
    task_id     uuid PRIMARY KEY,
    tenant_id   int NOT NULL,
    queue_id    int NOT NULL,
    type_id     int NOT NULL,
    state       smallint NOT NULL CONSTRAINT failures_state_stopped CHECK (state IN (7, 8)),
    reason      smallint NOT NULL,
    error       text,
    fingerprint bytea,
    finished_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX failures_state_task_id ON {s}.failures (state, task_id);
CREATE INDEX failures_queue_id_task_id ON {s}.failures (queue_id, task_id);
CREATE INDEX failures_type_id_task_id ON {s}.failures (type_id, task_id);
CREATE INDEX failures_fingerprint_task_id ON {s}.failures (fingerprint, task_id);
CREATE TABLE {s}.task_counts (
    queue_id    int NOT NULL,
    state       smallint NOT NULL,
    n           bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
CREATE TABLE {s}.task_keys (
    tenant_id   int NOT NULL DEFAULT 0,
    type_id     int NOT NULL,
    key_hash    bytea NOT NULL,
    task_id     uuid NOT NULL,
    args_hash   bytea NOT NULL,
    expires_at  timestamptz,
    PRIMARY KEY (tenant_id, type_id, key_hash)
);
CREATE INDEX task_keys_task_id ON {s}.task_keys (task_id);
CREATE TABLE {s}.task_labels (
    kind        smallint NOT NULL CONSTRAINT task_labels_kind_known CHECK (kind IN (1, 2)),
    value       text NOT NULL CONSTRAINT task_labels_value_length CHECK (length(value) BETWEEN 1 AND 200),
    task_id     uuid NOT NULL,
    PRIMARY KEY (value, kind, task_id)
);
CREATE INDEX task_labels_task_id ON {s}.task_labels (task_id);
CREATE TABLE {s}.progress (
    task_id     uuid PRIMARY KEY,
    attempt     int NOT NULL,
    fraction    real NOT NULL CONSTRAINT progress_fraction_range CHECK (fraction BETWEEN 0 AND 1),
    message     text,
    at          timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TABLE {s}.streams_seen (
    name        text PRIMARY KEY,
    created     text NOT NULL,
    reconciled_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE {s}.quarantine (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    subject     text NOT NULL,
    payload     bytea NOT NULL,
    why         text NOT NULL,
    worker      text
);
"""

TRIGGERS = """
CREATE TRIGGER outbox_wake AFTER INSERT ON {s}.outbox FOR EACH STATEMENT EXECUTE FUNCTION {s}.wake();
CREATE TRIGGER timers_wake AFTER INSERT ON {s}.timers FOR EACH STATEMENT EXECUTE FUNCTION {s}.wake();
CREATE TRIGGER cancel_requests_wake AFTER INSERT ON {s}.cancel_requests
    FOR EACH STATEMENT EXECUTE FUNCTION {s}.wake();
CREATE TRIGGER sessions_wake AFTER INSERT ON {s}.sessions FOR EACH STATEMENT EXECUTE FUNCTION {s}.wake();
CREATE TRIGGER task_events_append_only BEFORE UPDATE ON {s}.task_events
    FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_change();
"""


FUNCTIONS = "create_tasks create_task take_key ensure_names wake refuse_change"
NAMES = (
    "quarantine streams_seen progress task_labels task_keys task_counts failures parked timers cancel_requests"
    " claims session_log sessions relay_state dispatch_log outbox task_events task_moves tasks types lanes queues"
)


def _schema() -> str:
    return check_schema(op.get_context().opts["dispatcher_schema"])


def upgrade() -> None:
    """Create everything in the configured schema (the schema itself exists already: env.py made it)."""
    s = _schema()
    for script in (TABLES.replace("__LEGAL__", LEGAL), *functions_v1(s), TRIGGERS):
        op.execute(script.replace("{s}", s))
    moves = ", ".join(f"({before}, {state})" for before, after in MOVES.items() for state in after)
    op.execute(f"INSERT INTO {s}.task_moves VALUES {moves}")


def downgrade() -> None:
    """Drop everything this migration made; the tasks are gone afterwards."""
    s = _schema()
    op.execute("DROP FUNCTION " + ", ".join(f"{s}.{name}" for name in FUNCTIONS.split()) + " CASCADE")
    op.execute("DROP TABLE " + ", ".join(f"{s}.{name}" for name in NAMES.split()))
