"""Waiting for results, pushed: one thread with one NATS and one database connection serves every wait of an app.

A wait is registered first and looked up once after that, so that no announcement falls between.  Everything waited for
is looked up again when the NATS connection was away and, as insurance, every 30 seconds while anybody waits.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from concurrent.futures import Future, InvalidStateError
from typing import Any
from uuid import UUID

import psycopg

from dispatcher.bus import Bus, Message
from dispatcher.database import Database, Transient, pause_before_retry
from dispatcher.dberrors import translated
from dispatcher.errors import BusError, ConfigurationError, DispatcherError, TaskNotFound
from dispatcher.handle import Outcome
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects
from state.machine import FINAL
from state.outcomes import OUTCOMES

__all__ = ["Waiting"]

_log = logging.getLogger("dispatcher.waiting")
_RECORD = 17
_BATCH = 1000
_FINAL = frozenset(int(state) for state in FINAL)
_BACKSTOP = 30.0

_CLOSED = "the app was closed while a task was waited for"


class Waiting:
    """The waits of one app.  Safe to use from any thread; ``usable`` is false after it broke, was closed or forked."""

    def __init__(self, settings: Settings, schema: str) -> None:
        if not settings.nats_url:
            raise ConfigurationError("waiting for results needs NATS: set DISPATCHER_NATS_URL or NATS_URL")
        if not settings.database_url:
            raise ConfigurationError("waiting for results needs the database: set DISPATCHER_DATABASE_URL")
        self._settings = settings
        self._subject = Subjects(settings.namespace).settled
        self._database = Database(settings, "dispatcher-wait")
        self._database.schema = schema
        self._waits: dict[bytes, set[Future[Outcome]]] = {}
        self._due: set[bytes] = set()
        self._listens = self._looks = False
        self._pid = os.getpid()
        self._broken = False
        self._loop = asyncio.new_event_loop()
        self._work = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="dispatcher-wait", daemon=True)
        self._parts: list[asyncio.Task[None]] = []
        self._thread.start()
        atexit.register(_close_at_exit, weakref.ref(self))

    @property
    def usable(self) -> bool:
        """Whether waits can be added."""
        return not self._broken and self._pid == os.getpid()

    @property
    def calm(self) -> bool:
        """Whether it listens, and has looked at everything it should: what ends from now on is heard of, not found."""
        return self._listens and not self._due and not self._looks

    def watch(self, task_id: UUID) -> Future[Outcome]:
        """A future with the outcome; fails with ``TaskNotFound`` at once when there is no such (committed) task."""
        future: Future[Outcome] = Future()
        try:
            self._loop.call_soon_threadsafe(self._add, task_id.bytes, future)
        except RuntimeError:
            future.set_exception(DispatcherError(_CLOSED))
        return future

    def close(self) -> None:
        """End the thread and its connections; open waits fail."""
        if self._pid != os.getpid() or self._broken:
            return
        self._broken = True
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(timeout=5)

    # everything below runs in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        error: BaseException = DispatcherError(_CLOSED)
        try:
            self._main = self._loop.create_task(self._serve())
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            error = group.exceptions[0]
            _log.warning("waiting for results stopped: %s", error)
        finally:
            self._broken = True
            for key in list(self._waits):
                self._settle(key, error)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _stop(self) -> None:
        """Fail every wait, then end; asked again, since ``asyncio.wait_for`` of Python 3.11 can lose a cancellation."""
        for key in list(self._waits):
            self._settle(key, DispatcherError(_CLOSED))
        if self._main is not None and not self._main.done():
            for task in (self._main, *self._parts):
                task.cancel()
            self._loop.call_later(0.1, self._stop)

    async def _serve(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._parts = [group.create_task(part) for part in (self._listen(), self._look(), self._backstop())]
        finally:
            await self._database.close()

    async def _listen(self) -> None:
        bus = await Bus.connect(self._settings, name="dispatcher-wait")
        try:
            bus.on_reconnect.append(self._look_at_all)
            await bus.subscribe(self._subject, self._announced)
            self._look_at_all()
            self._listens = True
            await bus.closed.wait()
            raise BusError(503, 0, "the connection of the waiting thread was closed")
        finally:
            await bus.close()

    async def _announced(self, message: Message) -> None:
        data = message.data
        for start in range(0, len(data) - _RECORD + 1, _RECORD):
            key = bytes(data[start : start + 16])
            if key in self._waits:
                self._due.add(key)
        if self._due:
            self._work.set()

    async def _look(self) -> None:
        tries = 0
        while True:
            await self._work.wait()
            self._work.clear()
            self._looks = True
            keys = [key for key in self._due if key in self._waits]
            self._due.clear()
            for start in range(0, len(keys), _BATCH):
                batch = keys[start : start + _BATCH]
                try:
                    await self._read(batch)
                    tries = 0
                except Transient as error:
                    _log.warning("the database is away, trying again: %s", error)
                    await self._database.close()
                    self._due.update(batch)
                    self._work.set()
                    tries += 1
                    await pause_before_retry(tries)
                except (psycopg.Error, ConfigurationError) as error:
                    known = translated(error, self._database.schema)
                    for key in batch:
                        self._settle(key, known or error)
            self._looks = False

    async def _read(self, keys: list[bytes]) -> None:
        rows = await self._database.run(OUTCOMES, {"ids": [UUID(bytes=key) for key in keys]})
        there = {row[0].bytes: Outcome(*row[1:]) for row in rows}
        for key in keys:
            outcome = there.get(key)
            if outcome is None:
                self._settle(key, TaskNotFound(UUID(bytes=key)))
            elif outcome.state in _FINAL:
                self._settle(key, outcome)

    async def _backstop(self) -> None:
        while True:
            await asyncio.sleep(_BACKSTOP)
            self._look_at_all()

    def _look_at_all(self) -> None:
        if self._waits:
            self._due.update(self._waits)
            self._work.set()

    def _add(self, key: bytes, future: Future[Outcome]) -> None:
        self._waits.setdefault(key, set()).add(future)
        future.add_done_callback(lambda _: self._forget(key, future))
        self._due.add(key)
        self._work.set()

    def _forget(self, key: bytes, future: Future[Outcome]) -> None:
        """A wait timed out or was cancelled; may be called from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._remove, key, future)
        except RuntimeError:
            return  # the loop has ended, and everything with it

    def _remove(self, key: bytes, future: Future[Outcome]) -> None:
        futures = self._waits.get(key)
        if futures is not None:
            futures.discard(future)
            if not futures:
                del self._waits[key]

    def _settle(self, key: bytes, outcome: Outcome | BaseException) -> None:
        for future in self._waits.pop(key, ()):
            try:
                if isinstance(outcome, BaseException):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
            except InvalidStateError:
                continue  # given up at the same moment


def _close_at_exit(reference: weakref.ref[Any]) -> None:
    waiting = reference()
    if waiting is not None:
        waiting.close()
