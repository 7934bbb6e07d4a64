"""What can be asked of a task: the option names with their types, and one check per option.

An option is checked where it is written, in ``@app.task(...)`` or ``.options(...)``, and never again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict

from dispatcher.errors import OptionError, QueueNameInvalid, RunAtNaive, did_you_mean
from dispatcher.retry import Retry

__all__ = ["CallOptions", "Retry", "TaskOptions", "check_options", "check_queue_name", "check_times"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST = 100 * 366 * 86400.0
"""Longest time span in seconds: a hundred years.  More is a mistake, and PostgreSQL's clock has an end."""
_MAX_TRIES = 32767


class CallOptions(TypedDict, total=False):
    """Options of one call, given with ``.options(...)``; each may also stand in ``@app.task(...)`` as the default."""

    key: str | None
    """Idempotency key, 1 to 200 characters: a second enqueue with it returns the first task (``created`` is False)."""
    key_ttl: float | timedelta | None
    """How long the key holds; as long as the task's row exists when not given."""
    delay: float | timedelta | None
    """Start no earlier than this after now, by the database's clock."""
    run_at: datetime | None
    """Start no earlier than this moment; needs a time zone."""
    queue: str
    """1 to 64 letters, digits, ``_`` or ``-``."""
    lane: str
    """Priority within the queue: ``high``, ``default``, ``low``, or one that streams.conf gives the queue."""
    max_attempts: int | None
    """How many tries, the first included; overrides that of ``retry``."""
    retry: Retry | None
    """When and how to try again."""
    timeout: float | timedelta | None
    """How long one attempt may run; then it is ended, and tried again by the retry policy."""
    soft_timeout: float | timedelta | None
    """How long one attempt may run before it is asked to come to an end; less than ``timeout``."""
    deadline: float | timedelta | None
    """How long after its creation the task must be finished; otherwise it fails with reason ``deadline``."""
    tags: Iterable[str]
    """Words to find the task by; each 1 to 200 characters."""
    headers: Mapping[str, str]
    """Anything to carry along, text to text; shown in listings."""
    expires: float | timedelta | None
    """How long after it is due the task is still worth starting; later it fails with reason ``expired``."""


class TaskOptions(CallOptions, total=False):
    """Options of a task type, given with ``@app.task(...)``."""

    name: str
    """The stored name; ``module.function`` when not given."""
    aliases: Iterable[str]
    """Older names under which stored tasks of this type may still wait."""
    pool: Literal["thread", "process"]
    """Where it runs: ``process`` is a child process that can be ended alone.  Without it plain functions run in a
    thread and async ones on the worker's event loop."""


def check_queue_name(name: object, what: str = "queue") -> str:
    """Return ``name`` if it can be a token of a NATS subject, otherwise raise ``QueueNameInvalid``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise QueueNameInvalid(name, what)
    return name


def check_options(given: Mapping[str, Any], known: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Every option checked and normalised: times become seconds, tags a tuple.  Raises ``OptionError``."""
    if "delay" in given and "run_at" in given and given["delay"] is not None and given["run_at"] is not None:
        raise OptionError("delay and run_at exclude each other: give one")
    checked: dict[str, Any] = {}
    for name, value in given.items():
        check = known.get(name)
        if check is None:
            raise OptionError(f"no option {name!r}{did_you_mean(name, known)}")
        checked[name] = check(value)
    check_times(checked)
    return checked


def check_times(options: Mapping[str, Any]) -> None:
    """Refuse times that contradict each other; also for the options of type and call together."""
    soft, hard = options.get("soft_timeout"), options.get("timeout")
    if soft is not None and hard is not None and soft >= hard:
        raise OptionError(f"soft_timeout must be less than timeout, not {soft:g} s of {hard:g} s")
    delay, deadline = options.get("delay"), options.get("deadline")
    if delay is not None and deadline is not None and delay >= deadline:
        raise OptionError(f"deadline must be later than delay, not {deadline:g} s after a delay of {delay:g} s")


def _text(name: str, longest: int = 200) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise OptionError(f"{name} must be text, not {type(value).__name__}")
        if not 1 <= len(value) <= longest:
            raise OptionError(f"{name} must have 1 to {longest} characters, not {len(value)}")
        return _storable(name, value)

    return check


def _storable(name: str, value: str) -> str:
    if "\0" in value:
        raise OptionError(f"{name} must not contain NUL characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise OptionError(f"{name} contains half a surrogate pair, which is not text") from None
    return value


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _seconds(name: str, *, zero: bool) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        seconds = value.total_seconds() if isinstance(value, timedelta) else value
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise OptionError(f"{name} must be seconds or a timedelta, not {type(value).__name__}")
        if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
            raise OptionError(f"{name} must be {'at least' if zero else 'more than'} 0 s, not {seconds:g}")
        if seconds > _LONGEST:
            raise OptionError(f"{name} must be at most 100 years, not {seconds:g} s")
        return float(seconds)

    return check


def _moment(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise OptionError(f"run_at must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise RunAtNaive
    return value.astimezone(UTC)


def _max_attempts(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"max_attempts must be a whole number, not {type(value).__name__}")
    if not 1 <= value <= _MAX_TRIES:
        raise OptionError(f"max_attempts must be 1 to {_MAX_TRIES}, not {value}")
    return value


def _retry(value: Any) -> Retry:
    if not isinstance(value, Retry):
        raise OptionError(f"retry must be a Retry, for example Retry(max_attempts=5), not {type(value).__name__}")
    return value


def _words(name: str) -> Callable[[Any], tuple[str, ...]]:
    word = _text(f"each of {name}")

    def check(value: Any) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise OptionError(f"{name} must be several words, for example [{value!r}], not {type(value).__name__}")
        return tuple(dict.fromkeys(word(item) for item in value))

    return check


def _pool(value: Any) -> str:
    if value not in ("thread", "process"):
        raise OptionError(f"pool must be 'thread' or 'process', not {value!r}")
    return str(value)


def _headers(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise OptionError(f"headers must be a mapping of text to text, not {type(value).__name__}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise OptionError("headers must map text to text")
        _storable("headers", name + text)
    return dict(value)


CALL_CHECKS: dict[str, Callable[[Any], Any]] = {
    "key": _optional(_text("key")),
    "key_ttl": _optional(_seconds("key_ttl", zero=False)),
    "delay": _optional(_seconds("delay", zero=True)),
    "run_at": _optional(_moment),
    "queue": check_queue_name,
    "lane": lambda value: check_queue_name(value, "lane"),
    "max_attempts": _optional(_max_attempts),
    "retry": _optional(_retry),
    "timeout": _optional(_seconds("timeout", zero=False)),
    "soft_timeout": _optional(_seconds("soft_timeout", zero=False)),
    "deadline": _optional(_seconds("deadline", zero=False)),
    "tags": _words("tags"),
    "headers": _headers,
    "expires": _optional(_seconds("expires", zero=False)),
}
"""Option name to check, for ``.options(...)``."""

TASK_CHECKS: dict[str, Callable[[Any], Any]] = {
    **CALL_CHECKS,
    "name": _text("name"),
    "aliases": _words("aliases"),
    "pool": _pool,
}
"""Option name to check, for ``@app.task(...)``."""
