"""Every error a user can meet, as one tree: the class is the code, the data is on attributes, the text says the cure.

DispatcherError
├── ConfigurationError          settings or streams.conf are wrong
│   └── LayoutError             a foreign ``state`` or ``workers`` package shadows ours
├── SchemaError                 the database schema does not fit this version
│   ├── SchemaMissing
│   ├── SchemaTooOld
│   └── SchemaTooNew
├── BusError                    NATS refused a request
│   └── BusUnavailable          NATS is away or did not answer
├── CallError                   a call was refused; nothing was changed
│   ├── OptionError             an option does not exist or has an illegal value
│   │   ├── QueueNameInvalid
│   │   ├── RunAtNaive
│   │   ├── FlowInvalid         tasks cannot be put together like that
│   │   └── UnknownLane
│   ├── ArgumentsInvalid        the arguments do not fit the function's signature
│   ├── ArgumentsTooLarge
│   ├── KeyConflict             the idempotency key belongs to a task with other arguments
│   ├── OutboxFull              too many tasks wait for the broker
│   ├── NotAwaited              a call on an asynchronous session was never awaited
│   ├── UnknownTask             no task type of that name
│   └── TaskNotFound            no task with that id
│       └── FlowNotFound        no flow with that id
├── WaitError                   waiting for a result did not give one
│   ├── NotCommitted            the transaction that made the task is still open
│   ├── NotFinished             the result was read before the task ended
│   ├── WaitTimeout
│   └── TaskFailed              the task ended as failed
│       └── TaskCancelled       the task ended as cancelled
├── StaleAttempt                a handler's transaction came too late: another attempt has the task
├── Undecodable                 stored arguments or results do not fit the code any more
└── ResultUnserialisable        what the handler returned cannot be stored
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from state.errors import DispatcherError, SchemaError, SchemaMissing, SchemaTooNew, SchemaTooOld

__all__ = [
    "ArgumentsInvalid",
    "ArgumentsTooLarge",
    "BusError",
    "BusUnavailable",
    "CallError",
    "ConfigurationError",
    "DispatcherError",
    "FlowInvalid",
    "FlowNotFound",
    "KeyConflict",
    "LayoutError",
    "NotAwaited",
    "NotCommitted",
    "NotFinished",
    "OptionError",
    "OutboxFull",
    "QueueNameInvalid",
    "ResultUnserialisable",
    "RunAtNaive",
    "SchemaError",
    "SchemaMissing",
    "SchemaTooNew",
    "SchemaTooOld",
    "StaleAttempt",
    "TaskCancelled",
    "TaskFailed",
    "TaskNotFound",
    "Undecodable",
    "UnknownLane",
    "UnknownTask",
    "WaitError",
    "WaitTimeout",
    "did_you_mean",
]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'queue'?"`` when a known word is close to ``word``, otherwise the list of known words."""
    names = sorted(known)
    if close := difflib.get_close_matches(word, names, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


class _Kept(DispatcherError):
    """For errors made from data, each part kept under the name of its parameter: they can be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return type(self), tuple(getattr(self, name) for name in names)


class ConfigurationError(DispatcherError):
    """Settings or streams.conf are wrong; the text names the field and the cure."""


class LayoutError(ConfigurationError):
    """A foreign package stands where ours is expected."""


class StaleAttempt(_Kept):
    """A handler's transaction was refused and rolled back whole: the attempt is not this worker's any more."""

    def __init__(self, task_id: UUID, attempt: int) -> None:
        super().__init__(f"attempt {attempt} of task {task_id} is over, another may have it; nothing was written here")
        self.task_id = task_id
        self.attempt = attempt


class BusError(_Kept):
    """NATS refused a request; ``code`` and ``err_code`` are the server's own."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"NATS: {description} (code {code}, err_code {err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description


class BusUnavailable(BusError):
    """NATS is away, or did not answer in time."""

    def __init__(self, description: str) -> None:
        DispatcherError.__init__(self, description)
        self.code, self.err_code, self.description = 503, 0, description


class CallError(DispatcherError):
    """A call was refused at once; nothing was changed."""


class OptionError(CallError):
    """An option does not exist or has an illegal value."""


class FlowInvalid(OptionError):
    """Tasks cannot be put together like that: a cycle, an unknown parent, a result that does not fit a parameter."""


class QueueNameInvalid(OptionError, _Kept):
    """A queue or lane name that cannot be part of a NATS subject."""

    def __init__(self, name: object, what: str = "queue") -> None:
        super().__init__(f"{what} {name!r} is not a legal name: use 1 to 64 letters, digits, '_' or '-'")
        self.name = name
        self.what = what


class RunAtNaive(OptionError, _Kept):
    """``run_at`` has no time zone, so it does not name a moment."""

    def __init__(self) -> None:
        super().__init__("run_at has no time zone: pass an aware datetime, for example datetime.now(UTC)")


class UnknownLane(OptionError):
    """The queue has no such lane."""


class ArgumentsInvalid(CallError, _Kept):
    """The arguments do not fit the signature.  ``errors`` has one dict per problem (loc, type, msg), never a value."""

    def __init__(self, task_type: str, errors: Sequence[dict[str, Any]]) -> None:
        lines = "; ".join(f"{_location(e['loc'])}{e['msg']}" for e in errors)
        super().__init__(f"arguments of {task_type!r} are not valid: {lines}")
        self.task_type = task_type
        self.errors = list(errors)


class ArgumentsTooLarge(CallError, _Kept):
    """The encoded arguments are over the limit: store the data elsewhere and pass a reference."""

    def __init__(self, task_type: str, size: int, limit: int) -> None:
        super().__init__(
            f"arguments of {task_type!r} are {size:,} bytes, over the limit of {limit:,}:"
            " store the data elsewhere and pass a reference, or raise args_limit of the Dispatcher"
        )
        self.task_type = task_type
        self.size = size
        self.limit = limit


class KeyConflict(CallError, _Kept):
    """The idempotency key already belongs to task ``task_id``, which has other arguments."""

    def __init__(self, task_type: str, key: str, task_id: UUID) -> None:
        super().__init__(
            f"key {key!r} of {task_type!r} already belongs to task {task_id} with other arguments:"
            " use another key, or the same arguments"
        )
        self.task_type = task_type
        self.key = key
        self.task_id = task_id


class OutboxFull(CallError):
    """The configured number of tasks already waits for the broker; the transaction has to be rolled back."""


class NotAwaited(CallError, _Kept):
    """Calls on an asynchronous session or connection were never awaited, so nothing of them was done."""

    def __init__(self, calls: Sequence[str]) -> None:
        super().__init__(f"{', '.join(calls)}: not awaited, so it was not done: write 'await' before the call")
        self.calls = list(calls)


class UnknownTask(CallError, _Kept):
    """No task type of that name is registered; ``known`` lists those that are."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = sorted(known)
        super().__init__(
            f"no task type {name!r}{did_you_mean(name, self.known)} (is the module that defines it imported?)"
        )


class TaskNotFound(CallError, _Kept):
    """No task with that id: it was never committed, or it was pruned."""

    _kind = "task"

    def __init__(self, task_id: UUID | str) -> None:
        super().__init__(f"no {self._kind} {task_id}: it was never committed, or it is past its retention")
        self.task_id = task_id


class FlowNotFound(TaskNotFound):
    """No flow with that id."""

    _kind = "flow"


class WaitError(DispatcherError):
    """Waiting for a result did not give one."""


class NotCommitted(WaitError, _Kept):
    """The transaction that made the task is still open: nobody can run it, so waiting would never end."""

    def __init__(self, task_id: UUID) -> None:
        super().__init__(f"task {task_id} is not committed yet: wait after the end of the transaction that created it")
        self.task_id = task_id


class NotFinished(WaitError, _Kept):
    """The task has no outcome yet; ``state`` is where it is."""

    def __init__(self, task_id: UUID, state: str) -> None:
        super().__init__(f"task {task_id} has no result yet, it is {state}: use wait()")
        self.task_id = task_id
        self.state = state


class WaitTimeout(WaitError, _Kept, TimeoutError):
    """The task did not end in time; it goes on."""

    def __init__(self, task_id: UUID, timeout: float) -> None:
        super().__init__(f"task {task_id} did not end within {timeout:g} s; it is not affected by that")
        self.task_id = task_id
        self.timeout = timeout


class TaskFailed(WaitError, _Kept):
    """The task ended without a result: ``reason`` is a word such as ``exhausted``, ``error`` the stored error text."""

    word = "failed"

    def __init__(self, task_id: UUID, reason: str | None, error: str | None) -> None:
        last = error.strip().rsplit("\n", 1)[-1] if error and error.strip() else ""
        super().__init__(f"task {task_id} {self.word} ({reason or 'unknown'})" + (f": {last}" if last else ""))
        self.task_id = task_id
        self.reason = reason
        self.error = error


class TaskCancelled(TaskFailed):
    """The task was cancelled."""

    word = "was cancelled"


class Undecodable(DispatcherError):
    """Stored arguments or a stored result do not fit the code any more.  The text never holds a value."""


class ResultUnserialisable(DispatcherError):
    """What the handler returned cannot be stored: wrong type for its annotation, no JSON form, or too large."""


def _location(loc: Sequence[object]) -> str:
    return ".".join(str(part) for part in loc) + ": " if loc else ""
