"""What a worker holds, told to whoever asks over core NATS: its tasks with their age, and one task in particular."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from dispatcher.task import TaskType
from workers.attempt import Attempt
from workers.claimer import Claimer
from workers.executor import Executor
from workers.inbox import Inbox

__all__ = ["Holdings"]

_MOST_TASKS = 500
_MOST_TYPES = 5000


class Holdings:
    """Reads the worker's own memory; nothing is asked from anybody."""

    def __init__(
        self,
        executor: Executor,
        inbox: Inbox,
        claimer: Claimer,
        types: Mapping[int, TaskType[Any, Any, Any]],
        queue_names: Mapping[int, str],
    ) -> None:
        self._executor, self._inbox, self._claimer = executor, inbox, claimer
        self._types, self._queue_names = types, queue_names

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What ``question`` asks for beyond the worker's description.

        ``{"detail": true}``: its tasks, the oldest first, at most 500.  ``{"task": id}``: whether it holds that task,
        and the names of the task types that it runs.
        """
        found: dict[str, Any] = {}
        if question.get("detail"):
            found["tasks"] = self._oldest(self._executor.running.values())
        if "task" in question:
            found["types"] = sorted({name for kind in self._types.values() for name in (kind.name, *kind.aliases)})
            del found["types"][_MOST_TYPES:]
            found["holds"] = self._held(question["task"])
        return found

    def _oldest(self, attempts: Iterable[Attempt]) -> list[dict[str, Any]]:
        oldest = sorted(attempts, key=lambda attempt: attempt.claimed_at)[:_MOST_TASKS]
        return [self._shown(attempt) for attempt in oldest]

    def _held(self, task_id: object) -> dict[str, Any] | None:
        try:
            wanted = UUID(str(task_id))
        except ValueError:
            return None
        attempt = self._executor.running.get(wanted)
        if attempt is not None:
            return self._shown(attempt)
        under_way = (delivery for delivery in self._claimer.claiming if delivery.task_id == wanted)
        delivery = self._inbox.find(wanted) or next(under_way, None)
        if delivery is None:
            return None
        age = time.monotonic() - delivery.parcels[0].received_at
        return {"id": str(wanted), "attempt": delivery.attempt, "place": "received", "age": round(age, 3)}

    def _shown(self, attempt: Attempt) -> dict[str, Any]:
        """``age`` in seconds counts from the handler's start, before that from the claim."""
        place = "claimed" if not attempt.started_at else "ended" if attempt.outcome is not None else "running"
        age = time.monotonic() - (attempt.started_at or attempt.claimed_at)
        return {
            "id": str(attempt.task_id),
            "type": attempt.task_type.name,
            "queue": self._queue_names.get(attempt.queue_id, ""),
            "attempt": attempt.number,
            "place": place,
            "age": round(age, 3),
        }
