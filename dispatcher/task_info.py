"""What a person or program gets to see of tasks and queues: frozen values with a JSON form.  Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from dispatcher.masking import shown_args, shown_result
from state.machine import Flag, Reason, State

__all__ = ["Answer", "Event", "Page", "Progress", "QueueInfo", "Shown", "TaskError", "TaskInfo", "jsonable"]


def jsonable(value: Any) -> Any:
    """Ids and times as text (ISO 8601, UTC), tuples as lists, our values as objects; JSON data as it is."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, Shown):
        return value.to_json()
    return value


class Shown:
    """A value with a JSON form."""

    def to_json(self) -> dict[str, Any]:
        """This value as JSON data; keys are the attribute names."""
        return {f.name: jsonable(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class TaskError(Shown):
    """What went wrong.  ``type`` is the exception's class, ``None`` when no exception was raised."""

    message: str
    type: str | None = None
    traceback: str | None = None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.type else self.message


@dataclass(frozen=True, slots=True)
class Progress(Shown):
    """What the handler last reported.  ``fraction`` is between 0 and 1."""

    fraction: float
    message: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class TaskInfo(Shown):
    """One task as it was when the query ran.  Secrets are masked; ``args`` and ``result`` are ``None`` in listings."""

    id: UUID
    type: str
    queue: str
    lane: str
    state: str
    reason: str | None
    attempt: int
    """Number of the present run; only rises."""
    tries: int
    """Tries used in this generation."""
    max_attempts: int
    generation: int
    """1, and one more for each retry that a person asked for."""
    dispatch: int
    created_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    cancel_requested: bool
    parked: bool
    """Queued, but held back by the pause of its queue."""
    worker: str | None
    """The worker that runs it now."""
    tags: tuple[str, ...] = ()
    headers: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    error: TaskError | None = None
    """Why it failed, was cancelled, or is being retried."""
    progress: Progress | None = None
    args: Any = None
    result: Any = None

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.finished_at is not None

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> TaskInfo:
        """From a row of ``state.queries.ONE`` (26 to 28 columns) or of a listing (24)."""
        meta: dict[str, Any] = json.loads(row[17]) if row[17] else {}
        flags = int(row[11])
        args = result = None
        if len(row) > 24:
            codec, key_id = row[26], row[27]
            args = shown_args(_bytes(row[24]), meta.get("secret") or (), codec, key_id)
            result = shown_result(_bytes(row[25]), bool(flags & Flag.SECRET_RESULT), codec, key_id)
        return cls(
            id=_uuid(row[0]), type=row[1], queue=row[2], lane=row[3], state=State(row[4]).label,
            reason=None if row[5] is None else Reason(row[5]).label,
            attempt=row[6], tries=row[7], max_attempts=row[8], generation=row[9], dispatch=row[10],
            created_at=row[12], due_at=row[13], started_at=row[14], finished_at=row[15], expires_at=row[16],
            cancel_requested=bool(flags & Flag.CANCEL), parked=bool(row[20]), worker=row[19],
            tags=tuple(meta.get("tags") or ()), headers=meta.get("headers") or {}, key=row[18],
            error=_error(row[21], row[22]), progress=_progress(row[23]), args=args, result=result,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page(Shown):
    """Some tasks, newest first.  ``next`` is the cursor of the page after this one; only ``None`` means the end."""

    tasks: tuple[TaskInfo, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Event(Shown):
    """One move of a task.  ``from_state`` is ``None`` for its creation."""

    seq: int
    from_state: str | None
    to_state: str
    reason: str | None
    attempt: int
    at: datetime
    actor: str | None
    worker: str | None
    detail: Any

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Event:
        """From a row of ``state.queries.HISTORY``."""
        return cls(
            row[0],
            None if row[1] is None else State(row[1]).label,
            State(row[2]).label,
            None if row[3] is None else Reason(row[3]).label,
            row[4],
            row[5],
            row[6],
            row[7],
            json.loads(row[8]) if row[8] else None,
        )


@dataclass(frozen=True, slots=True)
class QueueInfo(Shown):
    """A queue with its tasks counted by state.  ``oldest_queued_at`` is since when the longest waiting task waits."""

    name: str
    stream: str
    paused: bool
    paused_at: datetime | None
    paused_by: str | None
    parked: int
    depth: int
    """Queued tasks, parked ones included."""
    oldest_queued_at: datetime | None
    counts: Mapping[str, int]

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> QueueInfo:
        """From a row of ``state.queries.QUEUES``."""
        counts = {State(int(state)).label: int(n) for state, n in json.loads(row[7] or "{}").items()}
        return cls(row[0], row[1], row[2], row[3], row[4], row[5], counts.get("queued", 0), row[6], counts)


@dataclass(frozen=True, slots=True)
class Answer(Shown):
    """What became of a cancel or retry.  ``state`` is ``None`` when there is no such task.

    Cancel: ``cancelled`` (it is, and will never run again by itself), ``cancel_requested`` (it runs, its worker is
    told), ``too_late`` (it already succeeded or failed), ``not_found``.  Retry: ``queued``, ``not_retryable``
    (only failed and cancelled tasks are), ``not_found``.
    """

    id: UUID
    outcome: str
    state: str | None


def _uuid(value: Any) -> UUID:
    return value if type(value) is UUID else UUID(str(value))


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)  # psycopg2 returns memoryview


def _error(detail: str | None, line: str | None) -> TaskError | None:
    found = json.loads(detail) if detail else None
    if isinstance(found, dict) and "message" in found:
        return TaskError(str(found["message"]), found.get("type"), found.get("traceback"))
    return TaskError(line) if line else None


def _progress(packed: str | None) -> Progress | None:
    if packed is None:
        return None
    fraction, message, at = json.loads(packed)
    return Progress(fraction, message, datetime.fromtimestamp(at, UTC))
