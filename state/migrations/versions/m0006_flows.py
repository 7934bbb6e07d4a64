"""Effects exactly once, and tasks that depend on tasks: steps, flows, dependencies and their counters.

A flow (chain, group or graph) and a task are both *nodes*: a node may be a member of one flow, may have dependants, and
may be what another node waits for.  ``joins`` counts what a blocked task or a running flow still waits for; a flow with
many members counts in several rows, so that workers which end members at the same moment do not queue up on one.
"""

from __future__ import annotations

from alembic import op

from state.migrations.flow_functions import FUNCTION_NAMES, flow_functions
from state.migrations.flow_views import FLOW_VIEWS, VIEWS_BEFORE
from state.sql import check_schema

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE {s}.task_steps (
    task_id     uuid NOT NULL,
    name        text NOT NULL CONSTRAINT task_steps_name_length CHECK (length(name) BETWEEN 1 AND 200),
    attempt     int NOT NULL,
    result      bytea NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, name)
);
CREATE TABLE {s}.flows (
    id          uuid PRIMARY KEY,
    root_id     uuid NOT NULL,
    kind        smallint NOT NULL CONSTRAINT flows_kind_known CHECK (kind BETWEEN 1 AND 4),
    name        text,
    state       smallint NOT NULL DEFAULT 4 CONSTRAINT flows_state_known CHECK (state IN (4, 6, 7, 8, 9)),
    seq         int NOT NULL DEFAULT 1,
    total       int NOT NULL,
    stop        boolean NOT NULL DEFAULT false,
    cancelled   boolean NOT NULL DEFAULT false,
    copy_of     uuid,
    created_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CONSTRAINT flows_final_has_time CHECK ((state = 4) = (finished_at IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX flows_root_id_id ON {s}.flows (root_id, id);
CREATE TABLE {s}.flow_events (
    flow_id     uuid NOT NULL,
    seq         int NOT NULL,
    state       smallint NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    actor       text,
    PRIMARY KEY (flow_id, seq)
);
CREATE TABLE {s}.flow_nodes (
    node_id     uuid PRIMARY KEY,
    flow_id     uuid NOT NULL,
    pos         int NOT NULL,
    slot        int,
    shard       int NOT NULL DEFAULT 0,
    name        text
);
CREATE INDEX flow_nodes_flow_id_pos ON {s}.flow_nodes (flow_id, pos);
CREATE TABLE {s}.deps (
    parent_id   uuid NOT NULL,
    child_id    uuid NOT NULL,
    edge_key    text NOT NULL DEFAULT '',
    rule        smallint NOT NULL CONSTRAINT deps_rule_known CHECK (rule IN (1, 2, 3)),
    wants       jsonb,
    PRIMARY KEY (parent_id, child_id, edge_key)
);
CREATE INDEX deps_child_id ON {s}.deps (child_id);
CREATE TABLE {s}.joins (
    node_id     uuid NOT NULL,
    shard       int NOT NULL,
    is_flow     boolean NOT NULL,
    remaining   int NOT NULL,
    bad         int NOT NULL DEFAULT 0,
    again       boolean NOT NULL DEFAULT false,
    PRIMARY KEY (node_id, shard),
    CONSTRAINT joins_counts CHECK (remaining >= 0 AND bad >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
"""
NAMES = "joins deps flow_nodes flow_events flows task_steps"

REASONS = """
ALTER TABLE {s}.tasks DROP CONSTRAINT tasks_reason_known,
    ADD CONSTRAINT tasks_reason_known CHECK (reason BETWEEN 1 AND __MOST__);
ALTER TABLE {s}.task_events DROP CONSTRAINT task_events_reason_known,
    ADD CONSTRAINT task_events_reason_known CHECK (reason BETWEEN 1 AND __MOST__);
"""


def _run(script: str) -> None:
    op.execute(script.replace("{s}", check_schema(op.get_context().opts["dispatcher_schema"])))


def upgrade() -> None:
    """Add the tables and functions, and the reasons up to 17, also to the views."""
    for script in (TABLES, REASONS.replace("__MOST__", "17"), *flow_functions(), *FLOW_VIEWS):
        _run(script)


def downgrade() -> None:
    """Drop them; tasks that wait for others stay blocked for ever, and reasons above 15 become ``by_request``."""
    for view in VIEWS_BEFORE:
        _run(view)
    _run("DROP FUNCTION " + ", ".join(f"{{s}}.{name}" for name in FUNCTION_NAMES.split()))
    _run("DROP TABLE " + ", ".join(f"{{s}}.{name}" for name in NAMES.split()))
    _run("ALTER TABLE {s}.task_events DISABLE TRIGGER task_events_append_only")
    _run("UPDATE {s}.task_events SET reason = 7 WHERE reason > 15")
    _run("ALTER TABLE {s}.task_events ENABLE TRIGGER task_events_append_only")
    _run("UPDATE {s}.tasks SET reason = 7 WHERE reason > 15")
    _run("UPDATE {s}.failures SET reason = 7 WHERE reason > 15")
    _run(REASONS.replace("__MOST__", "15"))
