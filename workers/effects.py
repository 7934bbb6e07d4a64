"""Handlers that end their task in a transaction of their own: what the worker gives them, and what is left to do."""

from __future__ import annotations

import logging

from dispatcher.context import Context
from dispatcher.effects import Work
from state.machine import Reason, State
from workers.attempt import Attempt, Outcome

__all__ = ["already_committed", "returned", "work_of"]

_log = logging.getLogger("dispatcher.effects")


def work_of(attempt: Attempt) -> Work:
    """What the transactions of this attempt's handler write for."""
    kind = attempt.task_type
    return Work(kind.home, kind.payload, attempt.task_id, attempt.number, attempt.session.id)


def already_committed(running: Context | None, ending: object) -> Outcome | None:
    """The outcome when a transaction of the handler has ended the task; ``ending`` is what it returned or raised then.

    Neither can change what is committed: an error is logged, and so is a result that was not given to ``returns``.
    """
    if running is None or not running.completed:
        return None
    if running.work.suspended:
        return Outcome(State.BLOCKED, reason=Reason.CHILDREN, committed=True)
    if isinstance(ending, Exception):
        _log.error("task %s raised %s after its transaction had ended it", running.task_id, type(ending).__name__)
    elif ending is not None and not isinstance(ending, BaseException) and running.work.result != ending:
        _log.error(
            "task %s returned another result than its transaction has stored: give it to context().returns(...)"
            " inside the block",
            running.task_id,
        )
    return Outcome(State.SUCCEEDED, committed=True)


def returned(attempt: Attempt, result: object) -> Outcome:
    """The outcome of a handler that has come back with ``result``.  Raises ``ResultUnserialisable``."""
    committed = already_committed(attempt.context, result)
    return committed or Outcome(State.SUCCEEDED, result=attempt.task_type.encode_result(result))
