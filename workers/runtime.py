"""The worker: puts the pieces together, in one task group, and takes them apart in the right order.

lanes → inbox → claimer → executor → settler → ack
                   sessions + lease thread
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

from dispatcher.app import Dispatcher
from dispatcher.bus import Bus
from dispatcher.cancelling import cancel_all
from dispatcher.database import BY_INDEX, Database
from dispatcher.errors import ConfigurationError
from dispatcher.metrics import WorkerMetrics
from dispatcher.settings import Settings
from dispatcher.streams.config import StreamsConfig
from dispatcher.subjects import Subjects
from dispatcher.task import TaskType
from state.machine import State
from state.registry import OUTBOX_WAITS
from workers.attempt import Attempt, Stop
from workers.capture import capture
from workers.card import Card
from workers.claimer import Claimer
from workers.control import Control, Patience
from workers.executor import Executor
from workers.holdings import Holdings
from workers.housekeeping import keep_house
from workers.inbox import Inbox
from workers.inputs import Inputs
from workers.lanes import Lanes
from workers.lease import LeaseKeeper
from workers.leaving import Leaving
from workers.measure import Measure
from workers.pace import Pace
from workers.presence import Presence
from workers.processes import Processes
from workers.registration import register
from workers.session import Session
from workers.sessions import Sessions
from workers.settler import Settler

__all__ = ["Worker", "default_name"]

_log = logging.getLogger("dispatcher.worker")

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
        app.adopt(settings)
        self.boot_id: UUID = uuid4()
        self.name = name or default_name()
        self._subjects = Subjects(settings.namespace)
        self._claims = Database(settings, "dispatcher worker claim", **BY_INDEX)
        self._settles = Database(settings, "dispatcher worker settle", **BY_INDEX)
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
        self.must_restart = False
        """Whether it drained because too many handlers do not come back: only a new process gets rid of them."""
        self._draining = asyncio.Event()
        self._patience = Patience()
        self._card = Card(self.name, self.boot_id, queues)

    def drain(self) -> None:
        """Orderly stop: take nothing new, finish what runs within the grace time, give back the rest."""
        self._draining.set()

    def stop(self) -> None:
        """Drain without grace: what runs is given back now, also in a drain that has begun."""
        self._patience.end()
        self.drain()

    async def run(self) -> None:
        """Work until drained.  Raises ``ConfigurationError`` or ``SchemaError`` before anything is taken."""
        types, queue_names = await register(self._app, self.lanes, self._claims, self._queues)
        self._types.update(types)
        self._queue_names.update(queue_names)
        async with self._app.worker_life():
            if self._settings.log_lines:
                capture.start()
            try:
                await self._work()
            finally:
                if self._settings.log_lines:
                    capture.stop()

    async def _work(self) -> None:
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
                        "housekeeping": keep_house(self._bus, self.lanes, self.inbox, self.executor),
                        "bus": self._leave_when_bus_is_closed(),
                    }.items()
                ]
                await self.lanes.subscribe(self.inbox)
                self.ready.set()
                if self._burst:
                    background.append(group.create_task(self._drain_when_empty()))
                await self._draining.wait()
                await self._leaving.drain(self._patience, self._settings.grace.total_seconds())
                await self.sessions.close()
                await cancel_all(background)
        finally:
            await self._close()

    def _build(self) -> None:
        self.inbox = Inbox(self._bus, self._unreadable, self._may_wait)
        self.sessions = Sessions(self._settings, self._claims, self.name, self.boot_id)
        self.settler = Settler(self._settles, self._bus, self._subjects, self.sessions, self._settled)
        self._inputs = Inputs(Database(self._settings, "dispatcher worker inputs", **BY_INDEX))
        self.executor = Executor(
            self.pace.slots, self._queue_names, self._settings, self._app.resources, self.settler.finished,
            self.settler.progress, self._too_many_stuck, self._inputs,
        )  # fmt: skip
        if any(kind.in_process for kind in self._types.values()):
            self.executor.processes = Processes(
                self._app, self._settings, self._queue_names, self.settler.progress, self._settings.log_format
            )
        self.sessions.keeper = LeaseKeeper(self._settings, self.boot_id, self._cancel_in, self._lost, self._must_leave)
        self.claimer = Claimer(
            self._claims, self._bus, self.inbox, self.sessions, self._types, self.name,
            self._room, self._start, self.executor.running, self.settler.tell,
        )  # fmt: skip
        self._presence = Presence(
            self._bus, self._subjects, self.describe,
            Holdings(self.executor, self.inbox, self.claimer, self._types, self._queue_names).answer,
            lambda: self.pace.want + self.claimer.away, lambda: (self.inbox.messages, self.inbox.tasks), self._cancel,
            Control(self._bus, self.name, self.boot_id, self.drain, self.stop).asked,
        )  # fmt: skip
        self._leaving = Leaving(self.lanes, self.inbox, self.claimer, self.executor, self.settler)
        self._measure.watch(self.executor, self.inbox, self.claimer, self._presence)

    def is_ready(self) -> dict[str, Any]:
        """What ``/readyz`` shows: ready is who is connected and receives tasks."""
        ready = self.ready.is_set() and not self._draining.is_set() and self._bus.connected
        return {"ready": ready, "nats": self._bus.connected, "draining": self._draining.is_set()}

    def describe(self) -> dict[str, Any]:
        """What ``dispatcher workers list`` shows."""
        return self._card.now(
            slots=self.pace.slots,
            running=len(self.executor.running),
            processes=len(self.executor.processes.pids) if self.executor.processes else 0,
            executing=self.executor.executing,
            received=len(self.inbox),
            draining=self._draining.is_set(),
        )

    # called by the pieces -------------------------------------------------------------------------------------------

    async def _unreadable(self, message: Any, why: str) -> None:
        await self.claimer.unreadable(message, why)

    def _room(self) -> int:
        return self.pace.slots + self.pace.ahead - len(self.executor.running)

    def _may_wait(self) -> int:
        """Unclaimed messages that may wait here: what the leader was told, less what is held, and a quarter more.

        The server gives each message to any worker: without some room for chance, one refuses what another has to take.
        """
        running = len(self.executor.running)
        if running >= self.pace.slots and time.monotonic() - self._settled_at > _STUCK_SECONDS:
            return 0  # every slot is busy for long: another worker may be free
        want = max(self.pace.want, self._presence.announced)
        return want + want // 4 - running

    def _start(self, attempts: list[Attempt]) -> None:
        if not self.executor.running:
            self.pace.resume()
        self.executor.submit(attempts)
        asyncio.get_running_loop().call_soon(self._measure.claimed, attempts)  # after the handlers' first steps

    def _settled(self, attempts: list[Attempt], accepted: Mapping[UUID, State]) -> None:
        self._measure.settled(attempts, accepted)
        self._settled_at = time.monotonic()
        for attempt in attempts:
            if self.executor.running.get(attempt.task_id) is attempt:
                del self.executor.running[attempt.task_id]
        self.pace.settled(len(attempts), more=bool(len(self.inbox) or self.executor.ready))
        self.claimer.has_room.set()

    def _too_many_stuck(self) -> None:
        _log.critical("more handlers than slots run over their limit and do not come back; this worker must restart")
        self.must_restart = True
        self.drain()

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

    async def _leave_when_bus_is_closed(self) -> None:
        await self._bus.closed.wait()
        raise ConfigurationError("the connection to NATS was closed for good; the process must be started again")

    async def _drain_when_empty(self) -> None:
        await self._leaving.when_empty(self._outbox_waits)
        self.drain()

    async def _outbox_waits(self) -> bool:
        return bool((await self._claims.run(OUTBOX_WAITS, {"names": self._queues}))[0][0])

    async def _close(self) -> None:
        await self._presence.stop()
        if self.sessions.keeper is not None:
            await asyncio.to_thread(self.sessions.keeper.stop)
        await self.executor.close()
        await self._inputs.close()
        await self._claims.close()
        await self._settles.close()
