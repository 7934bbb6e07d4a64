"""The guarded wake: the leader sleeps without asking, and no committed work is ever slept over.

A NOTIFY in every transaction serialises all commits of the database (2,400 instead of 10,000 a second with 8 clients,
reference measurement).  So writers try to *share* an advisory lock; only if they cannot, they notify.  The leader holds
it exclusively while it sleeps:

* a writer that got its share is seen by the look that follows the grant, since locks are released after the commit;
* a writer that did not get it has its NOTIFY queued in the same commit;
* a request that waits for the grant already makes new shares fail, so the hand-over is on the safe side.

The grant is awaited beside the notifications: one writer that keeps its transaction open must not stall the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from dispatcher.database import connect
from dispatcher.settings import Settings
from state.locks import SLEEP, advisory_key

__all__ = ["Sleep"]


class Sleep:
    """Owned by the leader.  ``hints`` collects the names of tables that writers announced."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self._name = settings, name
        self._key = advisory_key(settings.db_schema, SLEEP)
        self._listener: AsyncConnection[TupleRow] | None = None
        self._locker: AsyncConnection[TupleRow] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._granting: asyncio.Task[None] | None = None
        self.event = asyncio.Event()
        """Set by a notification, a grant, or anybody in this process who wants the leader to look."""
        self.hints: set[str] = set()
        self.on_entry: Callable[[str], Awaitable[bool]] | None = None
        """Asked to see to a single outbox entry, ``<lane>:<task>:<attempt>:<dispatch>``, that a notification told of;
        if it did the hint is ``entry``."""

    async def start(self, elected: AsyncConnection[TupleRow]) -> None:
        """Listen on the connection that won the election: whoever loses it stops leading.

        Raises ``psycopg.OperationalError``.  The connection stays the caller's to close.
        """
        self._listener = elected
        self._locker = await connect(self._settings, self._name)
        await self._listener.execute(f'LISTEN "{self._settings.db_schema}.wake"')
        self._listening = asyncio.create_task(self._listen(self._listener), name="relay-listen")

    async def _listen(self, connection: AsyncConnection[TupleRow]) -> None:
        async for notification in connection.notifies():
            table, _, entry = notification.payload.partition(":")
            seen_to = entry and self.on_entry and await self.on_entry(entry)
            self.hints.add("entry" if seen_to else table)
            self.event.set()

    @property
    def holds(self) -> bool:
        """Whether writers notify: the lock is held."""
        return self._granting is not None and self._granting.done() and not self._granting.cancelled()

    def request(self) -> None:
        """Ask for the lock; :attr:`event` is set at the grant.  Nothing happens if it is held or asked for already."""
        if self._granting is None:
            self._granting = asyncio.create_task(self._grant(), name="relay-sleep-lock")

    async def _grant(self) -> None:
        assert self._locker is not None
        await self._locker.execute(f"SELECT pg_advisory_lock({self._key[0]}, {self._key[1]})")
        self.hints.add("grant")  # whoever wrote just before it did not notify: every table has to be looked at
        self.event.set()

    async def release(self) -> None:
        """Give the lock back, so that writers stop notifying: we are awake and will look again by ourselves."""
        granting = self._granting
        if granting is None:
            return
        if not granting.done():
            return  # the request is on its way; it is released after the grant
        self._granting = None
        granting.result()
        assert self._locker is not None
        await self._locker.execute(f"SELECT pg_advisory_unlock({self._key[0]}, {self._key[1]})")

    async def wait(self, seconds: float) -> None:
        """Sleep until something happens or the time is over.  Raises what broke a connection: the leader steps down."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self.event.wait()
        self.event.clear()
        self.check()

    def check(self) -> None:
        """Raise if the listening or the locking connection broke."""
        for task in (self._listening, self._granting):
            if task is not None and task.done():
                task.result()
        if self._listening is not None and self._listening.done():
            raise ConnectionError("the listening connection ended")

    async def stop(self) -> None:
        """Stop listening and close the locking connection, which gives the sleep lock back."""
        for task in (self._listening, self._granting):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
        self._listening = self._granting = None
        if self._locker is not None:
            await self._locker.close()
        self._listener = self._locker = None
