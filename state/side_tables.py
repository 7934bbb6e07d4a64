"""The small tables beside ``tasks`` as SQLAlchemy metadata: relay, sessions, timers, failures, keys, deletions."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    Interval,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from state.columns import TIME, check, col, metadata, opt, serial, vacuum_after

__all__ = ["metadata"]

Table(
    "outbox",
    metadata,
    serial("id"),
    col("task_id", Uuid),
    col("attempt", Integer),
    col("dispatch", Integer),
    col("lane_id", Integer),
    postgresql_with={
        **vacuum_after(5000),
        "autovacuum_analyze_scale_factor": 0,
        "autovacuum_analyze_threshold": 1000000,
    },
)
Table(
    "dispatch_log",
    metadata,
    serial("batch"),
    col("lane_id", Integer),
    col("published_at", TIME, "now()"),
    col("task_ids", ARRAY(Uuid)),
    col("attempts", ARRAY(Integer)),
    col("dispatches", ARRAY(Integer)),
    postgresql_with={"toast_tuple_target": 8160},
)
Table(
    "relay_state",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    col("low_id", BigInteger, "0"),
    col("outbox_limit", BigInteger, "1000000"),
    check("relay_state_one_row", "singleton"),
    postgresql_with={"fillfactor": 50},
)
Table(
    "sessions",
    metadata,
    serial("id"),
    col("worker", Text),
    col("boot_id", Uuid),
    col("lease", Interval),
    col("expires_at", TIME),
    postgresql_with={"fillfactor": 50, **vacuum_after(200, throttled=True)},
)
Table(
    "session_log",
    metadata,
    col("session_id", BigInteger),
    col("worker", Text),
    col("boot_id", Uuid),
    col("started_at", TIME, "now()"),
    PrimaryKeyConstraint("session_id"),
)
Table(
    "claims",
    metadata,
    col("session_id", BigInteger),
    col("batch", BigInteger),
    col("task_ids", ARRAY(Uuid)),
    col("attempts", ARRAY(Integer)),
    PrimaryKeyConstraint("session_id", "batch"),
    postgresql_with={"toast_tuple_target": 8160, **vacuum_after(1000)},
)
Table(
    "cancel_requests",
    metadata,
    col("session_id", BigInteger),
    col("task_id", Uuid),
    col("attempt", Integer),
    col("sent", Boolean, "false"),
    PrimaryKeyConstraint("session_id", "task_id"),
)
Table(
    "timers",
    metadata,
    col("task_id", Uuid),
    col("kind", SmallInteger),
    col("attempt", Integer),
    col("due_at", TIME),
    PrimaryKeyConstraint("task_id", "kind"),
    check("timers_kind_known", "kind IN (1, 2)"),
    Index("timers_due_at", "due_at"),
    postgresql_with={"autovacuum_vacuum_scale_factor": 0.02, "autovacuum_vacuum_cost_delay": 0},
)
Table(
    "parked",
    metadata,
    col("task_id", Uuid),
    col("attempt", Integer),
    col("gate", SmallInteger),
    col("gate_key", BigInteger),
    serial("pos", key=False),
    PrimaryKeyConstraint("task_id"),
    check("parked_gate_known", "gate = 1"),
    Index("parked_gate_gate_key_pos", "gate", "gate_key", "pos"),
)
Table(
    "failures",
    metadata,
    col("task_id", Uuid),
    col("tenant_id", Integer),
    col("queue_id", Integer),
    col("type_id", Integer),
    col("state", SmallInteger),
    col("reason", SmallInteger),
    opt("error", Text),
    opt("fingerprint", LargeBinary),
    col("finished_at", TIME, "now()"),
    PrimaryKeyConstraint("task_id"),
    check("failures_state_stopped", "state IN (7, 8)"),
    Index("failures_state_task_id", "state", "task_id"),
    Index("failures_queue_id_task_id", "queue_id", "task_id"),
    Index("failures_type_id_task_id", "type_id", "task_id"),
    Index("failures_fingerprint_task_id", "fingerprint", "task_id"),
)
Table(
    "task_counts",
    metadata,
    col("queue_id", Integer),
    col("state", SmallInteger),
    col("n", BigInteger),
    postgresql_with=vacuum_after(2000),
)
Table(
    "task_keys",
    metadata,
    col("tenant_id", Integer, "0"),
    col("type_id", Integer),
    col("key_hash", LargeBinary),
    col("task_id", Uuid),
    col("args_hash", LargeBinary),
    opt("expires_at", TIME),
    PrimaryKeyConstraint("tenant_id", "type_id", "key_hash"),
    Index("task_keys_task_id", "task_id"),
)
Table(
    "task_labels",
    metadata,
    col("kind", SmallInteger),
    col("value", Text),
    col("task_id", Uuid),
    PrimaryKeyConstraint("value", "kind", "task_id"),
    check("task_labels_kind_known", "kind IN (1, 2)"),
    check("task_labels_value_length", "length(value) BETWEEN 1 AND 200"),
    Index("task_labels_task_id", "task_id"),
)
Table(
    "progress",
    metadata,
    col("task_id", Uuid),
    col("attempt", Integer),
    col("fraction", REAL),
    opt("message", Text),
    col("at", TIME, "now()"),
    PrimaryKeyConstraint("task_id"),
    check("progress_fraction_range", "fraction BETWEEN 0 AND 1"),
    postgresql_with={"fillfactor": 50},
)
Table(
    "attempt_logs",
    metadata,
    col("task_id", Uuid),
    col("attempt", Integer),
    col("at", TIME, "now()"),
    col("dropped", Integer),
    col("lines", JSONB),
    PrimaryKeyConstraint("task_id", "attempt"),
    check("attempt_logs_dropped_counts", "dropped >= 0"),
    check("attempt_logs_lines_listed", "jsonb_typeof(lines) = 'array'"),
    postgresql_with={"autovacuum_vacuum_insert_scale_factor": 0.1},
)
Table(
    "streams_seen",
    metadata,
    col("name", Text),
    col("created", Text),
    col("reconciled_at", TIME, "now()"),
    PrimaryKeyConstraint("name"),
)
Table(
    "quarantine",
    metadata,
    serial("id"),
    col("at", TIME, "now()"),
    col("subject", Text),
    col("payload", LargeBinary),
    col("why", Text),
    opt("worker", Text),
)
Table(
    "deletions",
    metadata,
    col("id", Uuid),
    col("at", TIME, "now()"),
    col("ended_at", TIME, "now()"),
    opt("actor", Text),
    col("filter", JSONB),
    col("deleted", BigInteger),
    PrimaryKeyConstraint("id"),
    check("deletions_count_positive", "deleted >= 0"),
)
