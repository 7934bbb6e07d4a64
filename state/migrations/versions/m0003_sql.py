"""SQL for people: the function ``enqueue`` and a read-only view per question."""

from __future__ import annotations

from alembic import op

from state.migrations.sql_enqueue import SQL_FUNCTIONS, SQL_SIGNATURES
from state.migrations.sql_views import SQL_VIEWS, VIEW_NAMES
from state.sql import check_schema

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _schema() -> str:
    return check_schema(op.get_context().opts["dispatcher_schema"])


def upgrade() -> None:
    """Functions first: the views use them."""
    s = _schema()
    for script in (*SQL_FUNCTIONS, *SQL_VIEWS):
        op.execute(script.replace("{s}", s))


def downgrade() -> None:
    """Drop the views, then the functions."""
    s = _schema()
    op.execute("DROP VIEW " + ", ".join(f"{s}.{name}" for name in reversed(VIEW_NAMES)))
    op.execute("DROP FUNCTION " + ", ".join(f"{s}.{signature}" for signature in SQL_SIGNATURES))
