"""The views of schema version 0006: with the reasons 15 to 17, and with tasks that wait for other tasks."""

from __future__ import annotations

from state.migrations.sql_views import SQL_VIEWS

__all__ = ["FLOW_VIEWS", "VIEWS_BEFORE"]

_REASONS, _MORE = "released,redispatched}'", "released,redispatched,deadline,skipped,children}'"
_RELAY = """
    SELECT x.task_id, x.attempt, x.dispatch, 3, 'relay', NULL, NULL FROM {s}.outbox x"""
_TASKS = """
    SELECT j.node_id, x.attempt, NULL, 1, 'tasks', NULL, NULL FROM {s}.joins j JOIN {s}.tasks x ON x.id = j.node_id
    WHERE j.shard = 0 AND NOT j.is_flow AND j.remaining > 0
    UNION ALL"""

VIEWS_BEFORE = tuple(
    view.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1) for view in SQL_VIEWS if _REASONS in view or _RELAY in view
)
"""The statements that make them as they were in version 0003; ``{s}`` still stands for the schema."""
FLOW_VIEWS = tuple(view.replace(_REASONS, _MORE).replace(_RELAY, _TASKS + _RELAY) for view in VIEWS_BEFORE)
"""The statements that make them as they are now."""
