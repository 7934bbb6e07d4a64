"""The end of one task of a flow costs two statements instead of twelve, and wakes the leader only for what there is.

The claim brings the results that a task takes over, as long as they are small.  What is stored does not change.
"""

from __future__ import annotations

from alembic import op

from state.migrations.flow_release_one import NEW_NAMES, release_after, release_before
from state.sql import check_schema

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def _run(script: str) -> None:
    op.execute(script.replace("{s}", check_schema(op.get_context().opts["dispatcher_schema"])))


def upgrade() -> None:
    """Add the two functions and replace the ones that call them."""
    for script in release_after():
        _run(script)


def downgrade() -> None:
    """Put those of version 0006 back."""
    for script in release_before():
        _run(script)
    _run("DROP FUNCTION " + ", ".join(f"{{s}}.{name}" for name in NEW_NAMES.split()))
