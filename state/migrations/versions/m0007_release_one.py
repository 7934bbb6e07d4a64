"""The end of one task of a flow costs two statements instead of twelve, and wakes the leader only for what there is.

The claim brings the results that a task takes over, as long as they are small.  A part of a flow can be skipped (10).
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


STATES = """
ALTER TABLE {s}.flows DROP CONSTRAINT flows_state_known,
    ADD CONSTRAINT flows_state_known CHECK (state IN (__STATES__));
"""


def upgrade() -> None:
    """Add the two functions, replace those that call them, and allow the new state."""
    for script in (STATES.replace("__STATES__", "4, 6, 7, 8, 9, 10"), *release_after()):
        _run(script)


def downgrade() -> None:
    """Put those of version 0006 back; flows that were skipped become cancelled ones."""
    _run("UPDATE {s}.flow_events SET state = 8 WHERE state = 10")
    _run("UPDATE {s}.flows SET state = 8 WHERE state = 10")
    _run(STATES.replace("__STATES__", "4, 6, 7, 8, 9"))
    for script in release_before():
        _run(script)
    _run("DROP FUNCTION " + ", ".join(f"{{s}}.{name}" for name in NEW_NAMES.split()))
