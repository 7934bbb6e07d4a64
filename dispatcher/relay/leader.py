"""The leader's day: look, drain, do the chores, sleep until something is due or somebody writes.

awake   work arrives by itself: drain after drain, one look at the other tables every 50 ms, writers do not notify
dozing  holds the sleep lock: every writer notifies, the leader sleeps until then or until the next due time
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from dispatcher.bus import Bus
from dispatcher.cancelling import cancel_all
from dispatcher.database import BY_INDEX, Database, Transient
from dispatcher.errors import BusError, BusUnavailable
from dispatcher.relay.chores import Chores
from dispatcher.relay.drain import BATCH, Drain
from dispatcher.relay.reconcile import Reconciler
from dispatcher.relay.rescuer import Rescuer
from dispatcher.relay.sleep import Sleep
from dispatcher.settings import Settings
from dispatcher.streams.config import StreamsConfig
from dispatcher.streams.registry import queue_rows
from dispatcher.subjects import Subjects
from state import chores, outbox
from state.registry import REGISTER_QUEUE

__all__ = ["Leader"]

_log = logging.getLogger("dispatcher.relay")

AWAKE_ROWS = 4
"""From so many rows in one drain on the leader stays awake until a drain finds none; writers do not notify then."""
REST = 3.0
"""Awake, it rests so many times as long as the last drain took: what costs much at a time is done less often."""
LONGEST_REST_SECONDS, SHORT_REST_SECONDS = 0.030, 0.010
LARGE_ROWS = 100
"""A batch of so many rows has little to win from waiting for more: after it the rest is the short one."""
LOOK_SECONDS = 0.05
"""Between two looks at timers and cancel requests while awake: nobody notifies then."""
CLAIM_SECONDS = 0.010
"""So long a worker that was told of a task may take to claim it, before its message goes to the stream."""
_BLOCKED_SECONDS = 0.5
_AWAY_SECONDS, _REFUSED_SECONDS = 5.0, 1.0
"""The longest pause after a broker that does not answer, and after one that refuses."""
_LOCKED_SECONDS = 0.25
_FOLD_SECONDS = 5.0
_TRIM_SECONDS = 10.0


class Leader:
    """One term of office.  :meth:`run` returns when asked to stop and raises when a connection breaks."""

    def __init__(self, settings: Settings, streams: StreamsConfig, bus: Bus, drain: Drain, name: str) -> None:
        self._subjects = subjects = Subjects(settings.namespace)
        self._settings, self._streams, self._bus, self.drain, self._name = settings, streams, bus, drain, name
        self._database = Database(settings, name, statement_timeout="30s", **BY_INDEX)
        self.sleep = Sleep(settings, name)
        self.chores = Chores(self._database, bus, subjects)
        self.rescuer = Rescuer(self._database, bus, subjects)
        self.reconciler = Reconciler(self._database, bus, subjects)
        self._trimming: asyncio.Task[None] | None = None
        self._stopping = self._awake = self._deep = False
        self._blocked_until = 0.0
        self._blocked_tries = 0
        self._next_due = self._next_lease = 0.0
        self._next_fold = self._next_trim = float("inf")
        self._last_look = 0.0
        self.full_look_of: dict[str, str] = {}
        """Streams, with their creation time, that a guard found to be new: their tasks go out again."""
        self.strays: set[str] = set()
        """Streams that hold messages which no consumer delivers; swept once no dispatch waits for its message."""
        self.on_blocked: Callable[[], None] = lambda: None
        """Called when a batch could not be published."""

    def stop(self) -> None:
        """Finish the drain at hand and return from :meth:`run`."""
        self._stopping = True
        self.sleep.event.set()

    def nudge(self) -> None:
        """Look again now, for example because NATS is back."""
        self._blocked_until, self._blocked_tries = 0.0, 0
        self.sleep.hints.add("all")
        self.sleep.event.set()

    async def start(self, elected: AsyncConnection[TupleRow]) -> None:
        """Listen; make the configured limit, queues and lanes known.  Raises one of ``Transient``."""
        self.sleep.on_entry = self._tell
        await self.sleep.start(elected)
        await self._database.run(outbox.LIMIT, {"limit": self._settings.outbox_limit})
        for row in queue_rows(self._streams):
            await self._database.run(REGISTER_QUEUE, row)

    async def run(self) -> None:
        """Lead until stopped.  Raises one of ``Transient`` or ``ConnectionError`` when the database is away."""
        if self.full_look_of:
            await self._reconcile()
        look = True
        while not self._stopping:
            begun = time.monotonic()
            rows = await self._look() if look else await self._drain_all()
            longest = LONGEST_REST_SECONDS if rows < LARGE_ROWS else SHORT_REST_SECONDS
            rest = 0.0 if self._deep else min(longest, REST * (time.monotonic() - begun))
            self.sleep.check()
            self._awake = rows >= AWAKE_ROWS or (self._awake and rows > 0)
            if self._awake or self._is_blocked():
                await self.sleep.release()
                await self.sleep.wait(rest if rows else min(_BLOCKED_SECONDS, self._blocked_for()))
                look = self._is_look_due()
            elif not self.sleep.holds:
                self.sleep.request()
                await self.sleep.wait(LOOK_SECONDS)
                look = self._pending_hints() or self.sleep.holds or self._is_look_due()
            else:
                look = await self._doze()

    async def close(self) -> None:
        """Give back every connection, and with them the sleep lock."""
        await self._end_trimming()
        await self.sleep.stop()
        await self._database.close()

    async def _tell(self, entry: str) -> bool:
        """A single task, created while we slept: a worker learns of it before its entry is looked at."""
        return not self._awake and not self._is_blocked() and await self.drain.tell(entry)

    def _told_until(self) -> float:
        """When the first task that a worker was told of has waited long enough for its claim."""
        return min(self.drain.told.values(), default=float("inf")) + CLAIM_SECONDS

    def _is_look_due(self) -> bool:
        return time.monotonic() - self._last_look > LOOK_SECONDS

    async def _doze(self) -> bool:
        """Sleep; returns whether everything has to be looked at, not only the outbox."""
        backstop = self._last_look + self._settings.backstop.total_seconds()
        until = min(self._next_due, self._next_lease, self._next_fold, self._next_trim, backstop)
        while (left := min(until, self._told_until()) - time.monotonic()) > 0:
            await self.sleep.wait(left)
            if self._stopping or self.sleep.hints != {"entry"} or not self.drain.told:
                break
        return self._pending_hints() or time.monotonic() >= until

    def _pending_hints(self) -> bool:
        """Whether somebody announced more than outbox rows."""
        hints, self.sleep.hints = self.sleep.hints, set()
        return bool(hints - {"outbox", "entry"})

    async def _look(self) -> int:
        """One statement that tells what there is, then only the work it named.  Returns the rows drained."""
        [(outbox, cancels, parked, log, due_in, lease_in)] = await self._database.run(chores.LOOK)
        now = self._last_look = time.monotonic()
        far = float("inf")
        moved = 0
        if cancels:
            await self.chores.cancels()
        if due_in is not None and due_in <= 0:
            moved += await self.chores.timers()
            due_in = await self.chores.next_due()
            due_in = None if due_in is None else max(_LOCKED_SECONDS, due_in)  # a due row that is locked: not a loop
        if parked:
            moved += await self.chores.unpark()
        rows = await self._drain_all() if outbox or moved else 0
        if lease_in is not None and lease_in <= 0:
            rescued = await self.rescuer.once()
            moved += rescued
            lease_in = _LOCKED_SECONDS if not rescued else 0.0
            rows += await self._drain_all() if rescued else 0
        self._next_due = far if due_in is None else now + max(0.0, due_in)
        self._next_lease = far if lease_in is None else now + max(0.0, lease_in) + 0.01
        await self._upkeep(now, log=log, active=bool(rows or moved or lease_in is not None))
        return rows

    async def _upkeep(self, now: float, *, log: bool, active: bool) -> None:
        """Fold the counters and trim the dispatch log, some seconds after there was something to do."""
        if active and self._next_fold == float("inf"):
            self._next_fold = now + _FOLD_SECONDS
        if now >= self._next_fold:
            await self.chores.fold()
            self._next_fold = float("inf")
        if self._is_blocked():
            return
        if (log or self.strays) and self._next_trim == float("inf"):
            self._next_trim = now + _TRIM_SECONDS
        if self.full_look_of:
            await self._reconcile()
        if now >= self._next_trim:
            self._next_trim = float("inf")
            self._start_trimming()

    async def _reconcile(self) -> None:
        """Nothing is published meanwhile: every open drain has to end first, and a new one could not begin."""
        await self._end_trimming()
        try:
            while self.full_look_of:
                stream, created = next(iter(self.full_look_of.items()))
                await self.reconciler.everything(stream, created)
                if self.full_look_of.get(stream) == created:  # it may have been wiped once more meanwhile
                    del self.full_look_of[stream]
        except BusError as error:
            _log.info("reconciling later: %s", error)

    def _start_trimming(self) -> None:
        """Look for lost messages and trim the dispatch log, beside the drains: after a backlog that takes seconds."""
        if self._trimming is not None:
            if not self._trimming.done():
                return
            self._trimming.result()  # a mistake of ours ends the term instead of going unseen
        self._trimming = asyncio.create_task(self._trim(), name="relay-trim")

    async def _trim(self) -> None:
        # named like the others, so that a standby ends it with them
        database = Database(self._settings, self._name, statement_timeout="30s", **BY_INDEX)
        try:
            reconciler = Reconciler(database, self._bus, self._subjects)
            await reconciler.once()
            for stream in list(self.strays):
                self.strays.discard(stream)
                if not await reconciler.sweep(stream):
                    self.strays.add(stream)
        except (BusError, *Transient) as error:
            _log.info("reconciling later: %s", str(error).strip().split("\n")[0])
        finally:
            await database.close()

    async def _end_trimming(self) -> None:
        if self._trimming is not None:
            await cancel_all([self._trimming])
            self._trimming = None

    async def _drain_all(self) -> int:
        """Publish what waits, a deep backlog in stretches: timers, cancels and rescues do not wait for its end.

        A broker that is away or full costs one try per back-off, never a loop.
        """
        if self._is_blocked():
            self._deep = False
            return 0
        total, deep = 0, self._deep
        self._deep = False
        if self.drain.told and not self._awake:
            total, more = await self.drain.forget()
            if not more and time.monotonic() < self._told_until():
                return total
        try:
            while rows := await self.drain.once():
                total += rows
                if (rows < BATCH and not deep) or self._stopping:
                    break
                deep = rows == BATCH  # the last batch of a backlog began behind the mark: look once from the start
                if deep and self._is_look_due():
                    self._deep = True
                    break
            self._blocked_tries = 0
        except BusError as error:
            self._blocked_tries += 1
            # one that is full answers, and each try fills what room there is: worth asking again soon
            longest = _AWAY_SECONDS if isinstance(error, BusUnavailable) else _REFUSED_SECONDS
            delay = random.uniform(0.5, 1.0) * min(longest, 0.2 * 2**self._blocked_tries)
            self._blocked_until = time.monotonic() + delay
            _log.warning("cannot publish, trying again in %.1f s: %s", delay, error)
            self.on_blocked()
        return total

    def _is_blocked(self) -> bool:
        return time.monotonic() < self._blocked_until

    def _blocked_for(self) -> float:
        return max(0.0, self._blocked_until - time.monotonic())
