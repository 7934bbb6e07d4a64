"""What the attempts that run in this process ask for when they need it: their context, and a place for log lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dispatcher.context import Context
from dispatcher.lifecycle import Resource
from dispatcher.settings import Settings
from workers.attempt import Attempt
from workers.capture import LogLines
from workers.effects import work_of
from workers.masked import storable

__all__ = ["Contexts"]

_LONGEST_PROGRESS = 2000


class Contexts:
    """One per worker: the ``Home`` of its attempts."""

    def __init__(
        self,
        queue_names: dict[int, str],
        settings: Settings,
        resources: Mapping[str, Resource[Any]],
        progress: Callable[[Attempt, float, str | None], None],
    ) -> None:
        self._queue_names, self._resources, self._progress = queue_names, resources, progress
        self._log_limits = settings.log_lines, settings.log_bytes

    def make_context(self, attempt: Attempt, /) -> Context:
        """The context of an attempt that runs here."""
        return Context(
            task_id=attempt.task_id,
            type=attempt.task_type.name,
            queue=self._queue_names.get(attempt.queue_id, ""),
            attempt=attempt.number,
            tries=attempt.tries,
            max_attempts=attempt.max_tries,
            headers=attempt.meta.get("headers", {}) if attempt.meta else {},
            report=partial(self._report, attempt),
            resources=self._resources,
            soft_at=attempt.soft_at,
            hard_at=attempt.hard_at,
            work=work_of(attempt),
        )

    def make_lines(self, attempt: Attempt, /) -> LogLines:
        """Where its log lines go."""
        return LogLines(*self._log_limits, _secrets(attempt))

    def _report(self, attempt: Attempt, fraction: float, message: str | None) -> None:
        if message is not None:
            message = storable(str(message), _secrets(attempt))[:_LONGEST_PROGRESS]
        self._progress(attempt, fraction, message)


def _secrets(attempt: Attempt) -> list[str]:
    return attempt.task_type.secret_values(*attempt.task_type.decode(attempt.args))
