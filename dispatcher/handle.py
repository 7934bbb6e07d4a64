"""The handle on one task: its id, waiting for its end, its result."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Generic, NamedTuple, TypeVar, overload
from uuid import UUID

from dispatcher.errors import (
    NotCommitted,
    NotFinished,
    OptionError,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    WaitTimeout,
)
from dispatcher.installation import Installation
from dispatcher.tx import AsyncTx, SyncTx, is_async, run, run_async
from state.machine import FINAL, Reason, State
from state.outcomes import OUTCOMES

__all__ = ["Outcome", "Task"]

R_co = TypeVar("R_co", covariant=True)


class Outcome(NamedTuple):
    """How a task stands: numbers of :class:`~state.machine.State` and ``Reason``, stored result, error text."""

    state: int
    reason: int | None
    result: bytes | None
    error: str | None


class Task(Generic[R_co]):
    """One task in the database.  Made by ``enqueue``, or by ``handle(id)`` for a task that is already there."""

    __slots__ = ("_decode", "_home", "_is_open", "created", "id")

    def __init__(
        self,
        id: UUID,
        *,
        created: bool,
        home: Installation,
        decode: Callable[[bytes], Any],
        is_open: Callable[[], bool] | None = None,
    ) -> None:
        self.id = id
        self.created = created
        """False: the key already had its task, and this is it."""
        self._home = home
        self._decode = decode
        self._is_open = is_open

    async def wait(self, timeout: float | timedelta | None = None) -> R_co:
        """The handler's return value, as soon as the task has ended; ``timeout`` in seconds or as a timedelta.

        Pushed, not polled: workers announce what they settled over NATS, and the result is then read once.  Raises
        ``TaskFailed`` (``TaskCancelled``) when it ended otherwise, ``WaitTimeout``, ``NotCommitted`` inside the
        transaction that created it, ``TaskNotFound`` when that was rolled back.
        """
        import asyncio  # a service that only enqueues does not need it

        seconds = _seconds(timeout)
        for again in (True, False):
            was_open = self._open()
            future = self._home.watch(self.id)
            try:
                async with asyncio.timeout(seconds):
                    value: R_co = self._value(await asyncio.wrap_future(future))
                    return value
            except TimeoutError:
                raise WaitTimeout(self.id, seconds or 0.0) from None
            except TaskNotFound:
                self._explain_absence(was_open and again)
        raise TaskNotFound(self.id)

    def wait_blocking(self, timeout: float | timedelta | None = None) -> R_co:
        """:meth:`wait` for code without an event loop; do not call it on one."""
        seconds = _seconds(timeout)
        for again in (True, False):
            was_open = self._open()
            future = self._home.watch(self.id)
            try:
                value: R_co = self._value(future.result(seconds))
                return value
            except TimeoutError:
                future.cancel()
                raise WaitTimeout(self.id, seconds or 0.0) from None
            except TaskNotFound:
                self._explain_absence(was_open and again)
        raise TaskNotFound(self.id)

    @overload
    def result(self, tx: SyncTx, /) -> R_co: ...
    @overload
    def result(self, tx: AsyncTx, /) -> Coroutine[Any, Any, R_co]: ...
    def result(self, tx: Any, /) -> Any:
        """The handler's return value, read now with the caller's session.

        Raises ``NotFinished`` when there is none yet, ``TaskFailed`` (``TaskCancelled``), ``TaskNotFound``.
        """
        if is_async(tx):
            return self._result_async(tx)
        return self._read(run(tx, OUTCOMES, {"ids": [self.id]}, self._home.schema))

    async def _result_async(self, tx: Any) -> Any:
        return self._read(await run_async(tx, OUTCOMES, {"ids": [self.id]}, self._home.schema))

    def _read(self, rows: list[tuple[Any, ...]]) -> Any:
        if not rows:
            raise TaskNotFound(self.id)
        outcome = Outcome(*rows[0][1:])
        if State(outcome.state) not in FINAL:
            raise NotFinished(self.id, State(outcome.state).label)
        return self._value(outcome)

    def _value(self, outcome: Outcome) -> Any:
        if outcome.state == State.SUCCEEDED:
            return self._decode(bytes(outcome.result)) if outcome.result is not None else None
        reason = Reason(outcome.reason).label if outcome.reason is not None else None
        error = TaskCancelled if outcome.state == State.CANCELLED else TaskFailed
        raise error(self.id, reason, outcome.error)

    def _open(self) -> bool:
        return self._is_open is not None and self._is_open()

    def _explain_absence(self, may_just_have_committed: bool) -> None:
        """The row is not visible to others: still open, committed a moment after the look, or never committed."""
        if self._open():
            raise NotCommitted(self.id) from None
        if not may_just_have_committed:
            raise TaskNotFound(self.id) from None

    def __repr__(self) -> str:
        return f"Task({str(self.id)!r}, created={self.created})"

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Task) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)


def _seconds(timeout: float | timedelta | None) -> float | None:
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 0):
        raise OptionError(f"timeout must be seconds >= 0 or a timedelta, not {timeout!r}")
    return seconds
