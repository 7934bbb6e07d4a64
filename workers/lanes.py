"""The lanes a worker serves: registered in the database, their consumers made and guarded, their pushes received."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from dispatcher.bus import Bus, Subscription
from dispatcher.database import Database, pause_before_retry
from dispatcher.errors import BusError, ConfigurationError
from dispatcher.streams.config import StreamsConfig
from dispatcher.streams.ensure import ensure_consumer, ensure_stream
from dispatcher.streams.plan import Lane
from dispatcher.streams.server import check_server_version, read_consumer
from dispatcher.streams.verify import verify
from dispatcher.subjects import DELIVER_GROUP, Subjects
from state.registry import REGISTER_QUEUE
from workers.inbox import Inbox

__all__ = ["Lanes"]

_log = logging.getLogger("dispatcher.lanes")

_GUARD_SECONDS = 10.0


class Lanes:
    """Every lane of the queues that a worker was started for."""

    def __init__(self, bus: Bus, subjects: Subjects, streams: StreamsConfig, queues: Sequence[str]) -> None:
        self._bus, self._subjects, self._streams, self._queues = bus, subjects, streams, list(queues)
        self._subscriptions: list[Subscription] = []
        self.quiet_seconds = min(streams.queue(queue).ack_wait.total_seconds() for queue in queues) / 3
        """How often a message that is worked on must be kept quiet: a third of its ack_wait."""

    async def register(self, database: Database) -> None:
        """Make queues and lanes known in the database, so that publishers need not."""
        for queue in sorted(self._queues):
            config = self._streams.queue(queue)
            params = {
                "name": queue,
                "stream": config.stream,
                "lanes": list(config.lanes),
                "priorities": list(config.lanes.values()),
            }
            await database.run(REGISTER_QUEUE, params)

    async def ensure(self, want: int) -> None:
        """Make what is missing; waits for a JetStream that does not answer, as a cluster that elects its leaders.

        Raises ``ConfigurationError`` naming the field that contradicts streams.conf.
        """
        warning = check_server_version(self._bus.server_version)
        if warning:
            _log.warning("%s", warning)
        tries = 0
        while True:
            try:
                return await self._ensure(want)
            except BusError as error:
                tries += 1
                _log.warning("JetStream does not answer as it should, trying again: %s", error)
                await pause_before_retry(tries)

    async def _ensure(self, want: int) -> None:
        for stream in {self._streams.queue(queue).stream for queue in self._queues}:
            await ensure_stream(self._bus, self._subjects, stream, self._streams.streams[stream])
        lanes = self._all()
        share = max(2, want // max(1, len(self._queues)))
        for lane in lanes:
            config = self._streams.queue(lane.queue)
            await ensure_consumer(self._bus, self._subjects, lane.stream, lane.queue, lane.lane, share, config)

    def _all(self) -> list[Lane]:
        return [
            Lane(self._streams.queue(queue).stream, queue, lane)
            for queue in self._queues
            for lane in self._streams.queue(queue).lanes
        ]

    async def subscribe(self, inbox: Inbox) -> None:
        """Receive the pushes of every lane, and the relay's hints, as one member of the deliver group."""
        for lane in self._all():
            receive = inbox.receiver(self._streams.queue(lane.queue).lanes[lane.lane])
            for to in (self._subjects.push, self._subjects.hint):
                subject = to(lane.stream, lane.queue, lane.lane)
                self._subscriptions.append(await self._bus.subscribe(subject, receive, DELIVER_GROUP))

    async def guard(self) -> None:
        """Every 10 s: a missing or changed consumer would only show as silence.  Asks NATS only."""
        while True:
            await asyncio.sleep(_GUARD_SECONDS)
            try:
                found = await verify(self._streams, self._bus, self._subjects, self._all(), repair=False)
                for change in found.repaired:
                    _log.warning("repaired: %s", change)
            except (BusError, ConfigurationError) as error:
                _log.error("lanes are not as streams.conf says: %s", error)

    async def waiting(self) -> int:
        """Messages that the lanes still hold, delivered or not."""
        total = 0
        for lane in self._all():
            info = await read_consumer(
                self._bus, self._subjects.stream_name(lane.stream), self._subjects.consumer(lane.queue, lane.lane)
            )
            total += info["num_pending"] + info["num_ack_pending"] if info else 0
        return total

    async def leave(self) -> None:
        """Receive nothing more; what arrived already has been handed over when this returns."""
        for subscription in self._subscriptions:
            with suppress(Exception):
                await subscription.drain()
        self._subscriptions.clear()
