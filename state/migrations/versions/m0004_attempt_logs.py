"""Log lines per attempt, and the reason ``deadline``.

``attempt_logs`` has a row only for attempts that said something; it is found and removed by ``task_id``.
"""

from __future__ import annotations

from alembic import op

from state.sql import check_schema

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE {s}.attempt_logs (
    task_id     uuid NOT NULL,
    attempt     int NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    dropped     int NOT NULL CONSTRAINT attempt_logs_dropped_counts CHECK (dropped >= 0),
    lines       jsonb NOT NULL CONSTRAINT attempt_logs_lines_listed CHECK (jsonb_typeof(lines) = 'array'),
    PRIMARY KEY (task_id, attempt)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);
"""
# The reasons grow by one: 15, deadline.
REASONS = """
ALTER TABLE {s}.tasks DROP CONSTRAINT tasks_reason_known,
    ADD CONSTRAINT tasks_reason_known CHECK (reason BETWEEN 1 AND {most});
ALTER TABLE {s}.task_events DROP CONSTRAINT task_events_reason_known,
    ADD CONSTRAINT task_events_reason_known CHECK (reason BETWEEN 1 AND {most});
"""
# An older package knows no such reason: such tasks become expired ones, as they would have been there.
FORGET = """
ALTER TABLE {s}.task_events DISABLE TRIGGER task_events_append_only;
UPDATE {s}.task_events SET reason = 5 WHERE reason = 15;
ALTER TABLE {s}.task_events ENABLE TRIGGER task_events_append_only;
UPDATE {s}.tasks SET reason = 5 WHERE reason = 15;
UPDATE {s}.failures SET reason = 5 WHERE reason = 15;
"""


def _schema() -> str:
    return check_schema(op.get_context().opts["dispatcher_schema"])


def upgrade() -> None:
    """Add the table and the reason."""
    op.execute(UP.replace("{s}", _schema()))
    op.execute(REASONS.replace("{s}", _schema()).replace("{most}", "15"))


def downgrade() -> None:
    """Drop the table with its lines, and take the reason back."""
    for script in (FORGET, REASONS.replace("{most}", "14"), "DROP TABLE {s}.attempt_logs"):
        op.execute(script.replace("{s}", _schema()))
