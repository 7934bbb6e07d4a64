"""The reconciler: finds queued tasks whose message is lost and sends them again; trims the dispatch log on the way.

Costs one broker question per lane that has log entries and one bounded statement per 20 batches or less; nothing while
idle, because a log without entries has no lanes.  After a backlog of a million tasks there are seconds of work: the
leader lets it run beside its drains, with rests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

from dispatcher.bus import Bus
from dispatcher.database import Database
from dispatcher.errors import BusError
from dispatcher.streams.server import read_consumer
from dispatcher.subjects import Subjects
from dispatcher.wire import decode, parse_time
from state import reconcile
from state.locks import FULL_RECONCILE, advisory_key
from state.registry import LANE_MAP
from state.sql import Sql

__all__ = ["Reconciler"]

_log = logging.getLogger("dispatcher.reconciler")

# A drain ends within 10 s (its session is ended by the server otherwise); the rest is room for two servers' clocks.
_MARGIN = timedelta(seconds=30)
_STRAY_AFTER = timedelta(seconds=30)
"""Younger messages may just be on their way to a worker, or back from one."""
_ACKED_SECONDS = 0.5
"""More than the server needs to remove a message that was acknowledged."""
_STRAYS = 250
"""Deleted at most in one look at a lane."""
_BATCHES = 20
_STEP_SECONDS = 0.02
"""What one statement should take at most: new tasks share the processors with it."""
_REST = 1.0
"""After each statement it rests so many times as long as that took."""
_NO_MESSAGE = 10037  # err_code of STREAM.MSG.GET when the subject holds nothing


class Reconciler:
    """Run by the leader."""

    def __init__(self, database: Database, bus: Bus, subjects: Subjects) -> None:
        self._database, self._bus, self._subjects = database, bus, subjects
        key = advisory_key(database.schema, FULL_RECONCILE)
        self._lock = Sql(f"SELECT pg_advisory_lock({key[0]}, {key[1]})")
        self._unlock = Sql(f"SELECT pg_advisory_unlock({key[0]}, {key[1]})")

    async def once(self) -> int:
        """Look at every lane once; returns how many tasks were sent again.  Raises ``BusError`` or ``Transient``."""
        entries = await self._database.run(reconcile.ENTRIES)
        lanes = {row[0]: row for row in await self._database.run(LANE_MAP)} if entries else {}
        total = 0
        for lane, upto, _ in entries:
            _, queue, name, stream = lanes[lane][:4]
            before = await self._first_message_at(stream, queue, name)
            total += await self._judge(lane, upto, before - _MARGIN if before else None, rest=_REST)
        return total

    async def everything(self, stream: str, created: str) -> int:
        """The stream was wiped, restored or made anew: every dispatch that is still queued goes out again.

        Waits for every open drain first, and remembers the new creation time only after the last entry: a crash in
        between starts over.
        """
        known = await self.seen(stream)
        await self._database.run(self._lock)
        try:
            total = 0
            lanes = {row[0] for row in await self._database.run(LANE_MAP) if row[3] == stream}
            for lane, upto, _ in await self._database.run(reconcile.ENTRIES):
                if lane in lanes:
                    total += await self._judge(lane, upto, None)
            await self._database.run(reconcile.REMEMBER_STREAM, {"name": stream, "created": created})
        finally:
            await self._database.run(self._unlock)
        if total or known:
            _log.warning("stream %s is not the one we knew: %d tasks dispatched again", stream, total)
        return total

    async def sweep(self, stream: str) -> bool:
        """Remove what a stream holds that no task waits for; returns whether nothing waits.

        After damage a server may keep messages that it never delivers again.  Nothing is published meanwhile: every
        open drain has to end first, and then each message that a task needs stands in the log.
        """
        await self._database.run(self._lock)
        try:
            if await self._database.run(reconcile.ENTRIES):
                return False
            answer = await self._bus.api(f"STREAM.PURGE.{self._subjects.stream_name(stream)}")
        finally:
            await self._database.run(self._unlock)
        _log.warning("%d messages of %s removed: nobody got them, and no task needs them", answer["purged"], stream)
        return True

    async def seen(self, stream: str) -> str | None:
        """The creation time this installation last agreed with, ``None`` before the first one."""
        rows = await self._database.run(reconcile.STREAM_SEEN, {"name": stream})
        return rows[0][0] if rows else None

    async def _judge(self, lane: int, upto: int, before: datetime | None, rest: float = 0.0) -> int:
        total: int = 0
        most = 1
        while True:
            params: dict[str, Any] = {"lane": lane, "upto": upto, "before": before, "most": most}
            begun = time.monotonic()
            [row] = await self._database.run(reconcile.RECONCILE, params)
            took = time.monotonic() - begun
            looked, gone, moved = (int(figure) for figure in row)
            total += moved
            if moved:
                _log.warning("%d queued tasks of lane %d had lost their message; sent again", moved, lane)
            if looked < most or gone == 0:
                return total
            most = max(1, min(_BATCHES, int(most * _STEP_SECONDS / took)))  # an entry has one task or a thousand
            await asyncio.sleep(rest * took)

    async def _first_message_at(self, stream: str, queue: str, lane: str) -> datetime | None:
        """When the first message that the lane still holds was stored; ``None`` if it holds none.

        Old ones that no task needs any more are deleted on the way: after damage to its store a server may keep
        messages that it never delivers again, and nothing behind such a message could be found lost.
        """
        name, subject = self._subjects.stream_name(stream), self._subjects.lane(stream, queue, lane)
        for _ in range(_STRAYS):
            try:
                answer = await self._bus.api(f"STREAM.MSG.GET.{name}", {"seq": 1, "next_by_subj": subject})
            except BusError as error:
                if error.err_code == _NO_MESSAGE:
                    return None
                raise
            message = answer["message"]
            at = parse_time(message["time"])
            if at > datetime.now(UTC) - _STRAY_AFTER or await self._is_needed(b64decode(message.get("data") or "")):
                await self._see_that_it_comes(name, self._subjects.consumer(queue, lane), message["seq"])
                return at
            await self._bus.api(f"STREAM.MSG.DELETE.{name}", {"seq": message["seq"], "no_erase": True})
            _log.info("message %d of %s deleted: no task needs it, and nobody got it", message["seq"], subject)
        return at

    async def _see_that_it_comes(self, stream: str, consumer: str, sequence: int) -> None:
        """Delete a consumer that takes a message for acknowledged which is there: it would never deliver it.

        After damage to the stream's files sequence numbers are used again, and the consumer remembers the old ones.
        The guard makes it anew within a second, and a new one delivers everything that the stream holds.
        """
        for pause in (_ACKED_SECONDS, 0.0):
            info = await read_consumer(self._bus, stream, consumer)
            if info is None or sequence > info["ack_floor"]["stream_seq"]:
                return
            await asyncio.sleep(pause)  # it may have been acknowledged just now
            try:
                await self._bus.api(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
            except BusError:
                return
        _log.error("consumer %s takes messages for acknowledged that are there; it is made anew", consumer)
        await self._bus.api(f"CONSUMER.DELETE.{stream}.{consumer}")

    async def _is_needed(self, data: bytes) -> bool:
        try:
            references = decode(data)
        except ValueError:
            return True  # not one of ours: a worker keeps the evidence
        ids, attempts, dispatches = zip(*references, strict=True)
        params = {"ids": list(ids), "attempts": list(attempts), "dispatches": list(dispatches)}
        [(needed,)] = await self._database.run(reconcile.NEEDED, params)
        return bool(needed)
