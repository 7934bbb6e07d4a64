"""The tables as SQLAlchemy metadata: what the newest migration makes, for tools and for alembic's comparison.

A test holds the two together, down to the CHECK constraints.  Here are the tasks, their audit trail and the names they
refer to; ``state.side_tables`` and ``state.flow_tables`` have the rest.  What the shapes are good for stands in the
migrations.
"""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB

from state import flow_tables, side_tables  # noqa: F401 - they fill the metadata
from state.columns import TIME, check, col, metadata, opt, serial
from state.machine import LEGAL_MOVES, Reason, State
from state.sql import DEFAULT_SCHEMA, check_schema

__all__ = ["metadata_for"]

_NAME = "^[A-Za-z0-9_-]{1,64}$"
_REASON_KNOWN = f"reason BETWEEN 1 AND {max(Reason):d}"


@lru_cache(maxsize=8)
def metadata_for(schema: str = DEFAULT_SCHEMA) -> MetaData:
    """All tables in the given PostgreSQL schema.  Functions and triggers are made by the migrations only."""
    placed = MetaData(schema=check_schema(schema))
    for table in metadata.sorted_tables:
        table.to_metadata(placed, schema=schema)
    return placed


def _legal_moves() -> str:
    """The state machine as a CHECK condition: one bit per pair of states; a created task comes from 0."""
    states = (None, *State)
    bits = "".join(str(int((a, b) in LEGAL_MOVES)) for a in states for b in states)
    return f"get_bit(B'{bits}', coalesce(from_state, 0) * 9 + to_state) = 1"


Table(
    "queues",
    metadata,
    serial("id", Integer),
    col("name", Text),
    col("stream", Text, "'TASKS'"),
    col("paused", Boolean, "false"),
    opt("paused_at", TIME),
    opt("paused_by", Text),
    col("created_at", TIME, "now()"),
    UniqueConstraint("name", name="queues_name_key"),
    check("queues_name_legal", f"name ~ '{_NAME}'"),
    check("queues_stream_legal", f"stream ~ '{_NAME}'"),
    check("queues_paused_has_time", "paused = (paused_at IS NOT NULL)"),
)
Table(
    "lanes",
    metadata,
    serial("id", Integer),
    Column("queue_id", Integer, ForeignKey("queues.id", name="lanes_queue_id_fkey"), nullable=False),
    col("name", Text),
    col("priority", SmallInteger),
    UniqueConstraint("queue_id", "name", name="lanes_queue_id_name_key"),
    check("lanes_name_legal", f"name ~ '{_NAME}'"),
)
Table(
    "types",
    metadata,
    serial("id", Integer),
    col("name", Text),
    opt("options", JSONB),
    col("created_at", TIME, "now()"),
    UniqueConstraint("name", name="types_name_key"),
    check("types_name_length", "length(name) BETWEEN 1 AND 200"),
)
Table(
    "tasks",
    metadata,
    col("id", Uuid),
    col("tenant_id", Integer, "0"),
    col("queue_id", Integer),
    col("lane_id", Integer),
    col("type_id", Integer),
    col("state", SmallInteger),
    opt("reason", SmallInteger),
    col("attempt", Integer, "1"),
    col("tries", SmallInteger, "0"),
    col("max_tries", SmallInteger),
    col("generation", SmallInteger, "1"),
    col("dispatch", Integer, "1"),
    col("seq", Integer, "1"),
    col("flags", Integer, "0"),
    opt("session_id", BigInteger),
    col("created_at", TIME),
    opt("due_at", TIME),
    opt("expires_at", TIME),
    opt("started_at", TIME),
    opt("finished_at", TIME),
    col("codec", SmallInteger, "1"),
    opt("key_id", SmallInteger),
    col("payload_version", SmallInteger, "1"),
    col("args", LargeBinary),
    opt("result", LargeBinary),
    opt("meta", JSONB),
    PrimaryKeyConstraint("id"),
    check("tasks_state_known", "state BETWEEN 1 AND 8"),
    check("tasks_reason_known", _REASON_KNOWN),
    check("tasks_numbers_positive", "attempt >= 1 AND generation >= 1 AND dispatch >= 1 AND seq >= 1"),
    check("tasks_tries_bounded", "tries BETWEEN 0 AND max_tries AND max_tries >= 1"),
    check("tasks_running_has_session", "(state = 4) = (session_id IS NOT NULL)"),
    check("tasks_running_has_try", "state NOT IN (4, 6) OR (tries >= 1 AND started_at IS NOT NULL)"),
    check("tasks_final_has_time", "(state >= 6) = (finished_at IS NOT NULL)"),
    check("tasks_result_only_on_success", "result IS NULL OR state = 6"),
    check("tasks_stopped_has_reason", "state NOT IN (7, 8) OR reason IS NOT NULL"),
    check("tasks_waiting_has_due", "state NOT IN (2, 5) OR due_at IS NOT NULL"),
    Index("tasks_queue_id_id", "queue_id", "id"),
    Index("tasks_type_id_id", "type_id", "id"),
    postgresql_with={
        "fillfactor": 40,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_analyze_scale_factor": 0.05,
    },
)
Table(
    "task_moves",
    metadata,
    col("from_state", SmallInteger),
    col("to_state", SmallInteger),
    PrimaryKeyConstraint("from_state", "to_state"),
)
Table(
    "task_events",
    metadata,
    col("task_id", Uuid),
    col("seq", Integer),
    opt("from_state", SmallInteger),
    col("to_state", SmallInteger),
    opt("reason", SmallInteger),
    col("attempt", Integer),
    opt("session_id", BigInteger),
    col("at", TIME, "now()"),
    opt("actor", Text),
    opt("detail", JSONB),
    PrimaryKeyConstraint("task_id", "seq"),
    check("task_events_created_is_first", "(seq = 1) = (from_state IS NULL)"),
    check("task_events_move_legal", _legal_moves()),
    check("task_events_reason_known", _REASON_KNOWN),
    postgresql_with={"autovacuum_vacuum_insert_scale_factor": 0.1},
)
