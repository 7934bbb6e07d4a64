"""``Dispatcher``: the registry of task types, and the questions and requests of an app.  No I/O by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from typing import Any, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload
from uuid import UUID

from dispatcher import attempt_log, status
from dispatcher.app_many import Many
from dispatcher.attempt_log import AttemptLog
from dispatcher.awaiting import written
from dispatcher.call import Call
from dispatcher.enqueue import enqueue_many
from dispatcher.errors import OptionError, UnknownTask
from dispatcher.explain.answer import Explanation
from dispatcher.flows import Flows
from dispatcher.handle import Task
from dispatcher.installation import Installation
from dispatcher.lifecycle import Lifecycle
from dispatcher.naming import importable
from dispatcher.options import TASK_CHECKS, TaskOptions, check_options
from dispatcher.payload import DEFAULT_LIMIT
from dispatcher.task import TaskType
from dispatcher.task_info import Answer, Event, Page, QueueInfo, TaskInfo
from dispatcher.tx import AsyncTx, SyncTx
from state.machine import State

__all__ = ["Dispatcher", "ListFilters"]

P = ParamSpec("P")
R = TypeVar("R")
Awaitably = Coroutine[Any, Any, R]


class ListFilters(TypedDict, total=False):
    """What ``Dispatcher.list`` can be narrowed by; a task must match all of it."""

    state: str | State | Iterable[str | State] | None
    queue: str | None
    type: str | None
    tag: str | None
    key: str | None
    created_after: datetime | None
    created_before: datetime | None
    error: str | None
    """Text in the error of failed and cancelled tasks, in any case."""
    limit: int
    cursor: str | None
    """``Page.next`` of the page before."""


class TaskDecorator(Protocol):
    """What ``@app.task(...)`` gives: async functions and plain ones are told apart by the type checker too."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> TaskType[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> TaskType[P, R, R]: ...


class Dispatcher(Lifecycle, Many):
    """An app: its task types by name.

    ``schema`` is the PostgreSQL schema of our tables (default: the setting ``DISPATCHER_DB_SCHEMA``); ``args_limit``
    and ``result_limit`` bound what one task may store, in bytes.
    """

    def __init__(
        self,
        name: str,
        *,
        schema: str | None = None,
        args_limit: int = DEFAULT_LIMIT,
        result_limit: int = DEFAULT_LIMIT,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise OptionError("a Dispatcher needs a name, for example Dispatcher('shop')")
        self.name = name
        self.task_types: dict[str, TaskType[Any, Any, Any]] = {}
        """Every registered task type by its stored name."""
        self.aliases: dict[str, TaskType[Any, Any, Any]] = {}
        """The same by older names."""
        super().__init__()
        self._home = Installation(schema)
        self._limits = (args_limit, result_limit)
        self.flows = Flows(self._home)
        """Questions and requests about chains, groups and graphs."""

    # registry -------------------------------------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> TaskType[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> TaskType[P, R, R]: ...
    @overload
    def task(self, /, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
    def task(self, function: Any = None, /, **options: Any) -> Any:
        """Register a function as a task type: ``@app.task`` or ``@app.task(queue=..., retry=..., ...)``.

        Raises ``OptionError`` for an unknown or illegal option and for a name that is taken.
        """
        checked = check_options(options, TASK_CHECKS)
        if function is None:
            return lambda function: self._register(function, checked)
        return self._register(function, checked)

    def _register(self, function: Any, options: dict[str, Any]) -> TaskType[Any, Any, Any]:
        if not _is_plain_or_async(function):
            raise OptionError(f"@task needs a plain or async function, not {function!r}")
        task_type: TaskType[Any, Any, Any] = TaskType(
            function, options.get("name") or _default_name(function), self._home, options, self._limits
        )
        for name in (task_type.name, *task_type.aliases):
            if name in self.task_types or name in self.aliases:
                raise OptionError(f"{name!r} is taken by another task type of {self.name!r}: give this one name=...")
        self.task_types[task_type.name] = task_type
        self.aliases.update(dict.fromkeys(task_type.aliases, task_type))
        return task_type

    def task_type(self, name: str) -> TaskType[Any, Any, Any]:
        """The task type of that name or older name.  Raises ``UnknownTask``."""
        found = self.task_types.get(name) or self.aliases.get(name)
        if found is None:
            raise UnknownTask(name, self.task_types)
        return found

    def check(self) -> None:
        """Build the argument and result types of every task type.  Raises ``OptionError`` for one that cannot work."""
        for task_type in self.task_types.values():
            task_type.payload  # noqa: B018 - building it is the check

    # creating and waiting -------------------------------------------------------------------------------------------

    @overload
    def enqueue_many(self, tx: SyncTx, calls: Iterable[Call[R]], /) -> list[Task[R]]: ...
    @overload
    def enqueue_many(self, tx: AsyncTx, calls: Iterable[Call[R]], /) -> Awaitably[list[Task[R]]]: ...
    def enqueue_many(self, tx: Any, calls: Iterable[Call[Any]], /) -> Any:
        """Create many tasks at once, in order; on any error none of them, and the transaction stays usable.

        A key that is in ``calls`` twice makes one task.  Raises what ``TaskType.enqueue`` raises.
        """
        orders = list(calls)
        for order in orders:
            if not isinstance(order, Call):
                raise OptionError(f"enqueue_many takes calls, as made by charge.call(...), not {type(order).__name__}")
        return enqueue_many(tx, orders, self._home.schema)

    def handle(self, task_id: UUID | str) -> Task[Any]:
        """A handle on any task, to wait for it; its result comes as plain JSON data."""
        try:
            id = task_id if isinstance(task_id, UUID) else UUID(task_id)
        except ValueError:
            raise OptionError(f"{task_id!r} is not a task id") from None
        return Task(id, created=False, home=self._home, decode=_from_json)

    def configure(self, settings: Any) -> None:
        """Use this ``Settings`` instead of the environment's: where waiting connects to, and the database schema."""
        self._home.configure(settings)

    def database(self, database: Any) -> None:
        """What ``context().transaction()`` and ``step()`` open their sessions on when they are given nothing.

        An SQLAlchemy ``AsyncEngine``, ``async_sessionmaker``, ``Engine`` or ``sessionmaker``, or a psycopg pool.  It
        must reach the database that holds our tables.
        """
        self._home.database = database

    def adopt(self, settings: Any) -> None:
        """For the worker: its settings, unless :meth:`configure` was called."""
        self._home.adopt(settings)

    async def close(self) -> None:
        """Close the connections that ``wait`` and handlers' transactions opened.  Nothing else holds any."""
        from dispatcher.effect_sessions import close_pools

        await close_pools(self._home)
        await self._home.close()

    def close_blocking(self) -> None:
        """:meth:`close` for code without an event loop."""
        self._home.close_blocking()

    # asking and changing --------------------------------------------------------------------------------------------

    @overload
    def get(self, tx: SyncTx, task_id: UUID | str, /) -> TaskInfo: ...
    @overload
    def get(self, tx: AsyncTx, task_id: UUID | str, /) -> Awaitably[TaskInfo]: ...
    def get(self, tx: Any, task_id: UUID | str, /) -> Any:
        """Everything about one task.  Raises ``TaskNotFound``."""
        return status.get(tx, task_id, schema=self._home.schema)

    @overload
    def counts(self, tx: SyncTx, /) -> dict[str, dict[str, int]]: ...
    @overload
    def counts(self, tx: AsyncTx, /) -> Awaitably[dict[str, dict[str, int]]]: ...
    def counts(self, tx: Any, /) -> Any:
        """How many tasks each queue has in each state."""
        return status.counts(tx, schema=self._home.schema)

    @overload
    def history(self, tx: SyncTx, task_id: UUID | str, /) -> list[Event]: ...
    @overload
    def history(self, tx: AsyncTx, task_id: UUID | str, /) -> Awaitably[list[Event]]: ...
    def history(self, tx: Any, task_id: UUID | str, /) -> Any:
        """Every move of one task, oldest first.  Raises ``TaskNotFound``."""
        return status.history(tx, task_id, schema=self._home.schema)

    @overload
    def explain(self, tx: SyncTx, task_id: UUID | str, /) -> Explanation: ...
    @overload
    def explain(self, tx: AsyncTx, task_id: UUID | str, /) -> Awaitably[Explanation]: ...
    def explain(self, tx: Any, task_id: UUID | str, /) -> Any:
        """Why a task has not run yet, as far as the database knows; ``dispatcher tasks explain`` also asks NATS."""
        return status.explain(tx, task_id, schema=self._home.schema)

    @overload
    def queues(self, tx: SyncTx, /) -> list[QueueInfo]: ...
    @overload
    def queues(self, tx: AsyncTx, /) -> Awaitably[list[QueueInfo]]: ...
    def queues(self, tx: Any, /) -> Any:
        """Every queue with its depth, pause and oldest waiting task."""
        return status.queues(tx, schema=self._home.schema)

    @overload
    def cancel(self, tx: SyncTx, /, *ids: UUID | str, actor: str | None = None) -> list[Answer]: ...
    @overload
    def cancel(self, tx: AsyncTx, /, *ids: UUID | str, actor: str | None = None) -> Awaitably[list[Answer]]: ...
    def cancel(self, tx: Any, /, *ids: UUID | str, actor: str | None = None) -> Any:
        """Cancel tasks: waiting ones at once, running ones are asked to stop.  One answer per id, in order."""
        return written(tx, "cancel", lambda tx: status.cancel(tx, ids, actor=actor, schema=self._home.schema))

    @overload
    def retry(self, tx: SyncTx, /, *ids: UUID | str, actor: str | None = None) -> list[Answer]: ...
    @overload
    def retry(self, tx: AsyncTx, /, *ids: UUID | str, actor: str | None = None) -> Awaitably[list[Answer]]: ...
    def retry(self, tx: Any, /, *ids: UUID | str, actor: str | None = None) -> Any:
        """Run failed or cancelled tasks again from the start.  One answer per id, in order."""
        return written(tx, "retry", lambda tx: status.retry(tx, ids, actor=actor, schema=self._home.schema))

    @overload
    def logs(self, tx: SyncTx, task_id: UUID | str, /) -> tuple[AttemptLog, ...]: ...
    @overload
    def logs(self, tx: AsyncTx, task_id: UUID | str, /) -> Awaitably[tuple[AttemptLog, ...]]: ...
    def logs(self, tx: Any, task_id: UUID | str, /) -> Any:
        """What the attempts of a task logged, oldest first; see :class:`AttemptLog`.  Raises ``TaskNotFound``."""
        return attempt_log.logs(tx, task_id, schema=self._home.schema)

    # last, because inside the class its name hides the built-in one from the annotations below it
    @overload
    def list(self, tx: SyncTx, /, **filters: Unpack[ListFilters]) -> Page: ...
    @overload
    def list(self, tx: AsyncTx, /, **filters: Unpack[ListFilters]) -> Awaitably[Page]: ...
    def list(self, tx: Any, /, **filters: Any) -> Any:
        """A page of the tasks that match every filter, newest first; see :class:`ListFilters`."""
        return status.list_(tx, schema=self._home.schema, **filters)

    def __repr__(self) -> str:
        return f"Dispatcher({self.name!r}, {len(self.task_types)} task types)"


def _is_plain_or_async(function: Any) -> bool:
    """A generator would do nothing when called, and an object with ``__call__`` has no name of its own."""
    if isinstance(function, (type, TaskType)) or not callable(function) or not hasattr(function, "__qualname__"):
        return False
    return not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function))


def _default_name(function: Any) -> str:
    return f"{importable(function.__module__)}.{function.__qualname__.rsplit('<locals>.', 1)[-1]}"


def _from_json(data: bytes) -> Any:
    import json

    return json.loads(data)
