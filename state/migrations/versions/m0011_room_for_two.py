"""A page of ``tasks`` keeps room for both updates of its tasks.

At half a page the claim's versions fill it, and the settle finds room only once the first versions are removed, which
any older transaction puts off: 15 % of the tasks left new entries in three indexes and dead ones behind, for which
autovacuum read those indexes whole, every minute.  With 60 % left free it is 2 % (docs/decisions.md).
"""

from __future__ import annotations

from alembic import op

from state.sql import check_schema

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def _fill(percent: int) -> None:
    schema = check_schema(op.get_context().opts["dispatcher_schema"])
    op.execute(f"ALTER TABLE {schema}.tasks SET (fillfactor = {percent})")


def upgrade() -> None:
    """For pages that are written from now on; blocks neither readers nor writers."""
    _fill(40)


def downgrade() -> None:
    """As it was."""
    _fill(50)
