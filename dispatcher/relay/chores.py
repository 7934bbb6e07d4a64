"""The leader's small chores: promote due timers, end expired tasks, forward cancel requests, unpark, fold counters."""

from __future__ import annotations

from psycopg.rows import TupleRow

from dispatcher.bus import Bus
from dispatcher.database import Database
from dispatcher.subjects import Subjects
from dispatcher.wire import encode_cancel, encode_settled
from state import chores, claims, counts, flows, requests, timers
from state.machine import State
from state.sql import Sql

__all__ = ["Chores"]

_BATCH = 1000
_BEGIN, _COMMIT = Sql("BEGIN"), Sql("COMMIT")


class Chores:
    """Each method does one bounded batch after another until nothing is due, and returns how many tasks it moved."""

    def __init__(self, database: Database, bus: Bus, subjects: Subjects) -> None:
        self._database, self._bus, self._subjects = database, bus, subjects

    async def timers(self) -> int:
        """Put due tasks into the outbox and fail those that nobody started in time."""
        total: int = 0
        while True:
            [(gone, moved)] = await self._database.run(timers.PROMOTE, {"most": _BATCH})
            total += moved
            if gone < _BATCH:
                break
        while True:
            due, ended = await self._expire()
            if ended:
                await self._bus.publish(
                    self._subjects.settled, encode_settled([(row[0], State.FAILED) for row in ended])
                )
            total += len(ended)
            if due < _BATCH:
                return total

    async def _expire(self) -> tuple[int, list[TupleRow]]:
        """One batch in one transaction: a timer is gone only together with what it was set for."""
        await self._database.run(_BEGIN)
        try:
            due = await self._database.run(timers.EXPIRE_DUE, {"most": _BATCH})
            params = {"ids": [row[0] for row in due], "attempts": [row[1] for row in due]}
            ended = await self._database.run(claims.EXPIRE, params) if due else []
            await self._database.run(_COMMIT)
        except BaseException:
            await self._database.close()
            raise
        return len(due), ended

    async def next_due(self) -> float | None:
        """Seconds until the earliest timer, ``None`` if there is none."""
        rows = await self._database.run(timers.NEXT_DUE)
        return rows[0][0] if rows else None

    async def cancels(self) -> int:
        """Tell workers which running tasks were asked to stop, and who waits for a task that a person ended.

        A lost message is no lost cancel: the renewal of the worker's session returns the same requests.
        """
        total = await self._stop_flows()
        while rows := await self._database.run(chores.CANCELS):
            running = [(row[0], row[1]) for row in rows if row[1] is not None]
            ended = [(row[0], int(State.CANCELLED)) for row in rows if row[1] is None]
            if running:
                await self._bus.publish(self._subjects.cancel, encode_cancel(running))
            if ended:
                await self._bus.publish(self._subjects.settled, encode_settled(ended))
            total += len(rows)
        return total

    async def _stop_flows(self) -> int:
        """Cancel what is not wanted any more, because a part of its flow has failed."""
        total = 0
        while True:
            await self._database.run(_BEGIN)
            try:
                [(found, ids)] = await self._database.run(flows.STOPS)
                if ids:
                    await self._database.run(requests.LOCK, {"ids": ids})
                    total += len(await self._database.run(requests.CANCEL, {"ids": ids, "actor": "flow"}))
                await self._database.run(_COMMIT)
            except BaseException:
                await self._database.close()
                raise
            if not found:
                return total

    async def unpark(self) -> int:
        """Send on parked tasks whose gate is open again."""
        total: int = 0
        while True:
            [(cleared, moved)] = await self._database.run(requests.UNPARK_ANY, {"most": _BATCH})
            total += moved
            if not cleared:
                return total

    async def fold(self) -> None:
        """Fold the counters' deltas into one row per queue and state."""
        await self._database.run(counts.FOLD)
