"""The guard loop: every 10 s the leader sees that the streams are there, are the ones we knew, and are sized by demand.

It asks only NATS, so an idle system stays silent towards PostgreSQL.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from dispatcher.bus import Bus
from dispatcher.errors import BusError, ConfigurationError
from dispatcher.relay.flow import Shares
from dispatcher.relay.leader import Leader
from dispatcher.settings import Settings
from dispatcher.streams.config import StreamsConfig
from dispatcher.streams.ensure import ensure_stream, set_max_ack_pending
from dispatcher.streams.server import read_consumer
from dispatcher.subjects import Subjects

__all__ = ["Guard"]

_log = logging.getLogger("dispatcher.guard")

_GUARD_SECONDS = 10.0
_SHARE_SECONDS = 0.5


class Guard:
    """Runs beside the leader in its term."""

    def __init__(self, settings: Settings, streams: StreamsConfig, bus: Bus, leader: Leader) -> None:
        self._bus, self._streams, self._leader = bus, streams, leader
        self._subjects = Subjects(settings.namespace)
        self._shares = Shares()
        self._known: dict[str, str] = {}

    async def run(self) -> None:
        """Guard until cancelled.  Raises ``ConfigurationError`` when a stream contradicts streams.conf."""
        demand = await self._bus.subscribe(self._subjects.demand, self._shares.announced)
        try:
            while True:
                await self.look_at_streams()
                for _ in range(int(_GUARD_SECONDS / _SHARE_SECONDS)):
                    await asyncio.sleep(_SHARE_SECONDS)
                    if self._shares.changed:
                        await self._share()
                await self._share()
        finally:
            await demand.unsubscribe()

    async def look_at_streams(self) -> None:
        """Make or repair every stream; one that is not the one we knew has its tasks dispatched again."""
        for name in self._streams.streams:
            try:
                created = await ensure_stream(self._bus, self._subjects, name, self._streams.streams[name])
            except BusError as error:
                _log.warning("stream %s cannot be checked: %s", name, error)
                continue
            if self._known.get(name) == created:
                continue
            self._shares.forget_limits()
            if await self._leader.reconciler.seen(name) != created:
                self._leader.full_look_of[name] = created
                self._leader.nudge()
            self._known[name] = created

    async def _share(self) -> None:
        """Set the limits that changed by a quarter or more."""
        lanes: dict[str, dict[str, bool]] = {}
        try:
            for queue in self._shares.queues:
                config = self._streams.queue(queue)
                stream = self._subjects.stream_name(config.stream)
                for lane in config.lanes:
                    found = await read_consumer(self._bus, stream, self._subjects.consumer(queue, lane))
                    lanes.setdefault(queue, {})[lane] = bool(found and found["num_pending"] + found["num_ack_pending"])
            for (queue, lane), limit in self._shares.changes(lanes).items():
                config = self._streams.queue(queue)
                with suppress(ConfigurationError):
                    await set_max_ack_pending(
                        self._bus, self._subjects, config.stream, queue, lane, min(limit, config.max_ack_pending)
                    )
                self._shares.was_set((queue, lane), limit)
        except BusError as error:
            _log.info("sharing out later: %s", error)
