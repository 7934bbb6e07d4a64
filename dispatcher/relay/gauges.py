"""The figures of the whole installation: asked for by a scrape of the leading relay, shown by nobody else.

One place only: gauges that every process shows are added up by mistake.  While nothing happens PostgreSQL is asked once
a minute at most, however often somebody scrapes; without a scrape never.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from psycopg import Error as PostgresError

from dispatcher.bus import Bus
from dispatcher.database import Database
from dispatcher.errors import BusError
from dispatcher.settings import Settings
from dispatcher.streams.config import StreamsConfig
from dispatcher.streams.server import consumer_states, read_stream
from dispatcher.subjects import Subjects
from state.gauges import GAUGES
from state.machine import State

__all__ = ["BUSY_SECONDS", "IDLE_SECONDS", "ClusterGauges"]

_log = logging.getLogger("dispatcher.metrics")

BUSY_SECONDS, IDLE_SECONDS = 10.0, 60.0
"""How old figures may be: while the relay publishes, and otherwise."""

_NAMES = {
    "tasks": ("dispatcher_queue_tasks", "Tasks by queue and state.", ("queue", "state")),
    "dead": ("dispatcher_dead_tasks", "Tasks that failed for good.", ("queue",)),
    "latency": ("dispatcher_queue_latency_seconds", "How long the oldest queued task waits, or 0.", ("queue",)),
    "paused": ("dispatcher_queue_paused", "1 while the queue is paused.", ("queue",)),
    "pending": ("dispatcher_outbox_pending", "Tasks that wait to be published.", ()),
    "oldest": ("dispatcher_outbox_oldest_age_seconds", "How long the oldest of them waits; 0 if none does.", ()),
    "messages": ("dispatcher_stream_messages", "Messages the stream holds.", ("stream",)),
    "consumer": ("dispatcher_consumer_pending", "Messages not delivered yet.", ("queue", "lane")),
    "ack": ("dispatcher_consumer_ack_pending", "Messages out at the workers.", ("queue", "lane")),
    "redelivered": (
        "dispatcher_consumer_redelivered", "Messages out at the workers again.", ("queue", "lane"),
    ),
}  # fmt: skip
Figures = dict[str, dict[tuple[str, ...], float]]


class ClusterGauges:
    """A collector for the registry of a relay; it shows nothing unless ``leads()``."""

    def __init__(
        self,
        settings: Settings,
        streams: StreamsConfig,
        bus: Bus,
        database: Database,
        leads: Callable[[], bool],
        published: Callable[[], int],
    ) -> None:
        self._streams, self._bus, self._database = streams, bus, database
        self._subjects = Subjects(settings.namespace)
        self._leads, self._published = leads, published
        self._figures: Figures = {}
        self._asked_at, self._seen = float("-inf"), -1
        self._one_at_a_time = asyncio.Lock()

    def describe(self) -> Iterator[Metric]:
        """The names, for the registry."""
        for name, help, labels in _NAMES.values():
            yield GaugeMetricFamily(name, help, labels=labels)

    def collect(self) -> Iterator[Metric]:
        """What the last :meth:`refresh` found; nothing while another relay leads."""
        if not self._leads():
            return
        for key, values in self._figures.items():
            name, help, labels = _NAMES[key]
            family = GaugeMetricFamily(name, help, labels=labels)
            for label_values, value in values.items():
                family.add_metric(label_values, value)
            yield family

    async def refresh(self) -> None:
        """Ask again if the figures are too old.  A server that does not answer has no figures, not stale ones."""
        async with self._one_at_a_time:
            if not self._leads():
                self._figures, self._asked_at = {}, float("-inf")
                return
            busy = self._published() != self._seen
            if time.monotonic() - self._asked_at < (BUSY_SECONDS if busy else IDLE_SECONDS):
                return
            self._asked_at, self._seen = time.monotonic(), self._published()
            self._figures = {**await self._from_postgres(), **await self._from_nats()}

    async def _from_postgres(self) -> Figures:
        try:
            rows = await self._database.run(GAUGES)
        except (PostgresError, OSError) as error:
            _log.warning("no figures from PostgreSQL: %s", str(error).strip().split("\n")[0])
            await self._database.close()
            return {}
        figures: Figures = {key: {} for key in ("tasks", "dead", "latency", "paused", "pending", "oldest")}
        for kind, queue, state, number, seconds in rows:
            if kind == "tasks":
                figures["tasks"][queue, State(state).label] = float(number)
                if state == State.FAILED:
                    figures["dead"][(queue,)] = float(number)
            elif kind == "queue":
                figures["paused"][(queue,)] = float(number)
                figures["latency"][(queue,)] = max(0.0, seconds or 0.0)
                figures["dead"].setdefault((queue,), 0.0)
            else:
                figures["pending"][()] = float(number)
                figures["oldest"][()] = max(0.0, seconds or 0.0)
        return figures

    async def _from_nats(self) -> Figures:
        figures: Figures = {key: {} for key in ("messages", "consumer", "ack", "redelivered")}
        try:
            for stream in self._streams.streams:
                name = self._subjects.stream_name(stream)
                found = await read_stream(self._bus, name)
                if found is None:
                    continue
                figures["messages"][(stream,)] = float(found.messages)
                for consumer, info in (await consumer_states(self._bus, name)).items():
                    self._add_consumer(figures, consumer, info)
        except BusError as error:
            _log.warning("no figures from NATS: %s", error)
            return {}
        return figures

    @staticmethod
    def _add_consumer(figures: Figures, consumer: str, info: dict[str, Any] | None) -> None:
        queue, mark, lane = consumer.rpartition("--")
        if mark and info is not None:
            figures["consumer"][queue, lane] = float(info.get("num_pending", 0))
            figures["ack"][queue, lane] = float(info.get("num_ack_pending", 0))
            figures["redelivered"][queue, lane] = float(info.get("num_redelivered", 0))
