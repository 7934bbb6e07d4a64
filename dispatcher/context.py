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
from typing import Any, Protocol
from uuid import UUID

from dispatcher.errors import DispatcherError
from dispatcher.lifecycle import Resource, ResourceNotOpen

__all__ = ["Context", "NoContext", "Running", "context", "current"]


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
