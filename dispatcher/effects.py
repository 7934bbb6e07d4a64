"""A handler's own transactions: one that ends the task with what it wrote, and memoised steps.

Both are fenced: the last statement before the commit writes only while this attempt is still this worker's.  When it is
not, ``StaleAttempt`` is raised inside the block and everything rolls back.  When the answer to the commit is lost, the
row is read again; nothing is ever repeated on a guess.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar
from uuid import UUID

from dispatcher.effect_sessions import open_async, open_sync
from dispatcher.errors import DispatcherError, StaleAttempt
from dispatcher.installation import Installation
from dispatcher.passing import encode_any
from dispatcher.payload import Payload
from dispatcher.tx import run, run_async
from state.effects import COMPLETE, COMPLETED, LOCK, STEP_OPEN, STEP_WRITE
from state.sql import Sql

__all__ = ["Step", "Transaction", "Work"]

_log = logging.getLogger("dispatcher.effects")
S = TypeVar("S")
_Rows = list[tuple[Any, ...]]
_LOOK_SECONDS = 15


@dataclass(slots=True, eq=False)
class Work:
    """The claimed attempt that a handler's transactions write for, and whether one of them has ended it."""

    home: Installation
    payload: Payload
    task_id: UUID
    attempt: int
    session: int
    completed: bool = False
    """A transaction of the handler has ended the attempt: there is nothing left to settle."""
    suspended: bool = False
    """It has ended by waiting for children."""
    result: Any = None

    def params(self, **more: Any) -> dict[str, Any]:
        """The guard's parameters."""
        return {"id": self.task_id, "attempt": self.attempt, "session": self.session, **more}

    def stale(self) -> StaleAttempt:
        """What is raised when the guard refuses."""
        return StaleAttempt(self.task_id, self.attempt)


class _Block(Generic[S]):
    """Opens a session, asks before and after the body, commits, and finds out what a lost commit has done."""

    _step = ""

    def __init__(self, work: Work, database: Any) -> None:
        self._work, self._database = work, database
        self._stack: Any = None
        self.session: Any = None
        """The session or connection, inside the block."""

    def _before(self) -> tuple[Sql, Mapping[str, Any]] | None:
        return None

    def _opened(self, rows: _Rows) -> None:
        raise NotImplementedError

    def _after(self) -> tuple[Sql, Mapping[str, Any]] | None:
        raise NotImplementedError

    def _value(self) -> Any:
        return self.session

    def _written(self, rows: _Rows) -> None:
        return None

    def _done(self) -> None:
        return None

    async def __aenter__(self) -> S:
        self._refuse_second()
        self._stack = AsyncExitStack()
        try:
            self.session = await self._stack.enter_async_context(open_async(self._work.home, self._database))
            if first := self._before():
                self._opened(await run_async(self.session, *first, self._work.home.schema))
        except BaseException:
            await self._stack.__aexit__(*sys.exc_info())
            raise
        value: S = self._value()
        return value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            await self._stack.__aexit__(kind, error, trace)
            return
        try:
            if last := self._after():
                self._written(await run_async(self.session, *last, self._work.home.schema))
        except BaseException:
            await self._stack.__aexit__(*sys.exc_info())
            raise
        try:
            await self._stack.aclose()
        except Exception as failure:
            import asyncio  # a service that only enqueues does not need it

            if not await asyncio.to_thread(self._was_committed, failure):
                raise
        self._done()

    def __enter__(self) -> S:
        self._refuse_second()
        self._stack = ExitStack()
        try:
            self.session = self._stack.enter_context(open_sync(self._work.home, self._database))
            if first := self._before():
                self._opened(run(self.session, *first, self._work.home.schema))
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        value: S = self._value()
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        try:
            if last := self._after():
                self._written(run(self.session, *last, self._work.home.schema))
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        try:
            self._stack.close()
        except Exception as failure:
            if not self._was_committed(failure):
                raise
        self._done()

    def _refuse_second(self) -> None:
        if self._work.completed:
            raise DispatcherError(
                "this task has ended already: its transaction was committed; a handler has one transaction(), and its"
                " steps come before it"
            )

    def _was_committed(self, failure: Exception) -> bool:
        """After an error of the commit: wait until that transaction is over, and read what it did."""
        import psycopg

        from dispatcher.database import BlockingDatabase

        settings = self._work.home.settings
        if not settings.database_url:
            return False
        params = self._work.params(step=self._step)
        timeouts = {"lock_timeout": f"{_LOOK_SECONDS}s", "statement_timeout": f"{_LOOK_SECONDS}s"}
        database = BlockingDatabase(settings, "dispatcher handler look", **timeouts)
        database.schema = self._work.home.schema
        try:
            database.run(LOCK, params)
            [(ended, stepped)] = database.run(COMPLETED, params)
        except psycopg.Error as error:
            # still unknown: the handler fails, and its settle finds the row either way
            _log.warning("whether a commit has happened cannot be read: %s", str(error).split("\n")[0])
            return False
        finally:
            database.close()
        committed = bool(stepped if self._step else ended)
        if committed:
            _log.warning("the answer to a commit was lost, the commit has happened: %s", type(failure).__name__)
        return committed


class Transaction(_Block[S]):
    """``async with context().transaction() as session``: what is written here and the task's end are one commit."""

    def _after(self) -> tuple[Sql, Mapping[str, Any]]:
        work = self._work
        return COMPLETE, work.params(result=work.payload.encode_result(work.result))

    def _written(self, rows: _Rows) -> None:
        if not rows[0][0]:
            raise self._work.stale()

    def _done(self) -> None:
        self._work.completed = True


class Step(_Block["Step[S]"], Generic[S]):
    """``async with context().step("name") as step``: done once, whatever happens to the attempts.

    ``step.done`` says that an earlier attempt has committed it; then ``step.result`` is what that one left.  Otherwise
    do the work on ``step.session`` and set ``step.result`` (anything with a JSON form; ``None`` when not set).
    """

    def __init__(self, work: Work, name: str, database: Any) -> None:
        if not isinstance(name, str) or not 1 <= len(name) <= 200 or name.startswith("~"):
            raise DispatcherError("a step's name must be text of 1 to 200 characters that does not begin with '~'")
        super().__init__(work, database)
        self._step = name
        self.done = False
        """Whether an earlier attempt has finished the step."""
        self.result: Any = None
        """What the step leaves for later attempts."""

    def _value(self) -> Step[S]:
        return self

    def _before(self) -> tuple[Sql, Mapping[str, Any]]:
        return STEP_OPEN, self._work.params(step=self._step)

    def _opened(self, rows: _Rows) -> None:
        from pydantic_core import from_json

        [(ours, stored)] = rows
        if not ours:
            raise self._work.stale()
        if stored is not None:
            self.done, self.result = True, from_json(bytes(stored))

    def _after(self) -> tuple[Sql, Mapping[str, Any]] | None:
        if self.done:
            return None
        return STEP_WRITE, self._work.params(step=self._step, result=encode_any(self._work.payload, self.result))
