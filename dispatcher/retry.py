"""The retry policy: which errors are worth another try, how many tries, how long between them.  Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dispatcher.errors import OptionError

__all__ = ["Retry"]

ErrorKind = type[BaseException] | str
"""An exception class, or its full name ``module.Class``."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again up to ``max_attempts`` times in all, after a random part of an exponentially growing delay.

    The n-th wait is uniform between 0 and ``min(max_delay, backoff * factor ** (n - 1))`` seconds ("full jitter": tasks
    that failed together do not come back together); without ``jitter`` it is that bound itself.  Only errors of a kind
    in ``on`` and of none in ``not_on`` are retried; any other ends the task as failed with reason ``rejected``.
    Times are seconds or ``timedelta``.  Raises ``OptionError`` for illegal values.
    """

    max_attempts: int = 5
    backoff: float | timedelta = 1.0
    factor: float = 2.0
    max_delay: float | timedelta = 3600.0
    jitter: bool = True
    on: ErrorKind | Iterable[ErrorKind] = Exception
    not_on: ErrorKind | Iterable[ErrorKind] = ()

    def __post_init__(self) -> None:
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int):
            raise OptionError(f"Retry: max_attempts must be a whole number, not {type(self.max_attempts).__name__}")
        if not 1 <= self.max_attempts <= 32767:
            raise OptionError(f"Retry: max_attempts must be 1 to 32767, not {self.max_attempts}")
        self._set("backoff", _number("backoff", self.backoff, 0))
        self._set("factor", _number("factor", self.factor, 1))
        self._set("max_delay", _number("max_delay", self.max_delay, 0))
        self._set("on", _kinds("on", self.on))
        self._set("not_on", _kinds("not_on", self.not_on))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def delay(self, tries: int, random: Callable[[], float]) -> float:
        """Seconds to wait after ``tries`` tries (at least 1) were used; ``random`` gives a number in [0, 1)."""
        backoff, longest = float(self.backoff), float(self.max_delay)  # type: ignore[arg-type]
        try:
            bound = min(longest, backoff * self.factor ** (max(tries, 1) - 1))
        except OverflowError:
            bound = longest
        return bound * random() if self.jitter else bound

    def wants(self, error: BaseException) -> bool:
        """Whether this error is worth another try."""
        return _is_any(error, self.on) and not _is_any(error, self.not_on)

    def to_meta(self) -> dict[str, Any]:
        """As JSON, for a policy that one call overrides: error classes become their full names."""
        return {
            "max_attempts": self.max_attempts,
            "backoff": self.backoff,
            "factor": self.factor,
            "max_delay": self.max_delay,
            "jitter": self.jitter,
            "on": [_full_name(kind) for kind in self.on],  # type: ignore[union-attr]
            "not_on": [_full_name(kind) for kind in self.not_on],  # type: ignore[union-attr]
        }

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> Retry:
        """Back from :meth:`to_meta`.  Unknown fields, written by a newer version, are left out."""
        return cls(**{name: meta[name] for name in cls.__slots__ if name in meta})


def _number(name: str, value: float | timedelta, least: float) -> float:
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise OptionError(f"Retry: {name} must be a number, not {type(value).__name__}")
    if not math.isfinite(number) or number < least:
        raise OptionError(f"Retry: {name} must be at least {least}, not {number:g}")
    return float(number)


def _kinds(name: str, value: Any) -> tuple[ErrorKind, ...]:
    kinds: tuple[Any, ...] = (
        (value,) if isinstance(value, (type, str)) or not isinstance(value, Iterable) else tuple(value)
    )
    for kind in kinds:
        if not isinstance(kind, str) and not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise OptionError(f"Retry: {name} must name exception classes, not {kind!r}")
    return kinds


def _full_name(kind: ErrorKind) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _is_any(error: BaseException, kinds: Any) -> bool:
    names: set[str] | None = None
    for kind in kinds:
        if isinstance(kind, str):
            if names is None:
                names = {_full_name(parent) for parent in type(error).__mro__ if issubclass(parent, BaseException)}
            if kind in names:
                return True
        elif isinstance(error, kind):
            return True
    return False
