"""Planted bugs: guards taken out of the processes of a drill, one at a time, to see that the checker notices.

The product has no switch for them.  The children of a planted drill find a ``sitecustomize`` of ours on their path,
which changes statements and methods in their memory before anything runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from state.sql import Sql

__all__ = ["PLANTS", "VARIABLE", "Plant", "install", "write_hook"]

VARIABLE = "DISPATCHER_DRILL_PLANT"
_HOOK = """import os
from dispatcher.drill.plants import VARIABLE, install
install(os.environ[VARIABLE])
"""


@dataclass(frozen=True)
class Plant:
    """One bug, and the drill that should catch it."""

    text: str
    drill: str
    change: Callable[[], None]


def install(name: str) -> None:
    """Change this process."""
    PLANTS[name].change()


def write_hook(root: Path, name: str) -> dict[str, str]:
    """Make the folder that children have to find; returns the variables that let them."""
    folder = root / "plant"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HOOK)
    here = Path(__file__).resolve().parents[2]
    found = [str(folder), str(here), os.environ.get("PYTHONPATH", "")]
    return {VARIABLE: name, "PYTHONPATH": os.pathsep.join(filter(None, found))}


def _cut(sql: Sql, old: str, new: str = "") -> None:
    assert old in sql.text, f"{old!r} is not part of the statement any more"
    sql.text = sql.text.replace(old, new)


def _no_fence() -> None:
    from state import settle

    for sql in (settle.SUCCEED, settle.LEAVE):
        _cut(sql, " AND t.attempt = i.attempt AND t.session_id = CAST(:session AS bigint)")


def _rescue_everybody() -> None:
    from state import rescue

    _cut(rescue.END_EXPIRED, "WHERE expires_at < now() AND pg_postmaster_start_time() + lease < now()")
    _cut(rescue.END_EXPIRED, "  AND expires_at < now()\n")


def _only_higher_ids() -> None:
    from dispatcher.relay.drain import Drain

    batch, outgoing = Drain._batch, Drain._outgoing
    highest: dict[int, int] = {}

    async def remembering(self: Drain) -> int:
        self._full_look_at, self._low = float("inf"), highest.get(id(self), 0)
        return await batch(self)

    async def noting(self: Drain, rows: list[Any]) -> Any:
        highest[id(self)] = rows[-1][0] + 1
        return await outgoing(self, rows)

    setattr(Drain, "_batch", remembering)  # noqa: B010 - a planted bug, not an assignment that a type checker may refuse
    setattr(Drain, "_outgoing", noting)  # noqa: B010


def _id_without_dispatch() -> None:
    drain = import_module("dispatcher.relay.drain")
    setattr(drain, "message_id", lambda task, attempt, dispatch: f"{task.hex}:{attempt}")  # noqa: B010


def _event_after_commit() -> None:
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
        await asyncio.sleep(0.02)
        await self._database.run(later, {"session": params["session"], "ids": list(accepted)})
        return accepted

    settler._succeed = two_steps


def _nak_stale() -> None:
    claimer = import_module("workers.claimer").Claimer

    async def again(self: Any, session: Any, deliveries: Any) -> None:
        for delivery in deliveries:
            await self._bus.nak(delivery.replies, 0.01)

    claimer._stale = again


PLANTS = {
    "M1": Plant("settle without attempt and session in its guard", "freeze-worker", _no_fence),
    "M3": Plant("the rescuer does not look at the lease", "kill-worker", _rescue_everybody),
    "M4": Plant("the relay reads only ids above the last one", "kill-broker", _only_higher_ids),
    "M5": Plant("message ids without the dispatch number", "stale-ack", _id_without_dispatch),
    "M13": Plant("the event is written after the commit", "kill-worker", _event_after_commit),
    "M14": Plant("a stale message is refused instead of acknowledged", "duplicate-delivery", _nak_stale),
}
"""By their numbers in the catalogue."""
