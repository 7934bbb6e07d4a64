"""What a running handler may ask and say: ``dispatcher.context()``.

A context variable, not a parameter, so that handlers keep their own signatures.  The worker sets it; in a unit test a
handler that asks for it outside a task gets a clear error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from uuid import UUID

from dispatcher.errors import DispatcherError

__all__ = ["Context", "NoContext", "context", "current"]


class NoContext(DispatcherError):
    """``context()`` was called outside a running task."""


class Context:
    """The attempt that is running.  Safe to use from the handler's thread or task."""

    __slots__ = (
        "_asked",
        "_report",
        "_seen",
        "_signal",
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

    @property
    def cancelled(self) -> bool:
        """Whether the attempt was asked to stop: a plain function should look at it from time to time and return."""
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
    def obeyed(self) -> bool:
        """For the worker: whether the handler saw that it should stop."""
        return self._seen

    def ask_to_stop(self) -> None:
        """For the worker: set :attr:`cancelled`."""
        self._asked = True
        if self._signal is not None:
            self._signal.set()


current: ContextVar[Callable[[], Context]] = ContextVar("dispatcher_context")
"""Set by the worker.  A function: most handlers never ask, and building a context costs more than asking."""


def context() -> Context:
    """The context of the task that is running here.  Raises ``NoContext`` outside a task."""
    try:
        get = current.get()
    except LookupError:
        raise NoContext("no task is running here: context() works inside a handler that a worker started") from None
    return get()
