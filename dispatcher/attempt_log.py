"""What the handlers of a task logged, attempt by attempt."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, overload
from uuid import UUID

from dispatcher.errors import OptionError, TaskNotFound
from dispatcher.steps import Steps
from dispatcher.task_info import jsonable
from dispatcher.tx import AsyncTx, SyncTx, is_async, run_steps, run_steps_async
from state.attempt_logs import LOGS
from state.sql import DEFAULT_SCHEMA

__all__ = ["AttemptLog", "LogLine", "logs"]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One record that a handler gave to ``logging``; secret arguments are masked."""

    at: datetime
    level: str
    """``info``, ``warning`` and so on."""
    logger: str
    message: str
    """With the traceback, if the record had one."""


@dataclass(frozen=True, slots=True)
class AttemptLog:
    """The last lines of one attempt.  An attempt that logged nothing has none."""

    attempt: int
    at: datetime
    """When they were written, which is when the attempt ended."""
    dropped: int
    """How many lines before these were not kept."""
    lines: tuple[LogLine, ...]

    def to_json(self) -> dict[str, Any]:
        """This value as JSON data; keys are the attribute names."""
        lines = [
            {"at": jsonable(line.at), "level": line.level, "logger": line.logger, "message": line.message}
            for line in self.lines
        ]
        return {"attempt": self.attempt, "at": jsonable(self.at), "dropped": self.dropped, "lines": lines}

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> AttemptLog:
        """From a row of ``state.attempt_logs.LOGS``."""
        lines = (
            LogLine(datetime.fromtimestamp(at, UTC), level, name, text) for at, level, name, text in json.loads(row[3])
        )
        return cls(row[0], row[1], row[2], tuple(lines))


@overload
def logs(tx: SyncTx, /, task_id: UUID | str, *, schema: str = ...) -> tuple[AttemptLog, ...]: ...
@overload
def logs(tx: AsyncTx, /, task_id: UUID | str, *, schema: str = ...) -> Coroutine[Any, Any, tuple[AttemptLog, ...]]: ...
def logs(tx: Any, /, task_id: UUID | str, *, schema: str = DEFAULT_SCHEMA) -> Any:
    """What each attempt of a task logged, oldest first.  Raises ``TaskNotFound``, ``OptionError`` for a bad id."""

    def steps() -> Steps[tuple[AttemptLog, ...]]:
        try:
            task = task_id if isinstance(task_id, UUID) else UUID(task_id)
        except ValueError:
            raise OptionError(f"task id {task_id!r} is not a UUID") from None
        rows = yield LOGS, {"id": task}
        if not rows:
            raise TaskNotFound(task)
        return tuple(AttemptLog.from_row(row) for row in rows if row[0] is not None)

    if is_async(tx):
        return run_steps_async(tx, steps(), schema)
    return run_steps(tx, steps(), schema)
