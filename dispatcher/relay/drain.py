"""One drain: take a batch out of the outbox, publish it, commit when every message is confirmed as stored.

A crash anywhere before the commit leaves the rows in place: they are published again, and the message id, after its
window the guarded claim, absorbs the repeat.  The transaction is bounded: the publish by a timeout, a frozen relay by
``idle_in_transaction_session_timeout``, after which the server gives the rows to others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from struct import error as StructError
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import TupleRow

from dispatcher.bus import Bus, Outgoing
from dispatcher.database import BY_INDEX, Database
from dispatcher.metrics import RelayMetrics
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects
from dispatcher.wire import encode, encode_all, message_id, message_id_of_all
from state import outbox
from state.locks import FULL_RECONCILE, advisory_key
from state.registry import LANE_MAP
from state.sql import Sql

__all__ = ["BATCH", "Drain"]

_log = logging.getLogger("dispatcher.relay")

BATCH = 1000
"""Rows per transaction: 73 thousand messages a second against 63 at 100 (reference measurement)."""
_BURST = 10
_FORGET_MOST = 100
_PUBLISH_SECONDS = 5.0
_TRANSACTION_SECONDS = 10
_COMMIT = Sql("COMMIT")


class _Lane(NamedTuple):
    """The two subjects of a lane."""

    stored: str
    hint: str


class Drain:
    """Publishes what waits in the outbox.  Any number of processes may drain at the same time."""

    def __init__(self, settings: Settings, bus: Bus, name: str = "dispatcher relay") -> None:
        # The DELETE may be lost in a crash of the database: its tasks are then published twice, which is harmless.
        self._database = Database(
            settings,
            name,
            synchronous_commit="off",
            **BY_INDEX,
            idle_in_transaction_session_timeout=f"{_TRANSACTION_SECONDS}s",
        )
        self._bus = bus
        self._subjects = Subjects(settings.namespace)
        self._lanes: dict[int, _Lane] = {}
        self._one_at_a_time = asyncio.Lock()
        self._low = 0
        self._full_look_at = 0.0
        self._marked_at = 0.0
        self._key = dict(zip(("k1", "k2"), advisory_key(settings.db_schema, FULL_RECONCILE), strict=True))
        self.metrics = RelayMetrics()
        self.on_published: Callable[[Mapping[str, int]], None] | None = None
        """Told of every larger batch that was stored: tasks by subject."""
        self.together: Callable[[str, int], int] | None = None
        """How many of so many tasks for a subject one message may carry; else each has its own."""
        self.published = 0
        """Messages confirmed by the stream since the start."""
        self.forgotten = 0
        """Entries whose task was claimed before it needed a message."""
        self.told: dict[UUID, float] = {}
        """Tasks that a worker was told of while their entries wait here, and the monotonic time of it."""
        self.first_delete_at: float | None = None
        """Monotonic time of the first non-empty batch since it was last set to ``None``: benches read it."""

    def forget_lanes(self) -> None:
        """Read the lanes again at the next batch: a queue may have moved to another stream."""
        self._lanes.clear()

    async def tell(self, entry: str) -> bool:
        """Tell a worker of one entry, ``<lane>:<task>:<attempt>:<dispatch>``, before anything is done about it.

        A hint past the stream, which nobody confirms, repeats or writes down: a worker with nothing to do claims the
        task, and then :meth:`forget` is all that is left to do; otherwise the next batch publishes it as ever.
        Returns whether it was sent.
        """
        try:
            lane, task, *numbers = entry.split(":")
            attempt, dispatch = map(int, numbers)
            task_id = UUID(task)
            subject, body = self._lanes[int(lane)].hint, encode(task_id, attempt, dispatch)
        except (ValueError, KeyError, StructError):  # not ours, or of a lane that the drain has yet to read
            return False
        if await self._bus.publish(subject, body):
            self.told[task_id] = time.monotonic()
            return True
        return False

    async def forget(self) -> tuple[int, bool]:
        """Drop the entries that need no message any more.

        Returns how many, and whether others wait that :attr:`told` knows nothing of.  Raises one of ``Transient``.
        """
        async with self._one_at_a_time:
            before = self.told.copy()  # what comes meanwhile may not be seen yet
            [(gone, needed)] = await self._database.run(outbox.FORGET, {"most": _FORGET_MOST})
            more = gone + len(needed) == _FORGET_MOST or any(task not in self.told for task in needed)
            for task in before.keys() - set(needed):
                del self.told[task]
            self.forgotten += gone
            self.metrics.forgotten.inc(gone)
            if not needed:
                await self._mark(time.monotonic())
        return gone, more

    async def once(self) -> int:
        """Publish one batch; returns its size, 0 if nothing waits.

        Raises ``BusError``, ``BusUnavailable`` or one of ``Transient``; the rows stay in the outbox then.
        """
        async with self._one_at_a_time:
            return await self._batch()

    async def _batch(self) -> int:
        now = time.monotonic()
        if now - self._full_look_at > 1.0:  # id order is not commit order: a slow transaction may commit a lower id
            self._low, self._full_look_at = 0, now
        started = time.monotonic()
        try:
            rows = await self._database.begin(outbox.TAKE, {"low": self._low, "most": BATCH, **self._key})
            if rows:
                if self.first_delete_at is None:
                    self.first_delete_at = started
                outgoing, counts = await self._outgoing(rows)
                await self._bus.store(outgoing, _PUBLISH_SECONDS)
            await self._database.run(_COMMIT)
        except BaseException:
            self.metrics.publish_errors.inc()
            await self._give_up()
            raise
        # the mark serves a backlog only: behind it nobody would see a lower id that is committed later
        self._low = rows[0][0] if len(rows) == BATCH else 0
        if rows:
            self._count(rows, counts, time.monotonic() - started)
        await self._mark(now)
        return len(rows)

    def _count(self, rows: list[TupleRow], counts: dict[str, int], seconds: float) -> None:
        self.published += len(rows)
        if self.told:
            for row in rows:
                self.told.pop(row[1], None)
        if self.on_published and len(rows) >= _BURST:
            self.on_published(counts)
        self.metrics.published.inc(len(rows))
        self.metrics.lag.observe(seconds)

    async def _outgoing(self, rows: list[TupleRow]) -> tuple[list[Outgoing], dict[str, int]]:
        """What goes to the stream, and how many tasks that is for each subject."""
        by_lane: dict[int, list[tuple[UUID, int, int]]] = defaultdict(list)
        for _, task, attempt, dispatch, lane in rows:
            by_lane[lane].append((task, attempt, dispatch))
        if not by_lane.keys() <= self._lanes.keys():
            await self._read_lanes()
        outgoing: list[Outgoing] = []
        for lane, references in by_lane.items():
            outgoing += self._messages(self._lanes[lane].stored, references)
        return outgoing, {self._lanes[lane].stored: len(references) for lane, references in by_lane.items()}

    def _messages(self, subject: str, references: list[tuple[UUID, int, int]]) -> Iterator[Outgoing]:
        size = self.together(subject, len(references)) if self.together else 1
        if size == 1:
            yield from ((subject, encode(*reference), message_id(*reference)) for reference in references)
            return
        for start in range(0, len(references), size):
            body = encode_all(references[start : start + size])
            yield subject, body, message_id_of_all(body)

    async def _read_lanes(self) -> None:
        for row in await self._database.run(LANE_MAP):
            names = row[3], row[1], row[2]
            self._lanes[row[0]] = _Lane(self._subjects.lane(*names), self._subjects.hint(*names))

    async def _give_up(self) -> None:
        """Roll back; if even that fails the connection is broken and the server has done it for us."""
        try:
            await self._database.rollback()
        except Exception as error:  # noqa: BLE001 - whatever it is, a closed connection holds no rows
            _log.debug("rollback: %s", error)
            await self._database.close()

    async def _mark(self, now: float) -> None:
        """Once a second while busy, and whenever the outbox is found empty, tell creators how far we are."""
        if now - self._marked_at > 1.0:
            self._marked_at = now
            await self._database.run(outbox.LOW_WATER)

    async def close(self) -> None:
        """Close the connection."""
        await self._database.close()
