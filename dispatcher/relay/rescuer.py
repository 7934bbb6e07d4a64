"""The rescuer: tasks of workers that stopped renewing their session go back to the queue as a new attempt."""

from __future__ import annotations

import logging

from psycopg import errors

from dispatcher.bus import Bus
from dispatcher.database import Database
from dispatcher.subjects import Subjects
from dispatcher.wire import encode_settled
from state import rescue
from state.machine import FINAL, State
from state.sql import Sql

__all__ = ["Rescuer"]

_log = logging.getLogger("dispatcher.rescuer")
_BEGIN, _COMMIT, _ROLLBACK = Sql("BEGIN"), Sql("COMMIT"), Sql("ROLLBACK")
_PATIENCE = Sql("SET LOCAL lock_timeout = '200ms'")


class Rescuer:
    """Run by the leader when the earliest lease has ended."""

    def __init__(self, database: Database, bus: Bus, subjects: Subjects) -> None:
        self._database, self._bus, self._subjects = database, bus, subjects

    async def once(self) -> int:
        """End the expired sessions and give back what they held; returns the number of tasks moved.

        Both statements share one transaction: a crash between them must not leave tasks without a session to find
        them by.  Raises one of ``Transient``.
        """
        run = self._database.run
        await run(_BEGIN)
        try:
            await run(_PATIENCE)
            ended = await run(rescue.END_EXPIRED)
            moved = await run(rescue.GIVE_BACK, {"sessions": [row[0] for row in ended]}) if ended else []
            await run(_COMMIT)
        except errors.LockNotAvailable:
            # somebody holds one of the rows: rescue later, and let push and timers go on meanwhile
            await run(_ROLLBACK)
            return 0
        except BaseException:
            await self._database.close()
            raise
        for session, worker in ended:
            _log.warning("worker %s stopped answering; its session %s is ended", worker, session)
        final = [(task, state) for task, state in moved if State(state) in FINAL]
        if final:
            await self._bus.publish(self._subjects.settled, encode_settled(final))
        again = [(task, state) for task, state in moved if State(state) not in FINAL]
        if again:
            await self._bus.publish(self._subjects.waits, encode_settled(again))
        if moved:
            _log.warning("%d tasks given back, %d of them for good", len(moved), len(final))
        return len(moved)
