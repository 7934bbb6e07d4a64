"""From what a handler did to what is written: pure, one function, every case named."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from dispatcher.errors import ResultUnserialisable, Undecodable
from dispatcher.options import Retry
from dispatcher.outcomes import Cancel, RetryIn, Snooze
from state.machine import Reason, State
from workers.attempt import Outcome, Stop
from workers.masked import storable

__all__ = [
    "DeadlineOver",
    "HandlerTimeout",
    "ProcessDied",
    "describe_error",
    "outcome_of_error",
    "outcome_of_stop",
    "retry_of",
    "within_deadline",
]

_LONGEST_MESSAGE = 4000
_LONGEST_TRACEBACK = 16000
_LONGEST_DELAY = 10 * 365 * 86400.0


class HandlerTimeout(Exception):
    """The handler ran longer than its timeout.  Counts as an error of its own kind for the retry policy."""


class DeadlineOver(Exception):
    """The task's deadline has passed."""


class ProcessDied(Exception):
    """The child process that ran the handler ended.  An error as any other for the retry policy."""


def outcome_of_error(
    error: BaseException,
    *,
    tries: int,
    max_tries: int,
    retry: Retry,
    random: Callable[[], float],
    secrets: Sequence[str],
) -> Outcome:
    """What an exception that left the handler means for the task."""
    match error:
        case Snooze():
            return Outcome(
                State.SCHEDULED,
                reason=Reason.SNOOZED,
                delay=min(error.seconds, _LONGEST_DELAY),
                refund=1,
                detail=_why(error.why, secrets),
            )
        case Cancel():
            return Outcome(State.CANCELLED, reason=Reason.BY_REQUEST, detail=_why(str(error), secrets))
        case Undecodable():
            return Outcome(State.FAILED, reason=Reason.UNDECODABLE, detail=describe_error(error, secrets))
        case ResultUnserialisable():
            return Outcome(State.FAILED, reason=Reason.UNSERIALISABLE, detail=describe_error(error, secrets))
        case DeadlineOver():
            return Outcome(State.FAILED, reason=Reason.DEADLINE, detail=describe_error(error, secrets))
    reason = Reason.TIMEOUT if isinstance(error, HandlerTimeout) else Reason.ERROR
    detail = describe_error(error, secrets)
    if isinstance(error, RetryIn):
        return Outcome(State.RETRYING, reason=reason, delay=min(error.seconds, _LONGEST_DELAY), detail=detail)
    if not isinstance(error, HandlerTimeout) and not retry.wants(error):
        return Outcome(State.FAILED, reason=Reason.REJECTED, detail=detail)
    delay = min(retry.delay(tries, random), _LONGEST_DELAY)
    return Outcome(State.RETRYING, reason=reason, delay=delay, detail=detail)


def outcome_of_stop(stop: Stop, timeout: float | None) -> Outcome:
    """What it means that the worker itself stopped the handler (timeouts are errors, see above)."""
    match stop:
        case Stop.CANCEL:
            return Outcome(State.CANCELLED, reason=Reason.BY_REQUEST)
        case Stop.RELEASE | Stop.FENCE:
            return Outcome(State.QUEUED, reason=Reason.RELEASED, refund=1)
        case Stop.TIMEOUT:
            raise AssertionError(f"a timeout of {timeout} s is settled as an error")


def within_deadline(outcome: Outcome, left: float, *, last_try: bool) -> Outcome:
    """An attempt that wants to start again after its deadline, ``left`` seconds from now, fails at once."""
    again = outcome.to is State.SCHEDULED or (outcome.to is State.RETRYING and not last_try)
    if not again or outcome.delay < left:
        return outcome
    detail = dict(outcome.detail or {})
    said = detail.get("message")
    detail["message"] = (
        f"{said} (and it would start again only after its deadline)" if said else "asked to start after its deadline"
    )
    return Outcome(State.FAILED, reason=Reason.DEADLINE, detail=detail)


def retry_of(own: Retry, meta: dict[str, Any] | None) -> Retry:
    """The policy of one task: what its call said, or else that of its type."""
    return Retry.from_meta(meta["retry"]) if meta and "retry" in meta else own


def describe_error(error: BaseException, secrets: Sequence[str]) -> dict[str, Any]:
    """Type, message, traceback and fingerprint of an error, with every secret argument masked."""
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    return {
        "type": storable(kind, secrets),
        "message": storable(_text_of(error), secrets)[:_LONGEST_MESSAGE],
        "traceback": storable("".join(traceback.format_exception(error)), secrets)[-_LONGEST_TRACEBACK:],
        "fingerprint": _fingerprint(kind, error),
    }


def _fingerprint(kind: str, error: BaseException) -> str:
    """Groups failures that come from the same place: the error's type and the code lines it went through."""
    places = [f"{frame.filename}:{frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    return hashlib.sha256("\n".join([kind, *places]).encode()).hexdigest()[:16]


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - an error that cannot say what it is must not hide that it happened
        return f"<{type(error).__qualname__} whose text cannot be read: {type(broken).__qualname__}>"


def _why(why: object, secrets: Sequence[str]) -> dict[str, Any] | None:
    return {"message": storable(str(why), secrets)[:_LONGEST_MESSAGE]} if why else None
