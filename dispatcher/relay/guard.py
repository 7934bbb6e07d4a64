"""The guard loop: every 10 s the leader sees that the streams are there, are the ones we knew, and are sized by demand.

It asks only NATS, so an idle system stays silent towards PostgreSQL.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from dispatcher.bus import Bus
from dispatcher.errors import BusError, ConfigurationError
from dispatcher.relay.flow import Shares
from dispatcher.relay.leader import Leader
from dispatcher.settings import Settings
from dispatcher.streams.config import StreamsConfig
from dispatcher.streams.ensure import set_max_ack_pending
from dispatcher.streams.plan import Lane
from dispatcher.streams.server import consumer_states, read_consumer
from dispatcher.streams.verify import verify
from dispatcher.subjects import Subjects

__all__ = ["Guard"]

_log = logging.getLogger("dispatcher.guard")

_GUARD_SECONDS = 10.0
_AGAIN_SECONDS = 1.0
"""After a look that found no answer: JetStream starts a moment after its server."""
_SHARE_SECONDS = 0.1
_FILLED_SECONDS = 0.5
_READ_PER_SECOND = 300
_MANY = 30
"""From so many lanes on a stream's consumers are read 256 at a time instead of one by one."""


class Guard:
    """Runs beside the leader in its term."""

    def __init__(self, settings: Settings, streams: StreamsConfig, bus: Bus, leader: Leader) -> None:
        self._bus, self._streams, self._leader = bus, streams, leader
        self._subjects = Subjects(settings.namespace)
        self._shares = Shares()
        self._known: dict[str, str] = {}
        self._hungry: dict[str, dict[str, bool]] = {}
        self._strays: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._read_at = 0.0
        self._looked_at = 0.0
        self._back = asyncio.Event()

    async def run(self) -> None:
        """Guard until cancelled.  Raises ``ConfigurationError`` when a stream contradicts streams.conf."""
        demand = await self._bus.subscribe(self._subjects.demand, self._shares.announced)
        self._bus.on_reconnect.append(self._look_again)
        self._leader.on_blocked = self._look_again
        self._leader.drain.on_published = self._published
        self._leader.drain.together = self._together
        seen = True
        try:
            while True:
                self._back.clear()
                before, seen = seen, await self.look_at_streams()
                if seen and not before:  # a cluster has elected: publish now, not when the back-off is over
                    self._leader.nudge()
                await self._share()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_GUARD_SECONDS if seen else _AGAIN_SECONDS):
                        while not self._back.is_set():
                            await self._wait_for_change()
                            await self._share()
                            await asyncio.sleep(_SHARE_SECONDS)
        finally:
            self._bus.on_reconnect.remove(self._look_again)
            self._leader.drain.on_published = self._leader.drain.together = None
            await demand.unsubscribe()

    def _look_again(self) -> None:
        """NATS is back, maybe with another store, or something could not be published."""
        self._back.set()
        self._shares.changed.set()

    def _published(self, batch: Mapping[str, int]) -> None:
        """A lane that had no work was just given more than it may have outstanding: size it now, not at the next look.

        ``batch`` counts the tasks by subject.
        """
        for subject, count in batch.items():
            queue, lane = subject.split(".")[-2:]
            if self._hungry.get(queue, {}).get(lane) is False and count > self._shares.limit(queue, lane):
                self._hungry[queue][lane] = True
                self._shares.changed.set()

    def _together(self, subject: str, count: int) -> int:
        """How many of ``count`` tasks for a subject one message may carry."""
        queue, lane = subject.split(".")[-2:]
        return self._shares.together(queue, lane, count)

    async def _wait_for_change(self) -> None:
        """Until a worker announces something new, or it is time to see whether a lane fills what it was given.

        Long tasks keep their messages and change nobody's demand: a lane that was sized for a little would leave slots
        empty.
        """
        lanes = len(self._lanes())
        with suppress(TimeoutError):
            async with asyncio.timeout(max(_FILLED_SECONDS, lanes / _READ_PER_SECOND) if lanes else None):
                await self._shares.changed.wait()

    async def look_at_streams(self) -> bool:
        """Make or repair every stream; one that is not the one we knew has its tasks dispatched again.

        Returns whether the server answered.
        """
        self._looked_at = time.monotonic()
        try:
            found = await verify(self._streams, self._bus, self._subjects, self._lanes())
        except BusError as error:
            _log.warning("streams cannot be checked: %s", error)
            return False
        for change in found.repaired:
            _log.warning("repaired: %s", change)
            self._shares.forget_limits()  # a consumer that is new has not the limit that its lane was given
        for name, created in found.created.items():
            if self._known.get(name) == created:
                continue
            self._shares.forget_limits()
            if await self._leader.reconciler.seen(name) != created:
                self._leader.full_look_of[name] = created
                self._leader.nudge()
            self._known[name] = created
        for name, messages in found.messages.items():
            self._watch_for_strays(name, messages)
        return True

    def _watch_for_strays(self, stream: str, messages: int) -> None:
        """Messages that no consumer has before it, look after look: the leader sees whether any task needs them.

        Where no worker serves the stream they may be waiting for one.
        """
        lanes = [lanes for queue, lanes in self._hungry.items() if self._streams.queue(queue).stream == stream]
        waits = not lanes or any(hungry for served in lanes for hungry in served.values())
        if not messages or waits:
            self._leader.strays.discard(stream)
            self._told.pop(stream, None)
        elif self._strays.get(stream) == messages != self._told.get(stream):
            self._told[stream] = messages  # once: the server may not let us remove them
            self._leader.strays.add(stream)
            self._leader.nudge()
        self._strays[stream] = 0 if waits else messages

    def _lanes(self) -> list[Lane]:
        """The lanes that live workers serve; they make their consumers, the leader sets drifted ones right."""
        return [
            Lane(self._streams.queue(queue).stream, queue, lane)
            for queue in sorted(self._shares.queues)
            for lane in self._streams.queue(queue).lanes
        ]

    async def _share(self) -> None:
        """Set the limits that changed enough.  Many lanes are not read at every change of a worker's demand."""
        try:
            many = len(self._lanes()) / _READ_PER_SECOND
            if time.monotonic() - self._read_at >= many or self._shares.queues - self._hungry.keys():
                self._hungry = await self._read_lanes()
                self._read_at = time.monotonic()
            for (queue, lane), limit in self._shares.changes(self._hungry).items():
                config = self._streams.queue(queue)
                with suppress(ConfigurationError):
                    await set_max_ack_pending(
                        self._bus, self._subjects, config.stream, queue, lane, min(limit, config.max_ack_pending)
                    )
                self._shares.was_set((queue, lane), limit)
        except BusError as error:
            _log.info("sharing out later: %s", error)

    async def _read_lanes(self) -> dict[str, dict[str, bool]]:
        """For each queue that somebody serves, which of its lanes have messages."""
        by_stream: dict[str, list[Lane]] = {}
        for lane in self._lanes():
            by_stream.setdefault(self._subjects.stream_name(lane.stream), []).append(lane)
        hungry: dict[str, dict[str, bool]] = {}
        for stream, lanes in by_stream.items():
            listed = await consumer_states(self._bus, stream) if len(lanes) >= _MANY else {}
            for lane in lanes:
                name = self._subjects.consumer(lane.queue, lane.lane)
                found = listed.get(name) or await read_consumer(self._bus, stream, name)
                if found is None and time.monotonic() - self._looked_at > _AGAIN_SECONDS:
                    self._look_again()  # somebody deleted it: to the workers that is only silence
                waits = bool(found and found["num_pending"] + found["num_ack_pending"])
                hungry.setdefault(lane.queue, {})[lane.lane] = waits
        return hungry
