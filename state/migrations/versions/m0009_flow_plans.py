"""What the end of a task of a flow reads, it reads by index, also where the tables were empty when it was planned.

The plans of these functions are kept as long as a connection lives.  A worker that ended its first flow in a new
installation kept reading whole tables: until the next ANALYZE a group of 100,000 took five times the server's time.
"""

from __future__ import annotations

from alembic import op

from state.sql import check_schema

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_FUNCTIONS = ("release(uuid[])", "revive(uuid[], int[])", "small_inputs(uuid, int)")
_OFF = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")


def _alter(change: str) -> None:
    schema = check_schema(op.get_context().opts["dispatcher_schema"])
    for function in _FUNCTIONS:
        for setting in _OFF:
            op.execute(f"ALTER FUNCTION {schema}.{function} {change.replace('?', setting)}")


def upgrade() -> None:
    """Leave the planner nothing but walks down an index for each row that is asked for."""
    _alter("SET ? = off")


def downgrade() -> None:
    """Let it choose."""
    _alter("RESET ?")
