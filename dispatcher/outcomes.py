"""What a handler raises to say how its attempt ends, when neither a return nor an error says it."""

from __future__ import annotations

import math
from datetime import timedelta

__all__ = ["Cancel", "DispatcherSignal", "RetryIn", "Snooze"]


class DispatcherSignal(Exception):
    """Base of the three; not a ``DispatcherError``, because nothing went wrong in the dispatcher."""


class RetryIn(DispatcherSignal):
    """This attempt failed; try again after ``delay`` (seconds or timedelta).  Consumes a try, as any failure does."""

    def __init__(self, delay: float | timedelta, why: str | None = None) -> None:
        self.seconds = _seconds("RetryIn", delay)
        self.why = why
        super().__init__(f"retry in {self.seconds:g} s" + (f": {why}" if why else ""))


class Snooze(DispatcherSignal):
    """Not now: start again after ``delay`` (seconds or timedelta).  Consumes no try."""

    def __init__(self, delay: float | timedelta, why: str | None = None) -> None:
        self.seconds = _seconds("Snooze", delay)
        self.why = why
        super().__init__(f"snooze for {self.seconds:g} s" + (f": {why}" if why else ""))


class Cancel(DispatcherSignal):
    """End the task as cancelled; ``why`` is kept in its history."""

    def __init__(self, why: str | None = None) -> None:
        self.why = why
        super().__init__(why or "cancelled by its handler")


def _seconds(what: str, delay: float | timedelta) -> float:
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{what} takes seconds or a timedelta, not {type(delay).__name__}")
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{what} takes seconds >= 0, not {seconds}")
    return float(seconds)
