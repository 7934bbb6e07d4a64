"""Deletions: who removed how many finished tasks, by which filter.  The tasks' own history is gone with them."""

from __future__ import annotations

from alembic import op

from state.sql import check_schema

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One small table."""
    s = check_schema(op.get_context().opts["dispatcher_schema"])
    op.execute(f"""
CREATE TABLE {s}.deletions (
    id          uuid PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz NOT NULL DEFAULT now(),
    actor       text,
    filter      jsonb NOT NULL,
    deleted     bigint NOT NULL CONSTRAINT deletions_count_positive CHECK (deleted >= 0)
)""")


def downgrade() -> None:
    """The record of deletions is gone afterwards."""
    op.execute(f"DROP TABLE {check_schema(op.get_context().opts['dispatcher_schema'])}.deletions")
