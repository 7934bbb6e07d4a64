"""Planted bugs in the statements of ``state``: each takes a guard out, in the memory of one process."""

from __future__ import annotations

import asyncio
import os
import random
from importlib import import_module
from typing import Any

from state.sql import Sql

__all__ = [
    "cancel_anything", "count_refused", "event_after_commit", "lease_by_own_clock", "no_boot_id", "no_fence",
    "rescue_everybody", "run_what_others_run",
]  # fmt: skip

_BEHIND_SECONDS = 3
"""How far the clock of every second worker is behind: less than a drill's lease, so that it can claim."""


def _cut(sql: Sql, old: str, new: str = "") -> None:
    assert old in sql.text, f"{old!r} is not part of the statement any more"
    sql.text = sql.text.replace(old, new)


def no_fence() -> None:
    """M1: outcomes are written by whoever has one."""
    from state import settle

    for sql in (settle.SUCCEED, settle.LEAVE):
        _cut(sql, " AND t.attempt = i.attempt AND t.session_id = CAST(:session AS bigint)")


def rescue_everybody() -> None:
    """M3: a look of the rescuer ends every session."""
    from state import rescue

    _cut(rescue.END_EXPIRED, "WHERE expires_at < now() AND pg_postmaster_start_time() + lease < now()")
    _cut(rescue.END_EXPIRED, "  AND expires_at < now()\n")


def lease_by_own_clock() -> None:
    """M7: a lease ends by the clock of its worker, and some of these clocks are slow."""
    from state import sessions

    own = f"make_interval(secs => {-_BEHIND_SECONDS * (os.getpid() % 2)})"
    _cut(sessions.OPEN, "            now() + make_interval", f"            now() + {own} + make_interval")
    _cut(sessions.RENEW, "clock_timestamp() + lease", f"clock_timestamp() + {own} + lease")


def cancel_anything() -> None:
    """M8: a task that runs is cancelled like one that waits.  The row is made to fit its CHECK constraints."""
    from state import requests

    _cut(requests.CANCEL, "f.state IN (1, 2, 3, 5)", "f.state < 6")
    _cut(requests.CANCEL, "SET state = 8, reason", "SET state = 8, session_id = NULL, reason")
    _cut(requests.CANCEL, "f.state = 4 AND t.state = 4", "false")


def no_boot_id() -> None:
    """M10: a worker goes on with the session that somebody else from the same place has left."""
    from state import sessions

    _cut(sessions.RENEW, " AND boot_id = CAST(:boot AS uuid)")
    sessions.OPEN.text = """
WITH old AS (
    UPDATE {s}.sessions SET expires_at = clock_timestamp() + lease RETURNING id
), made AS (
    INSERT INTO {s}.sessions (worker, boot_id, lease, expires_at)
    SELECT :worker, CAST(:boot AS uuid), n.lease, now() + n.lease
    FROM (SELECT make_interval(secs => CAST(:lease AS float8)) AS lease) n WHERE NOT EXISTS (SELECT FROM old)
    RETURNING id, worker, boot_id
), logged AS (
    INSERT INTO {s}.session_log (session_id, worker, boot_id) SELECT id, worker, boot_id FROM made
)
SELECT max(id) FROM (SELECT id FROM old UNION ALL SELECT id FROM made) x
"""
    sessions_of: Any = import_module("workers.sessions")
    session = sessions_of.Session
    # numbers of claims are unique within a session, which now has several workers
    sessions_of.Session = lambda number, deadline: session(number, deadline, next_batch=random.getrandbits(60))


def run_what_others_run() -> None:
    """M12: who gets a message runs it; the claim stops nobody."""
    from state import claims
    from state.machine import State

    _cut(claims.ADOPT, " AND t.session_id = CAST(:session AS bigint)")
    claimer: Any = import_module("workers.claimer")
    verdict = claimer._verdict
    claimer._verdict = lambda row: "mine" if row[3] == State.RUNNING and row[1] == row[2] else verdict(row)


def event_after_commit() -> None:
    """M13: the audit trail is written by a second transaction."""
    from state import settle

    event = """), event AS (
    INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, attempt, session_id)
    SELECT id, seq, 4, 6, attempt, CAST(:session AS bigint) FROM moved
"""
    _cut(settle.SUCCEED, event)
    later = Sql("""
INSERT INTO {s}.task_events (task_id, seq, from_state, to_state, attempt, session_id)
SELECT id, seq, 4, 6, attempt, CAST(:session AS bigint) FROM {s}.tasks WHERE id = ANY (CAST(:ids AS uuid[]))
RETURNING seq
""")
    settler = import_module("workers.settler").Settler
    succeed = settler._succeed

    async def two_steps(self: Any, attempts: Any, params: dict[str, Any], kind: str) -> Any:
        accepted = await succeed(self, attempts, params, kind)
        await asyncio.sleep(0.1)
        await self._database.run(later, {"session": params["session"], "ids": list(accepted)})
        return accepted

    settler._succeed = two_steps


def count_refused() -> None:
    """M15: an outcome that comes too late still gives back what its attempt held: here its place in the counters."""
    from state import settle

    held = "(SELECT queue_id, count(*) AS n FROM moved GROUP BY 1)"
    asked = "(SELECT queue_id, count(*) AS n FROM {s}.tasks WHERE id = ANY (CAST(:ids AS uuid[])) GROUP BY 1)"
    _cut(settle.SUCCEED, held, asked)
