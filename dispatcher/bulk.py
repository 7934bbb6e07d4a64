"""Retry, cancel or delete every task that matches some filters, in bounded batches.

Each batch is one atomic step on the caller's session.  On an autocommit psycopg connection it is a transaction of its
own; inside a caller's transaction all of them commit together.  The walk goes from the newest id down and passes each
task once, whatever becomes of it meanwhile.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict
from uuid import UUID, uuid4

from dispatcher.errors import OptionError
from dispatcher.filters import MOST, Filters, state_named
from dispatcher.status import change, perform
from dispatcher.steps import Steps
from dispatcher.task_info import Shown, jsonable
from dispatcher.tx import is_async
from dispatcher.walking import walk
from state import queries, requests
from state.delete import DELETE_FINISHED, LOG_DELETION
from state.machine import FINAL, State
from state.sql import DEFAULT_SCHEMA

__all__ = ["BATCH", "Action", "Bulk", "BulkAnswer", "BulkFilters", "OnBatch"]

BATCH = 500
"""Tasks in one transaction."""
Action: TypeAlias = Literal["retry", "cancel", "delete"]
OnBatch: TypeAlias = Callable[["BulkAnswer"], None]

_LEGAL: Mapping[str, frozenset[State]] = {
    "retry": frozenset({State.FAILED, State.CANCELLED}),
    "cancel": frozenset(State) - FINAL,
    "delete": FINAL,
}


class BulkFilters(TypedDict, total=False):
    """Which tasks; a task must match all of it, and at least one must be given."""

    state: str | State | Iterable[str | State] | None
    queue: str | None
    type: str | None
    tag: str | None
    key: str | None
    created_after: datetime | None
    created_before: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class BulkAnswer(Shown):
    """What became of a bulk request so far.

    ``outcomes`` counts by what was answered for each task.  Retry: ``queued``, ``not_retryable``.  Cancel:
    ``cancelled``, ``cancel_requested`` (it runs), ``too_late``.  Delete: ``deleted``, ``kept`` (somebody changes it at
    this moment, or its message is still on its way).
    """

    action: str
    dry_run: bool
    matched: int
    changed: int
    outcomes: Mapping[str, int] = field(default_factory=dict)


class _Batch(NamedTuple):
    outcomes: Counter[str]
    matched: int
    next: str | None


class Bulk:
    """One request, checked.  Raises ``OptionError`` naming the filter that is wrong or missing."""

    def __init__(
        self,
        action: Action,
        filters: Mapping[str, Any],
        *,
        actor: str | None = None,
        dry_run: bool = False,
        schema: str = DEFAULT_SCHEMA,
    ) -> None:
        given = {name: value for name, value in filters.items() if value is not None}
        if not given:
            raise OptionError(f"to {action} by filter, give at least one filter, for example a state or a queue")
        self.action, self.dry_run = action, dry_run
        self._actor, self._schema = actor, schema
        self._shown = {name: _shown(value) for name, value in given.items()}
        self._filters = {**given, "state": _states(action, given)}
        self._id = uuid4()
        self._of(None)

    def run(self, tx: Any, on_batch: OnBatch | None = None) -> Any:
        """Do it; returns a ``BulkAnswer``, on an asynchronous session a coroutine of it."""
        return self._run_async(tx, on_batch) if is_async(tx) else self._run(tx, on_batch)

    def _run(self, tx: Any, on_batch: OnBatch | None) -> BulkAnswer:
        answer, cursor = self._start(), None
        while True:
            batch: _Batch = perform(tx, self._steps(cursor), self._schema, atomic=not self.dry_run)
            answer, cursor = self._plus(answer, batch), batch.next
            if on_batch is not None:
                on_batch(answer)
            if cursor is None:
                return answer

    async def _run_async(self, tx: Any, on_batch: OnBatch | None) -> BulkAnswer:
        answer, cursor = self._start(), None
        while True:
            batch: _Batch = await perform(tx, self._steps(cursor), self._schema, atomic=not self.dry_run)
            answer, cursor = self._plus(answer, batch), batch.next
            if on_batch is not None:
                on_batch(answer)
            if cursor is None:
                return answer

    def _of(self, cursor: str | None) -> Filters:
        return Filters.of(self._filters, MOST if self.dry_run else BATCH, cursor)

    def _start(self) -> BulkAnswer:
        return BulkAnswer(self.action, self.dry_run, 0, 0)

    def _plus(self, answer: BulkAnswer, batch: _Batch) -> BulkAnswer:
        outcomes = Counter(answer.outcomes) + batch.outcomes
        changed = sum(outcomes[name] for name in ("queued", "cancelled", "cancel_requested", "deleted"))
        return BulkAnswer(self.action, self.dry_run, answer.matched + batch.matched, changed, dict(outcomes))

    def _steps(self, cursor: str | None) -> Steps[_Batch]:
        rows, more = yield from walk(self._of(cursor), queries.ids)
        ids = [UUID(str(row[0])) for row in rows]
        outcomes: Counter[str] = Counter()
        if ids and not self.dry_run:
            if self.action == "delete":
                outcomes = yield from self._delete(ids)
            else:
                sql = requests.RETRY if self.action == "retry" else requests.CANCEL
                answers = yield from change(sql, ids, self._actor)
                outcomes = Counter(answer.outcome for answer in answers)
        return _Batch(outcomes, len(ids), more)

    def _delete(self, ids: list[UUID]) -> Steps[Counter[str]]:
        gone = yield DELETE_FINISHED, {"ids": ids}
        if gone:
            about = {"id": self._id, "actor": self._actor, "filter": json.dumps(self._shown), "deleted": len(gone)}
            yield LOG_DELETION, about
        return +Counter(deleted=len(gone), kept=len(ids) - len(gone))


def _states(action: Action, given: Mapping[str, Any]) -> list[State]:
    """The states to look for: those given, by default every one that the action can change."""
    legal = _LEGAL[action]
    if action == "cancel" and "error" in given:
        raise OptionError("error: only failed and cancelled tasks have an error text, and those cannot be cancelled")
    value = given.get("state")
    if value is None:
        return sorted(legal & {State.FAILED, State.CANCELLED} if "error" in given else legal)
    states = [state_named(name) for name in ([value] if isinstance(value, (str, State)) else value)]
    for state in states:
        if state not in legal:
            names = ", ".join(one.label for one in sorted(legal))
            raise OptionError(f"state {state.label!r}: {action} works on tasks that are {names}")
    return sorted(set(states))


def _shown(value: Any) -> Any:
    if isinstance(value, State):
        return value.label
    if isinstance(value, str) or not isinstance(value, Iterable):
        return jsonable(value)
    return [_shown(item) for item in value]
