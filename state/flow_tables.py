"""The tables of steps, flows and dependencies as SQLAlchemy metadata; what they are for stands in migration 0006."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB

from state.columns import TIME, check, col, metadata, opt, vacuum_after

__all__ = ["metadata"]

Table(
    "task_steps",
    metadata,
    col("task_id", Uuid),
    col("name", Text),
    col("attempt", Integer),
    col("result", LargeBinary),
    col("at", TIME, "now()"),
    PrimaryKeyConstraint("task_id", "name"),
    check("task_steps_name_length", "length(name) BETWEEN 1 AND 200"),
)
Table(
    "flows",
    metadata,
    col("id", Uuid),
    col("root_id", Uuid),
    col("kind", SmallInteger),
    opt("name", Text),
    col("state", SmallInteger, "4"),
    col("seq", Integer, "1"),
    col("total", Integer),
    col("stop", Boolean, "false"),
    col("cancelled", Boolean, "false"),
    opt("copy_of", Uuid),
    col("created_at", TIME, "now()"),
    opt("finished_at", TIME),
    PrimaryKeyConstraint("id"),
    check("flows_kind_known", "kind BETWEEN 1 AND 4"),
    check("flows_state_known", "state IN (4, 6, 7, 8, 9, 10)"),
    check("flows_final_has_time", "(state = 4) = (finished_at IS NULL)"),
    Index("flows_root_id_id", "root_id", "id"),
    postgresql_with={"fillfactor": 50},
)
Table(
    "flow_events",
    metadata,
    col("flow_id", Uuid),
    col("seq", Integer),
    col("state", SmallInteger),
    col("at", TIME, "now()"),
    opt("actor", Text),
    PrimaryKeyConstraint("flow_id", "seq"),
)
Table(
    "flow_nodes",
    metadata,
    col("node_id", Uuid),
    col("flow_id", Uuid),
    col("pos", Integer),
    opt("slot", Integer),
    col("shard", Integer, "0"),
    opt("name", Text),
    PrimaryKeyConstraint("node_id"),
    Index("flow_nodes_flow_id_pos", "flow_id", "pos"),
)
Table(
    "deps",
    metadata,
    col("parent_id", Uuid),
    col("child_id", Uuid),
    col("edge_key", Text, "''"),
    col("rule", SmallInteger),
    opt("wants", JSONB),
    PrimaryKeyConstraint("parent_id", "child_id", "edge_key"),
    check("deps_rule_known", "rule IN (1, 2, 3)"),
    Index("deps_child_id", "child_id"),
)
Table(
    "joins",
    metadata,
    col("node_id", Uuid),
    col("shard", Integer),
    col("is_flow", Boolean),
    col("remaining", Integer),
    col("bad", Integer, "0"),
    col("again", Boolean, "false"),
    PrimaryKeyConstraint("node_id", "shard"),
    check("joins_counts", "remaining >= 0 AND bad >= 0"),
    postgresql_with={"fillfactor": 50, **vacuum_after(1000)},
)
