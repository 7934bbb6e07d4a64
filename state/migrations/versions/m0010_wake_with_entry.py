"""Whoever wakes the sleeping leader says which task it is, if it is one: its message need not wait for a drain.

Being woken up is what a round trip costs.  With the reference in the notification the message is on its way before the
relay has asked the database for anything; the drain then publishes it once more, and the stream drops the repeat.
"""

from __future__ import annotations

from alembic import op

from state.locks import SLEEP, advisory_key
from state.sql import check_schema

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Read with the owner's rights: whoever may add to the outbox need not be able to read it.  It tells a session of its
# own entry only, so everybody who may use the schema may call it.  Nothing for several new entries, which a drain
# publishes together.
_NEWEST = """
CREATE FUNCTION {s}.newest_entry() RETURNS text LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog SET enable_seqscan = off AS $newest$
DECLARE v_id bigint;
BEGIN
    v_id := currval('{s}.outbox_id_seq');
    RETURN (SELECT concat_ws(':', o.lane_id, o.task_id, o.attempt, o.dispatch) FROM {s}.outbox o
            WHERE o.id = v_id AND NOT EXISTS (
                SELECT FROM {s}.outbox b WHERE b.id = v_id - 1 AND b.xmin = CAST(pg_current_xact_id() AS xid)));
EXCEPTION WHEN object_not_in_prerequisite_state THEN  -- this session made no entry
    RETURN NULL;
END $newest$;
"""
_WAKE = """
CREATE OR REPLACE FUNCTION {s}.wake() RETURNS trigger LANGUAGE plpgsql AS $wake$
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(__KEY__) THEN
        PERFORM pg_notify('{s}.wake', __WHAT__);
    END IF;
    RETURN NULL;
END $wake$;
"""
_WITH_ENTRY = """CASE WHEN TG_TABLE_NAME = 'outbox' THEN concat_ws(':', 'outbox', {s}.newest_entry())
                                           ELSE TG_TABLE_NAME END"""


def _schema() -> str:
    return check_schema(op.get_context().opts["dispatcher_schema"])


def _wake(what: str) -> str:
    key = ", ".join(map(str, advisory_key(_schema(), SLEEP)))
    return _WAKE.replace("__KEY__", key).replace("__WHAT__", what)


def upgrade() -> None:
    """Add the function that looks, and let the trigger's function call it."""
    for script in (_NEWEST, _wake(_WITH_ENTRY)):
        op.execute(script.replace("{s}", _schema()))


def downgrade() -> None:
    """Name the table only."""
    op.execute(_wake("TG_TABLE_NAME").replace("{s}", _schema()))
    op.execute(f"DROP FUNCTION {_schema()}.newest_entry()")
