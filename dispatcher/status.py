"""Ask for the state of tasks and queues, and ask for changes: cancel, retry, pause, resume.

Every function takes the caller's own session or connection first.  On a synchronous one it returns the value, on an
asynchronous one a coroutine.  Nothing is committed here: a cancel holds when the caller's transaction commits.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias, TypeVar, overload
from uuid import UUID

from dispatcher.errors import OptionError, TaskNotFound, did_you_mean
from dispatcher.explain.answer import Explanation
from dispatcher.explain.causes import explanation
from dispatcher.explain.facts import Facts, read
from dispatcher.filters import Filters
from dispatcher.steps import Steps
from dispatcher.task_info import Answer, Event, Page, QueueInfo, TaskInfo
from dispatcher.tx import AsyncTx, SyncTx, is_async, run_steps, run_steps_async
from dispatcher.walking import walk
from state import queries, requests
from state.machine import State
from state.sql import DEFAULT_SCHEMA, Sql

__all__ = [
    "cancel",
    "change",
    "counts",
    "explain",
    "facts",
    "get",
    "history",
    "list_",
    "pause",
    "perform",
    "queues",
    "resume",
    "retry",
]

T = TypeVar("T")
_UNPARK_BATCH = 1000


def perform(tx: Any, steps: Steps[T], schema: str, *, atomic: bool = False) -> Any:
    """The result of the steps on this session; a coroutine of it on an asynchronous one."""
    if is_async(tx):
        return run_steps_async(tx, steps, schema, atomic=atomic)
    return run_steps(tx, steps, schema, atomic=atomic)


@overload
def get(tx: SyncTx, /, task_id: UUID | str, *, schema: str = ...) -> TaskInfo: ...
@overload
def get(tx: AsyncTx, /, task_id: UUID | str, *, schema: str = ...) -> Coroutine[Any, Any, TaskInfo]: ...
def get(tx: Any, /, task_id: UUID | str, *, schema: str = DEFAULT_SCHEMA) -> Any:
    """One task with arguments, result, error and progress.  Raises ``TaskNotFound``, ``OptionError`` for a bad id."""

    def steps() -> Steps[TaskInfo]:
        task = _id(task_id)
        rows = yield queries.ONE, {"id": task}
        if not rows:
            raise TaskNotFound(task)
        return TaskInfo.from_row(rows[0])

    return perform(tx, steps(), schema)


_States: TypeAlias = str | State | Iterable[str | State] | None


@overload
def list_(
    tx: SyncTx, /, *,
    state: _States = ..., queue: str | None = ..., type: str | None = ..., tag: str | None = ..., key: str | None = ...,
    created_after: datetime | None = ..., created_before: datetime | None = ..., error: str | None = ...,
    limit: int = ..., cursor: str | None = ..., schema: str = ...,
) -> Page: ...  # fmt: skip
@overload
def list_(
    tx: AsyncTx, /, *,
    state: _States = ..., queue: str | None = ..., type: str | None = ..., tag: str | None = ..., key: str | None = ...,
    created_after: datetime | None = ..., created_before: datetime | None = ..., error: str | None = ...,
    limit: int = ..., cursor: str | None = ..., schema: str = ...,
) -> Coroutine[Any, Any, Page]: ...  # fmt: skip
def list_(
    tx: Any, /, *, limit: int = 50, cursor: str | None = None, schema: str = DEFAULT_SCHEMA, **filters: Any
) -> Any:
    """Tasks that match every given filter, newest first, at most ``limit`` (1 to 1000) of them.

    ``state`` is one state or several.  ``created_after`` (inclusive) and ``created_before`` (exclusive) compare the
    time in the task's id, which its creator's clock gave, to the millisecond.  ``error`` finds text, in any case, in
    the first 2,000 characters of the errors of failed and cancelled tasks.  ``cursor`` is ``Page.next`` of the page
    before, asked with the same filters.  Raises ``OptionError`` naming the filter that is wrong.

    A filter that matches next to nothing among millions ends a page early, after a million looked-at tasks;
    ``Page.next`` then goes on from there.
    """
    return perform(tx, _list(Filters.of(filters, limit, cursor)), schema)


def _list(wanted: Filters) -> Steps[Page]:
    rows, more = yield from walk(wanted, queries.page)
    return Page(tuple(TaskInfo.from_row(row) for row in rows), more)


@overload
def counts(tx: SyncTx, /, *, schema: str = ...) -> dict[str, dict[str, int]]: ...
@overload
def counts(tx: AsyncTx, /, *, schema: str = ...) -> Coroutine[Any, Any, dict[str, dict[str, int]]]: ...
def counts(tx: Any, /, *, schema: str = DEFAULT_SCHEMA) -> Any:
    """How many tasks each queue has in each state: ``{"billing": {"queued": 3, "succeeded": 120}}``.  No zeros."""

    def steps() -> Steps[dict[str, dict[str, int]]]:
        rows = yield queries.COUNTS, {}
        found: dict[str, dict[str, int]] = {}
        for queue, state, n in rows:
            found.setdefault(queue, {})[State(state).label] = int(n)
        return found

    return perform(tx, steps(), schema)


@overload
def queues(tx: SyncTx, /, *, schema: str = ...) -> list[QueueInfo]: ...
@overload
def queues(tx: AsyncTx, /, *, schema: str = ...) -> Coroutine[Any, Any, list[QueueInfo]]: ...
def queues(tx: Any, /, *, schema: str = DEFAULT_SCHEMA) -> Any:
    """Every queue by name: pause, tasks by state, depth, and since when the oldest queued task waits."""

    def steps() -> Steps[list[QueueInfo]]:
        rows = yield queries.QUEUES, {}
        return [QueueInfo.from_row(row) for row in rows]

    return perform(tx, steps(), schema)


@overload
def history(tx: SyncTx, /, task_id: UUID | str, *, schema: str = ...) -> list[Event]: ...
@overload
def history(tx: AsyncTx, /, task_id: UUID | str, *, schema: str = ...) -> Coroutine[Any, Any, list[Event]]: ...
def history(tx: Any, /, task_id: UUID | str, *, schema: str = DEFAULT_SCHEMA) -> Any:
    """Every move of a task, oldest first.  Raises ``TaskNotFound``."""

    def steps() -> Steps[list[Event]]:
        task = _id(task_id)
        rows = yield queries.HISTORY, {"id": task}
        if not rows:
            raise TaskNotFound(task)
        return [Event.from_row(row) for row in rows]

    return perform(tx, steps(), schema)


@overload
def explain(tx: SyncTx, /, task_id: UUID | str, *, schema: str = ...) -> Explanation: ...
@overload
def explain(tx: AsyncTx, /, task_id: UUID | str, *, schema: str = ...) -> Coroutine[Any, Any, Explanation]: ...
def explain(tx: Any, /, task_id: UUID | str, *, schema: str = DEFAULT_SCHEMA) -> Any:
    """Why a task has not run yet, as far as the database knows; ``dispatcher tasks explain`` also asks NATS.

    An unknown id is an answer, not an error.  Raises ``OptionError`` for what is no id.
    """

    def steps() -> Steps[Explanation]:
        return explanation((yield from read(_id(task_id), schema)), None)

    return perform(tx, steps(), schema)


def facts(tx: SyncTx, /, task_id: UUID | str, *, schema: str = DEFAULT_SCHEMA) -> Facts:
    """What the database knows for an explanation."""
    found: Facts = perform(tx, read(_id(task_id), schema), schema)
    return found


_Ids: TypeAlias = UUID | str | Iterable[UUID | str]


@overload
def cancel(tx: SyncTx, /, ids: _Ids, *, actor: str | None = ..., schema: str = ...) -> list[Answer]: ...
@overload
def cancel(
    tx: AsyncTx, /, ids: _Ids, *, actor: str | None = ..., schema: str = ...
) -> Coroutine[Any, Any, list[Answer]]: ...
def cancel(tx: Any, /, ids: _Ids, *, actor: str | None = None, schema: str = DEFAULT_SCHEMA) -> Any:
    """Cancel tasks; the answers are in the order asked, see ``Answer``.  ``actor`` goes into the audit trail.

    Waiting tasks end at once.  A running one is asked to stop: it ends as cancelled unless it succeeds first.
    """
    return perform(tx, change(requests.CANCEL, _ids(ids), actor), schema, atomic=True)


@overload
def retry(tx: SyncTx, /, ids: _Ids, *, actor: str | None = ..., schema: str = ...) -> list[Answer]: ...
@overload
def retry(
    tx: AsyncTx, /, ids: _Ids, *, actor: str | None = ..., schema: str = ...
) -> Coroutine[Any, Any, list[Answer]]: ...
def retry(tx: Any, /, ids: _Ids, *, actor: str | None = None, schema: str = DEFAULT_SCHEMA) -> Any:
    """Run failed or cancelled tasks again from the start, with all their tries and without expiry.  See ``Answer``."""
    return perform(tx, change(requests.RETRY, _ids(ids), actor), schema, atomic=True)


def _ids(ids: _Ids) -> list[UUID]:
    return [_id(one) for one in ([ids] if isinstance(ids, (UUID, str)) else ids)]


def change(sql: Sql, asked: Sequence[UUID], actor: str | None) -> Steps[list[Answer]]:
    """Cancel or retry these tasks as one step of something larger; one answer for each id, in the order asked."""
    if not asked:
        return []
    yield requests.LOCK, {"ids": list(asked)}
    rows = yield sql, {"ids": list(asked), "actor": actor}
    answers = {
        str(task): Answer(UUID(str(task)), outcome, None if state is None else State(state).label)
        for task, outcome, state in rows
    }
    return [answers[str(task)] for task in dict.fromkeys(asked)]


@overload
def pause(tx: SyncTx, /, queue: str, *, actor: str | None = ..., schema: str = ...) -> bool: ...
@overload
def pause(tx: AsyncTx, /, queue: str, *, actor: str | None = ..., schema: str = ...) -> Coroutine[Any, Any, bool]: ...
def pause(tx: Any, /, queue: str, *, actor: str | None = None, schema: str = DEFAULT_SCHEMA) -> Any:
    """Let no more tasks of a queue start; those that run go on.  ``False``: it was paused already.

    Raises ``OptionError`` for a queue that has never been used.
    """

    def steps() -> Steps[bool]:
        rows = yield requests.PAUSE, {"queue": queue, "actor": actor}
        return bool((yield from _known(queue, rows))[1])

    return perform(tx, steps(), schema)


@overload
def resume(tx: SyncTx, /, queue: str, *, schema: str = ...) -> bool: ...
@overload
def resume(tx: AsyncTx, /, queue: str, *, schema: str = ...) -> Coroutine[Any, Any, bool]: ...
def resume(tx: Any, /, queue: str, *, schema: str = DEFAULT_SCHEMA) -> Any:
    """End a pause and send what was held back meanwhile.  ``False``: it was not paused (the rest is sent anyway)."""

    def steps() -> Steps[bool]:
        rows = yield requests.RESUME, {"queue": queue}
        queue_id, changed = yield from _known(queue, rows)
        cleared = 1
        while cleared:
            ((cleared, _),) = yield requests.UNPARK, {"queue_id": queue_id, "most": _UNPARK_BATCH}
        return bool(changed)

    return perform(tx, steps(), schema)


def _known(queue: str, rows: Sequence[tuple[Any, ...]]) -> Steps[tuple[Any, ...]]:
    if rows:
        return rows[0]
    names = yield requests.QUEUE_NAMES, {}
    raise OptionError(f"no queue {queue!r}{did_you_mean(queue, [name for (name,) in names])}")


def _id(text: UUID | str) -> UUID:
    if isinstance(text, UUID):
        return text
    try:
        return UUID(text)
    except ValueError:
        raise OptionError(f"task id {text!r} is not a UUID") from None
