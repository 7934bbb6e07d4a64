"""Opens a session for each busy period, hands it to the lease thread, closes it when the worker is idle."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from dispatcher.database import Database, Transient
from dispatcher.settings import Settings
from state import sessions
from workers.lease import LeaseKeeper
from workers.session import Session

__all__ = ["Sessions"]


class Sessions:
    """At most one session takes new work; doubtful ones only finish what they have."""

    def __init__(self, settings: Settings, database: Database, worker: str, boot_id: UUID) -> None:
        self._database, self._worker, self._boot_id = database, worker, boot_id
        self._lease = settings.lease.total_seconds()
        self.idle_after = min(5.0, self._lease / 4)
        """Seconds without work after which the session is closed and the database hears nothing more."""
        self._current: Session | None = None
        self.keeper: LeaseKeeper | None = None
        self._last_used = 0.0
        self._opening = asyncio.Lock()

    async def current(self) -> Session:
        """The session for new claims.  Raises one of ``Transient``."""
        async with self._opening:
            self._last_used = time.monotonic()
            session = self._current
            if session is None or session.doubtful or session.lost:
                sent = time.monotonic()
                params = {"worker": self._worker, "boot": self._boot_id, "lease": self._lease}
                [(number,)] = await self._database.run(sessions.OPEN, params)
                session = self._current = Session(number, sent + self._lease)
                assert self.keeper is not None
                self.keeper.watch(session)
            return session

    def doubt(self, session: Session) -> None:
        """A claim under it has an unknown outcome: no more work; it is left to end once what it holds is settled."""
        session.doubtful = True
        self.finished(session)

    def finished(self, session: Session) -> None:
        """Something of ``session`` was settled: a doubtful one that holds nothing more is not renewed any longer."""
        self._last_used = time.monotonic()
        if (
            (session.doubtful or session.lost)
            and session.held <= 0
            and not session.claiming
            and self.keeper is not None
        ):
            self.keeper.forget(session)

    async def close_when_idle(self) -> None:
        """Run for ever: close the session after some seconds without work."""
        while True:
            await asyncio.sleep(self.idle_after / 2)
            if time.monotonic() - self._last_used >= self.idle_after:
                await self.close()

    async def close(self) -> None:
        """Close the session if it holds nothing."""
        async with self._opening:
            session = self._current
            if session is None or session.held > 0 or session.claiming:
                return
            self._current = None
            if self.keeper is not None:
                self.keeper.forget(session)
            if session.doubtful or session.lost:
                return
            try:
                await self._database.run(sessions.CLOSE, {"session": session.id, "batches": session.done_batches})
            except Transient:
                return  # it ends with its lease
