"""The worker: puts the pieces together, in one task group, and takes them apart in the right order.

lanes → inbox → claimer → executor → settler → ack
                   sessions + lease thread
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid4

from dispatcher.app import Dispatcher
from dispatcher.bus import Bus
from dispatcher.cancelling import cancel_all
from dispatcher.database import Database
from dispatcher.errors import ConfigurationError
from dispatcher.metrics import WorkerMetrics
from dispatcher.settings import Settings
from dispatcher.streams.config import StreamsConfig
from dispatcher.subjects import Subjects
from dispatcher.task import TaskType
from state.machine import State
from state.registry import OUTBOX_WAITS
from workers.attempt import Attempt, Stop
from workers.claimer import Claimer
from workers.executor import Executor
from workers.inbox import Inbox
from workers.lanes import Lanes
from workers.lease import LeaseKeeper
from workers.measure import Measure
from workers.pace import Pace
from workers.presence import Presence
from workers.registration import register
from workers.session import Session
from workers.sessions import Sessions
from workers.settler import Settler

__all__ = ["Worker", "default_name"]

_log = logging.getLogger("dispatcher.worker")

_HOUSEKEEPING_SECONDS = 0.25
_LONGEST_AHEAD_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 1.0
_STUCK_SECONDS = 0.25


def default_name() -> str:
    """How a worker is called that was given no name."""
    return f"{socket.gethostname()}-{os.getpid()}"


class Worker:
    """Runs the task types of ``app`` that arrive on ``queues``, at most ``slots`` at a time.

    :meth:`run` returns after :meth:`drain`, or with ``burst`` when nothing waits any more.
    """

    def __init__(
        self,
        app: Dispatcher,
        settings: Settings,
        streams: StreamsConfig,
        bus: Bus,
        *,
        queues: Sequence[str] = ("default",),
        slots: int = 16,
        name: str | None = None,
        burst: bool = False,
    ) -> None:
        self._app, self._settings, self._bus, self._burst = app, settings, bus, burst
        self.boot_id: UUID = uuid4()
        self.name = name or default_name()
        self._subjects = Subjects(settings.namespace)
        self._claims = Database(settings, "dispatcher worker claim")
        self._settles = Database(settings, "dispatcher worker settle")
        self._types: dict[int, TaskType[Any, Any, Any]] = {}
        self._queue_names: dict[int, str] = {}
        self.lanes = Lanes(bus, self._subjects, streams, queues)
        self._queues = list(queues)
        self.pace = Pace(slots)
        self.metrics = WorkerMetrics()
        self.metrics.slots.set(slots)
        self._measure = Measure(self.metrics, self._queue_names)
        self._settled_at = time.monotonic()
        self.ready = asyncio.Event()
        """Set when the worker receives tasks."""
        self._draining = asyncio.Event()
        self._started_at = datetime.now(UTC)

    def drain(self) -> None:
        """Orderly stop: take nothing new, finish what runs within the grace time, give back the rest."""
        self._draining.set()

    async def run(self) -> None:
        """Work until drained.  Raises ``ConfigurationError`` or ``SchemaError`` before anything is taken."""
        types, queue_names = await register(self._app, self.lanes, self._claims, self._queues)
        self._types.update(types)
        self._queue_names.update(queue_names)
        self._build()
        try:
            await self.lanes.ensure(max(self.pace.want, 64))
            await self._presence.start()
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(job, name=name)
                    for name, job in {
                        "claim": self.claimer.run(),
                        "settle": self.settler.run(),
                        "sessions": self.sessions.close_when_idle(),
                        "presence": self._presence.run(),
                        "guard": self.lanes.guard(),
                        "housekeeping": self._housekeeping(),
                        "bus": self._leave_when_bus_is_closed(),
                    }.items()
                ]
                await self.lanes.subscribe(self.inbox)
                self.ready.set()
                if self._burst:
                    background.append(group.create_task(self._drain_when_empty()))
                await self._draining.wait()
                await self._drain()
                await cancel_all(background)
        finally:
            await self._close()

    def _build(self) -> None:
        self.inbox = Inbox(self._bus, self._unreadable, self._may_wait)
        self.sessions = Sessions(self._settings, self._claims, self.name, self.boot_id)
        self.settler = Settler(self._settles, self._bus, self._subjects, self.sessions, self._settled)
        self.executor = Executor(self.pace.slots, self._queue_names, self.settler.finished, self.settler.progress)
        self.sessions.keeper = LeaseKeeper(self._settings, self.boot_id, self._cancel_in, self._lost, self._must_leave)
        self.claimer = Claimer(
            self._claims, self._bus, self.inbox, self.sessions, self._types, self.name,
            self._room, self._start, self.executor.running, self.settler.tell,
        )  # fmt: skip
        self._presence = Presence(
            self._bus, self._subjects, self.describe, lambda: self.pace.want + self.claimer.away, self._cancel
        )
        self._measure.watch(self.executor, self.inbox, self.claimer, self._presence)

    def is_ready(self) -> dict[str, Any]:
        """What ``/readyz`` shows: ready is who is connected and receives tasks."""
        ready = self.ready.is_set() and not self._draining.is_set() and self._bus.connected
        return {"ready": ready, "nats": self._bus.connected, "draining": self._draining.is_set()}

    def describe(self) -> dict[str, Any]:
        """What ``dispatcher workers list`` shows."""
        return {
            "worker": self.name,
            "boot_id": str(self.boot_id),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "queues": self._queues,
            "slots": self.pace.slots,
            "running": len(self.executor.running),
            "version": version("jetstream-dispatcher"),
            "started_at": self._started_at.isoformat(),
            "draining": self._draining.is_set(),
        }

    # called by the pieces -------------------------------------------------------------------------------------------

    async def _unreadable(self, message: Any, why: str) -> None:
        await self.claimer.unreadable(message, why)

    def _room(self) -> int:
        return self.pace.slots + self.pace.ahead - len(self.executor.running)

    def _may_wait(self) -> int:
        """Unclaimed messages that may wait here: what the leader was told, less what is held."""
        running = len(self.executor.running)
        if running >= self.pace.slots and time.monotonic() - self._settled_at > _STUCK_SECONDS:
            return 0  # every slot is busy for long: another worker may be free
        return max(self.pace.want, self._presence.announced) - running

    def _start(self, attempts: list[Attempt]) -> None:
        if not self.executor.running:
            self.pace.resume()
        self._measure.claimed(attempts)
        self.executor.submit(attempts)

    def _settled(self, attempts: list[Attempt], accepted: Mapping[UUID, State]) -> None:
        self._measure.settled(attempts, accepted)
        self._settled_at = time.monotonic()
        for attempt in attempts:
            if self.executor.running.get(attempt.task_id) is attempt:
                del self.executor.running[attempt.task_id]
        self.pace.settled(len(attempts), more=bool(len(self.inbox) or self.executor.ready))
        self.claimer.has_room.set()

    def _cancel(self, task_id: UUID, number: int) -> None:
        attempt = self.executor.running.get(task_id)
        if attempt is not None and attempt.number == number:
            self.executor.stop_one(attempt, Stop.CANCEL)

    def _cancel_in(self, session: Session, task_id: UUID, number: int) -> None:
        self._cancel(task_id, number)

    def _lost(self, session: Session) -> None:
        """The lease is gone or about to end: nothing of this session may go on."""
        session.lost = True
        for attempt in [held for held in self.executor.running.values() if held.session is session]:
            self.executor.stop_one(attempt, Stop.FENCE)

    def _must_leave(self, session: Session) -> bool:
        """Whether a handler still runs under the session; called by the lease thread."""
        running = list(self.executor.running.values())
        return any(held.session is session and held.started_at and held.outcome is None for held in running)

    # loops ----------------------------------------------------------------------------------------------------------

    async def _housekeeping(self) -> None:
        """Keep messages of running tasks quiet; give back what was received or claimed but does not get its turn."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            now = time.monotonic()
            quiet: list[str] = []
            for attempt in list(self.executor.running.values()):
                shown = max(attempt.shown_at, attempt.delivery.received_at)
                if now - shown > self.lanes.quiet_seconds:
                    attempt.shown_at = now
                    quiet.extend(attempt.delivery.replies)
            await self._bus.in_progress(quiet)
            for attempt in [a for a in self.executor.ready if now - a.claimed_at > _LONGEST_AHEAD_SECONDS]:
                self.executor.stop_one(attempt, Stop.RELEASE)
            for delivery in self.inbox.take_older(now - _LONGEST_WAIT_SECONDS):  # another worker may have a slot
                await self._bus.nak(delivery.replies, random.uniform(0.1, 1.0))

    async def _leave_when_bus_is_closed(self) -> None:
        await self._bus.closed.wait()
        raise ConfigurationError("the connection to NATS was closed for good; the process must be started again")

    async def _drain_when_empty(self) -> None:
        """Burst: end when the lanes are empty and nothing runs, twice in a row."""
        calm = 0
        while calm < 2:
            await asyncio.sleep(0.2)
            busy = self.executor.running or len(self.inbox) or await self.lanes.waiting() or await self._outbox_waits()
            calm = 0 if busy else calm + 1
        self.drain()

    async def _outbox_waits(self) -> bool:
        return bool((await self._claims.run(OUTBOX_WAITS, {"names": self._queues}))[0][0])

    # stop -----------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Receive no more, refuse what waits, finish what runs, give back the rest without consuming a try."""
        _log.info("draining: %d tasks held", len(self.executor.running))
        self.inbox.closed = True
        await self.lanes.leave()
        while waiting := self.inbox.take(1_000_000):
            for delivery in waiting:
                await self._bus.nak(delivery.replies, 0)
            await self.claimer.quiet.wait()
        await self.claimer.quiet.wait()
        for attempt in list(self.executor.ready):
            self.executor.stop_one(attempt, Stop.RELEASE)
        if not await self._all_settled(self._settings.grace.total_seconds()):
            for attempt in list(self.executor.running.values()):
                self.executor.stop_one(attempt, Stop.RELEASE)
            if not await self._all_settled(2.0):
                for attempt in list(self.executor.running.values()):
                    self.executor.abandon(attempt)
                await self._all_settled(2.0)
        await self.sessions.close()

    async def _all_settled(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while self.executor.running:
                    self.claimer.has_room.clear()
                    await self.claimer.has_room.wait()
                await self.settler.flushed()
        except TimeoutError:
            return False
        return True

    async def _close(self) -> None:
        await self._presence.stop()
        if self.sessions.keeper is not None:
            await asyncio.to_thread(self.sessions.keeper.stop)
        self.executor.close()
        await self._claims.close()
        await self._settles.close()
