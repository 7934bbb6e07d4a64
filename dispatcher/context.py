"""What a running handler may ask and say: ``dispatcher.context()``.

A context variable, not a parameter, so that handlers keep their own signatures.  The worker sets it; in a unit test a
handler that asks for it outside a task gets a clear error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, overload
from uuid import UUID

from dispatcher.children import children, children_blocking
from dispatcher.compose import Composed
from dispatcher.effects import Step, Transaction, Work
from dispatcher.errors import DispatcherError
from dispatcher.lifecycle import Resource, ResourceNotOpen

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import AsyncConnectionPool, ConnectionPool
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
    from sqlalchemy.orm import Session, sessionmaker

__all__ = ["Context", "Fence", "NoContext", "Running", "context", "current"]

R = TypeVar("R")
_HANDED_OVER = "~handed over"


class Fence(NamedTuple):
    """What a receiver needs to refuse late writes: the task, and a number that only rises."""

    task_id: UUID
    attempt: int


class NoContext(DispatcherError):
    """``context()`` was called outside a running task."""


class Context:
    """The attempt that is running.  Safe to use from the handler's thread or task; the same in child processes."""

    __slots__ = (
        "_asked",
        "_hard_at",
        "_report",
        "_resources",
        "_seen",
        "_signal",
        "_soft_at",
        "_work",
        "attempt",
        "headers",
        "max_attempts",
        "queue",
        "task_id",
        "tries",
        "type",
    )

    def __init__(
        self,
        *,
        task_id: UUID,
        type: str,
        queue: str,
        attempt: int,
        tries: int,
        max_attempts: int,
        headers: dict[str, str],
        report: Callable[[float, str | None], None],
        resources: Mapping[str, Resource[Any]],
        soft_at: float | None = None,
        hard_at: float | None = None,
        work: Work | None = None,
    ) -> None:
        self.task_id = task_id
        """The task's id: stable over all attempts, so it can serve as an idempotency key towards other systems."""
        self.type = type
        """The name of the task type."""
        self.queue = queue
        self.attempt = attempt
        """The fencing token: it only rises; refuse work that carries a lower one than you have seen."""
        self.tries = tries
        """How many tries were used, this one included."""
        self.max_attempts = max_attempts
        self.headers = headers
        self._report = report
        self._resources = resources
        self._soft_at, self._hard_at = soft_at, hard_at
        self._asked = False
        self._signal: threading.Event | None = None
        self._seen = False
        self._work = work

    # effects exactly once -------------------------------------------------------------------------------------------

    @overload
    def transaction(self, database: AsyncEngine | async_sessionmaker[Any]) -> Transaction[AsyncSession]: ...
    @overload
    def transaction(self, database: Engine | sessionmaker[Any]) -> Transaction[Session]: ...
    @overload
    def transaction(self, database: AsyncConnectionPool[Any]) -> Transaction[psycopg.AsyncConnection[Any]]: ...
    @overload
    def transaction(self, database: ConnectionPool[Any]) -> Transaction[psycopg.Connection[Any]]: ...
    @overload
    def transaction(self) -> Transaction[Any]: ...
    def transaction(self, database: Any = None) -> Any:
        """``async with context().transaction() as session``: your writes and this task's success in one commit.

        Plain handlers write ``with``.  What is enqueued through ``session`` commits with it.  The result is what was
        given to :meth:`returns`.  ``database`` defaults to ``app.database(...)``, then to a psycopg connection by the
        settings.  Raises ``StaleAttempt`` at the end of the block, and rolls back, when the attempt is over.
        """
        return Transaction(self.work, database)

    def step(self, name: str, database: Any = None) -> Step[Any]:
        """``async with context().step("name") as step``: done once; see :class:`dispatcher.effects.Step`."""
        return Step(self.work, name, database)

    def returns(self, value: R) -> R:
        """The task's result, for a :meth:`transaction`: it must be known before the commit.  Gives it back."""
        self.work.result = value
        return value

    async def gather(self, name: str, *calls: Composed[R]) -> list[R]:
        """Spawn tasks and go on with their results, without holding a slot while they run.

        The handler is left at this line and **begins again from its start** when they have all ended: what comes
        before must bear that (use :meth:`step`).  ``name`` tells several calls in one handler apart.  Raises
        ``TaskFailed`` when not all of them succeeded.
        """
        return await children(self.work, name, calls)

    def gather_blocking(self, name: str, *calls: Composed[R]) -> list[R]:
        """:meth:`gather` for plain handlers."""
        return children_blocking(self.work, name, calls)

    async def hand_over(self, call: Composed[R]) -> R:
        """End with the result of another task: ``return await context().hand_over(other.call(1))``.

        ``return other.call(1)`` does the same.  Like :meth:`gather`, it begins the handler again at the end.
        """
        [result] = await self.gather(_HANDED_OVER, call)
        return result

    def hand_over_blocking(self, call: Composed[R]) -> R:
        """:meth:`hand_over` for plain handlers."""
        [result] = self.gather_blocking(_HANDED_OVER, call)
        return result

    @property
    def fence(self) -> Fence:
        """Task id and attempt, for systems outside that can refuse an older attempt than they have seen."""
        return Fence(self.task_id, self.attempt)

    @property
    def idempotency_key(self) -> str:
        """The same text in every attempt of this task and in no other task, for calls to other systems."""
        return f"{self.type}:{self.task_id}"

    @property
    def work(self) -> Work:
        """For the worker: what the transactions write for.  Raises ``NoContext`` where none can be opened."""
        if self._work is None:
            raise NoContext(
                "transaction(), step(), returns(), gather() and handing over need a task that a worker runs"
            )
        return self._work

    @property
    def completed(self) -> bool:
        """For the worker: whether a transaction of the handler has ended the task."""
        return self._work is not None and self._work.completed

    def progress(self, fraction: float, message: str | None = None) -> None:
        """Report how far the work is, 0 to 1; stored at most twice a second, the last value wins.

        Raises ``ValueError`` outside 0 to 1.
        """
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"progress must be between 0 and 1, not {fraction!r}")
        self._report(float(fraction), message)

    def resource(self, name: str) -> Any:
        """What the ``@app.resource`` of that name yielded here.  Raises ``ResourceNotOpen`` if there is none."""
        try:
            found = self._resources[name]
        except KeyError:
            raise ResourceNotOpen(f"the app has no resource {name!r}") from None
        return found.get()

    @property
    def cancelled(self) -> bool:
        """Whether the attempt was asked to stop: a plain function should look at it from time to time and return.

        Asked by a cancel, a stopping worker, the soft timeout or the timeout.
        """
        self._seen = self._seen or self._asked
        return self._asked

    def wait_cancelled(self, timeout: float) -> bool:
        """Like ``time.sleep(timeout)`` for plain functions, but returns ``True`` at once when asked to stop."""
        if self._signal is None:
            self._signal = threading.Event()
        if not self._asked:
            self._signal.wait(timeout)
        return self.cancelled

    @property
    def overdue(self) -> bool:
        """Whether the soft timeout has passed: tells it from a cancel."""
        return self._soft_at is not None and time.monotonic() >= self._soft_at

    @property
    def time_left(self) -> float | None:
        """Seconds until the attempt is ended, by its timeout or the task's deadline; ``None``: no limit."""
        return None if self._hard_at is None else max(0.0, self._hard_at - time.monotonic())

    @property
    def obeyed(self) -> bool:
        """For the worker: whether the handler saw that it should stop."""
        return self._seen

    def ask_to_stop(self, *, overdue: bool = False) -> None:
        """For the worker: set :attr:`cancelled`, and :attr:`overdue` whatever the clock of this process says."""
        if overdue:
            self._soft_at = 0.0
        self._asked = True
        if self._signal is not None:
            self._signal.set()


class Running(Protocol):
    """What the worker puts into :data:`current`: a function, because most handlers never ask for their context, and
    building one costs more than asking."""

    def __call__(self) -> Context:
        """The context, built when first asked for."""

    def log(self, record: logging.LogRecord) -> None:
        """Keep what the handler logged."""


current: ContextVar[Running] = ContextVar("dispatcher_context")
"""Set by the worker."""


def context() -> Context:
    """The context of the task that is running here.  Raises ``NoContext`` outside a task."""
    try:
        get = current.get()
    except LookupError:
        raise NoContext("no task is running here: context() works inside a handler that a worker started") from None
    return get()
