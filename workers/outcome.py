"""From what a handler did to what is written: pure, one function, every case named."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from dispatcher.errors import ResultUnserialisable, Undecodable
from dispatcher.options import Retry
from dispatcher.outcomes import Cancel, RetryIn, Snooze
from state.machine import Reason, State
from workers.attempt import Outcome, Stop

__all__ = ["HandlerTimeout", "describe_error", "outcome_of_error", "outcome_of_stop", "storable"]

_LONGEST_MESSAGE = 4000
_LONGEST_TRACEBACK = 16000
_MASK = "**********"
_LONGEST_DELAY = 10 * 365 * 86400.0


class HandlerTimeout(Exception):
    """The handler ran longer than its timeout.  Counts as an error of its own kind for the retry policy."""


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


def storable(text: str, secrets: Sequence[str]) -> str:
    """A handler's text with every secret masked, also where it is quoted, and without what PostgreSQL cannot store."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for form in {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}:
            text = text.replace(form, _MASK)
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _why(why: object, secrets: Sequence[str]) -> dict[str, Any] | None:
    return {"message": storable(str(why), secrets)[:_LONGEST_MESSAGE]} if why else None
