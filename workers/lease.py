"""The lease thread: renews this worker's sessions where no handler can block it, and fences when it cannot.

Deadlines are counted from before a renewal was sent, by the monotonic clock; PostgreSQL decides by its own.  Two
margins before the end the handlers are told to stop, one margin before it a process that still runs a plain function
leaves: from then on another worker may run the same task.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from uuid import UUID

import psycopg

from dispatcher.database import BlockingDatabase
from dispatcher.errors import ConfigurationError
from dispatcher.settings import Settings
from state.sessions import RENEW
from workers.session import Session

__all__ = ["LeaseKeeper"]

_log = logging.getLogger("dispatcher.lease")

_EXIT_CODE = 70


class LeaseKeeper:
    """Callbacks are called in the event loop: ``cancel(session, task, attempt)`` and ``lost(session)``."""

    def __init__(
        self,
        settings: Settings,
        boot_id: UUID,
        cancel: Callable[[Session, UUID, int], None],
        lost: Callable[[Session], None],
        must_leave: Callable[[Session], bool],
    ) -> None:
        self._boot_id = boot_id
        self._cancel, self._lost, self._must_leave = cancel, lost, must_leave
        self._lease = settings.lease.total_seconds()
        self._margin = min(2.0, self._lease / 5)
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Condition()
        self._sessions: dict[Session, float] = {}
        self._stopped = False
        limit = f"{max(200, int(self._margin * 1000))}ms"
        self._database = BlockingDatabase(settings, "dispatcher worker lease", statement_timeout=limit)
        self._threads = [
            threading.Thread(target=self._run, name="dispatcher-lease", daemon=True),
            threading.Thread(target=self._guard, name="dispatcher-fence", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def watch(self, session: Session) -> None:
        """Keep renewing ``session``, first after a third of the lease."""
        with self._wake:
            self._sessions[session] = time.monotonic() + self._lease / 3
            self._wake.notify_all()

    def forget(self, session: Session) -> None:
        """The session is closed, or may end."""
        with self._wake:
            self._sessions.pop(session, None)

    def stop(self) -> None:
        """End the thread; sessions that are still watched end with their lease."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(timeout=2)

    def _run(self) -> None:
        while True:
            with self._wake:
                if self._stopped:
                    break
                if not self._sessions:
                    self._database.close()
                    self._wake.wait()
                    continue
                session, at = min(self._sessions.items(), key=lambda item: item[1])
                pause = at - time.monotonic()
                if pause > 0:
                    self._wake.wait(pause)
                    continue
            self._renew(session)
        self._database.close()

    def _renew(self, session: Session) -> None:
        sent = time.monotonic()
        try:
            rows = self._database.run(RENEW, {"session": session.id, "boot": self._boot_id})
        except (psycopg.Error, ConfigurationError) as error:
            self._database.close()
            self._failed(session, str(error).strip().split("\n")[0])
            return
        if not rows:
            self.forget(session)
            _log.error("session %d was rescued; its handlers are stopped", session.id)
            self._call(self._lost, session)
            return
        session.deadline = sent + self._lease
        self._again(session, sent + self._lease / 3)
        for _, task_id, attempt in rows:
            if task_id is not None:
                self._call(self._cancel, session, task_id, attempt)

    def _failed(self, session: Session, why: str) -> None:
        """The database did not answer: try again soon; the fence watches the deadline meanwhile."""
        left = session.deadline - time.monotonic()
        _log.warning("lease not renewed, %.1f s left: %s", left, why)
        if left <= 0 and not self._must_leave(session):
            self.forget(session)
            return
        self._again(session, time.monotonic() + random.uniform(0.05, min(0.5, self._margin / 2)))

    def _guard(self) -> None:
        """The fence: a thread that asks nobody, so that no connection that hangs can keep it from acting in time."""
        while True:
            with self._wake:
                if self._stopped:
                    return
                ends = [session.deadline for session in self._sessions]
                until = min(ends) - 2 * self._margin - time.monotonic() if ends else None
                if until is None or until > 0:
                    self._wake.wait(until)
                    continue
                late = [
                    session for session in self._sessions if session.deadline - time.monotonic() <= 2 * self._margin
                ]
            for session in late:
                self._fence(session)
            time.sleep(self._margin / 10)

    def _fence(self, session: Session) -> None:
        """Two margins before the end stop the handlers, one margin before it leave if one still runs."""
        now = time.monotonic()
        if not session.lost:
            session.lost, session.fenced_at = True, now
            _log.error("the lease of session %d cannot be renewed in time; its handlers are stopped", session.id)
            self._call(self._lost, session)
        # a process that was frozen wakes up long after the end: its coroutines still get a moment to be cancelled
        due = session.deadline - now <= self._margin and now - session.fenced_at >= self._margin / 2
        if due and self._must_leave(session):
            _log.critical("a handler still runs at the end of the lease; this process leaves")
            os._exit(_EXIT_CODE)

    def _again(self, session: Session, at: float) -> None:
        with self._wake:
            if session in self._sessions:
                self._sessions[session] = at

    def _call(self, function: Callable[..., None], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)
