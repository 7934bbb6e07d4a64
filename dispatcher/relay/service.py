"""One relay process: stand by, lead when nobody else does, take over from a leader that froze.

Any number may run.  The leader holds a session lock on its listening connection and beats on core NATS; a standby that
misses three beats drains at once and ends the holder's database sessions, because a frozen leader would stop push.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from contextlib import suppress
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from dispatcher.bus import Bus, Message
from dispatcher.cancelling import cancel_all
from dispatcher.database import Database, Transient, connect, pause_before_retry
from dispatcher.errors import BusError, ConfigurationError
from dispatcher.metrics import RelayMetrics
from dispatcher.relay.drain import Drain
from dispatcher.relay.gauges import ClusterGauges
from dispatcher.relay.guard import Guard
from dispatcher.relay.leader import Leader
from dispatcher.relay.pruner import Pruner
from dispatcher.settings import Settings
from dispatcher.streams.config import StreamsConfig
from dispatcher.subjects import Subjects
from state import chores
from state.locks import LEADER, advisory_key

__all__ = ["Relay"]

_log = logging.getLogger("dispatcher.relay")

BEAT_SECONDS = 1.0
MISSED_BEATS = 3


class Relay:
    """``await run()`` until :meth:`stop`.  ``led`` is set when this process leads: tests and the demo wait for it."""

    def __init__(self, settings: Settings, streams: StreamsConfig, bus: Bus) -> None:
        settings = settings.direct()  # locks and LISTEN belong to sessions, transactions have several statements
        self._settings, self._bus, self._streams = settings, bus, streams
        self._subjects = Subjects(settings.namespace)
        # One name for all sessions of this relay: a standby ends them together.
        self.name = f"dispatcher relay {os.getpid()}-{secrets.token_hex(4)}"
        self._key = dict(zip(("k1", "k2"), advisory_key(settings.db_schema, LEADER), strict=True))
        self.drain = Drain(settings, bus, self.name)
        self._standby = Database(settings, f"{self.name} standby", statement_timeout="10s")
        self.leader: Leader | None = None
        self.led = asyncio.Event()
        self.metrics = RelayMetrics()
        self.drain.metrics = self.metrics
        self.gauges = ClusterGauges(
            settings, streams, bus, self._standby, self.led.is_set, lambda: self.drain.published + self.drain.forgotten
        )
        self.metrics.registry.register(self.gauges)
        self._standing_by = False
        self._stopping = asyncio.Event()
        self._last_beat = time.monotonic()

    def ready(self) -> dict[str, Any]:
        """What ``/readyz`` shows: ready is who is connected and leads, or stands by to lead."""
        role = "leader" if self.led.is_set() else "standby" if self._standing_by else "none"
        return {"ready": role != "none" and self._bus.connected, "role": role, "nats": self._bus.connected}

    def stop(self) -> None:
        """Finish the drain at hand and return from :meth:`run`."""
        self._stopping.set()
        if self.leader:
            self.leader.stop()

    async def run(self) -> None:
        """Lead or stand by until stopped.  Raises ``ConfigurationError`` or ``SchemaError``; outages are waited out."""
        self._bus.on_reconnect.append(self._back)
        beats = await self._bus.subscribe(self._subjects.beat, self._heard)
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(), name="relay-watch")
            beat = group.create_task(self._beat(), name="relay-beat")
            closed = group.create_task(self._fail_when_closed(), name="relay-bus")
            try:
                await self._terms()
            finally:
                await cancel_all((watch, beat, closed))
                await beats.unsubscribe()
                await self.drain.close()
                await self._standby.close()

    async def _terms(self) -> None:
        """One term of office after another; the connection that holds the lock lives as long as the term."""
        tries = 0
        while not self._stopping.is_set():
            try:
                election = await connect(self._settings, self.name)
                try:
                    if await self._elected(election):
                        tries = 0
                        await self._lead(election)
                finally:
                    await election.close()  # at once, whatever it waits for: a rollback would wait for the lock
            except (*Transient, ConnectionError) as error:
                tries += 1
                _log.warning("PostgreSQL is away, trying again: %s", str(error).strip().split("\n")[0])
                await pause_before_retry(tries)

    async def _elected(self, election: AsyncConnection[TupleRow]) -> bool:
        """Wait for the leader's lock, in the server and without asking twice; ``False`` when asked to stop."""
        sql = "SELECT pg_advisory_lock(%(k1)s, %(k2)s)"
        won = asyncio.ensure_future(election.execute(sql, self._key, prepare=False))
        stopped = asyncio.ensure_future(self._stopping.wait())
        self._standing_by = True
        try:
            await asyncio.wait({won, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if won.done():
                await won
            return won.done() and not self._stopping.is_set()
        finally:
            self._standing_by = False
            stopped.cancel()
            if not won.done():
                election.cancel()
                won.cancel()
                with suppress(Exception, asyncio.CancelledError):
                    await won

    async def _lead(self, elected: AsyncConnection[TupleRow]) -> None:
        self.leader = leader = Leader(self._settings, self._streams, self._bus, self.drain, self.name)
        guard = Guard(self._settings, self._streams, self._bus, leader)
        # named like the others, so that a standby ends it with them
        pruner = Pruner(Database(self._settings, self.name, statement_timeout="30s"), self._settings, self._streams)
        tasks: list[asyncio.Task[None]] = []
        try:
            await leader.start(elected)
            # before the first drain: a stream that is new to us means that everything published before is gone
            await guard.look_at_streams()
            _log.info("this relay leads")
            tasks = [
                asyncio.create_task(guard.run()),
                asyncio.create_task(leader.run()),
                asyncio.create_task(pruner.run()),
            ]
            self.led.set()
            self.metrics.active.set(1)
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.led.clear()
            self.metrics.active.set(0)
            self.leader = None
            await cancel_all(tasks)
            await leader.close()

    def _back(self) -> None:
        """NATS is back: give the leader three beats to be heard, and publish what has gathered."""
        self._last_beat = time.monotonic()
        if self.leader:
            self.leader.nudge()

    async def _heard(self, message: Message) -> None:
        self._last_beat = time.monotonic()

    async def _beat(self) -> None:
        while True:
            if self.leader and self.led.is_set():
                await self._bus.publish(self._subjects.beat, self.name.encode())
            await asyncio.sleep(BEAT_SECONDS)

    async def _watch(self) -> None:
        """As a standby: step in for a leader that is not heard any more."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            if self.leader or not self._bus.connected:
                self._last_beat = time.monotonic()
            elif time.monotonic() - self._last_beat > MISSED_BEATS * BEAT_SECONDS:
                with suppress(*Transient, BusError):
                    await self._step_in()

    async def _step_in(self) -> None:
        holders = await self._standby.run(chores.LEADER_PID, self._key)
        # first of all: a leader that froze in a full reconcile holds the fence that every drain has to share
        for (pid,) in holders:
            _log.warning("the leading relay stopped beating; ending its database sessions")
            await self._standby.run(chores.STEP_DOWN, {"pid": pid})
        while self.leader is None and await self.drain.once():
            pass
        self._last_beat = time.monotonic()
        await self._standby.close()

    async def _fail_when_closed(self) -> None:
        await self._bus.closed.wait()
        raise ConfigurationError("the connection to NATS was closed for good; the process must be started again")
