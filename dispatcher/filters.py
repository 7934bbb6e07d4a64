"""The filters of a listing, checked: names, states, times, limit and cursor.  Pure."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from dispatcher.errors import OptionError, did_you_mean
from state.ids import first_id_at
from state.listing import Shape
from state.machine import State

__all__ = ["MOST", "Filters", "cursor_of", "state_named"]

MOST = 1000
"""The largest page."""
_TEXTS = ("queue", "type", "tag", "key", "error")
_KNOWN = ("state", *_TEXTS, "created_after", "created_before")
_NEWEST = UUID(int=(1 << 128) - 1)
_OLDEST = UUID(int=0)
_STOPPED = frozenset({State.FAILED, State.CANCELLED})
_UNCOUNTED = frozenset({State.BLOCKED, State.QUEUED})


def cursor_of(last: UUID) -> str:
    """The cursor of the page that starts below ``last``."""
    return urlsafe_b64encode(b"\x01" + last.bytes).decode().rstrip("=")


def _below(cursor: str) -> UUID:
    try:
        raw = urlsafe_b64decode(cursor.encode("ascii") + b"==")
        if raw[:1] != b"\x01" or cursor_of(UUID(bytes=raw[1:])) != cursor.rstrip("="):
            raise ValueError("not one of ours")
        return UUID(bytes=raw[1:])
    except (ValueError, AttributeError):
        raise OptionError(f"cursor {cursor!r} is not one that a page of this listing returned") from None


def state_named(name: str | State) -> State:
    """The state of that name.  Raises ``OptionError`` with the legal names."""
    if isinstance(name, State):
        return name
    found = {state.label: state for state in State}
    if name not in found:
        raise OptionError(f"no state {name!r}{did_you_mean(str(name), found)}")
    return found[name]


def _states(value: Any) -> frozenset[State]:
    if value is None:
        return frozenset()
    names: Iterable[Any] = [value] if isinstance(value, (str, State)) else value
    return frozenset(state_named(name) for name in names)


@dataclass(frozen=True)
class Filters:
    """Checked filters.  Ids searched are ``low`` (inclusive) to ``high`` (exclusive)."""

    states: frozenset[State]
    texts: Mapping[str, str]
    low: UUID
    high: UUID
    limit: int
    nothing: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any], limit: int, cursor: str | None) -> Filters:
        """Check what a caller gave.  Raises ``OptionError`` naming the filter."""
        for name in given:
            if name not in _KNOWN:
                raise OptionError(f"no filter {name!r}{did_you_mean(name, _KNOWN)}")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
            raise OptionError(f"limit is {limit!r}, it must be a whole number from 1 to {MOST}")
        texts = {name: _text(name, given[name]) for name in _TEXTS if given.get(name) is not None}
        low = _moment("created_after", given.get("created_after"), _OLDEST)
        high = _moment("created_before", given.get("created_before"), _NEWEST)
        if cursor is not None:
            high = min(high, _below(cursor))
        states = _states(given.get("state"))
        if "error" in texts:
            if states and not states & _STOPPED:
                raise OptionError(
                    "only failed and cancelled tasks can be searched by error text; drop the state filter"
                )
            states = states & _STOPPED or _STOPPED
        return cls(states, texts, low, high, limit)

    @property
    def uncounted(self) -> frozenset[State]:
        """Wanted states whose number decides where to look; none when another filter already narrows enough."""
        if "key" in self.texts or State.SUCCEEDED in self.states:
            return frozenset()
        return self.states & _UNCOUNTED

    def without(self, states: Iterable[State]) -> Filters:
        """The same, knowing that no task is in ``states``."""
        left = self.states - (frozenset(states) & {State.BLOCKED})
        return replace(self, states=left, nothing=not left)

    def shape(self, many: frozenset[State]) -> Shape:
        """What the statement has to look like."""
        queue, type_, tag, key, error = (name in self.texts for name in _TEXTS)
        return Shape(self.states, queue, type_, tag, key, error, many & self.states)

    def values(self, high: UUID | None, most: int) -> dict[str, Any]:
        """The statement's parameters."""
        values: dict[str, Any] = {**self.texts, "low": self.low, "high": high or self.high, "most": most}
        if self.states:
            values["states"] = sorted(int(state) for state in self.states)
        return values


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or "\x00" in value:
        raise OptionError(f"{name} is {value!r}, it must be a text that is not empty")
    return value


def _moment(name: str, value: Any, default: UUID) -> UUID:
    if value is None:
        return default
    if not isinstance(value, datetime):
        raise OptionError(f"{name} is {value!r}, it must be a datetime")
    if value.tzinfo is None:
        raise OptionError(f"{name} has no time zone: pass an aware datetime, for example datetime.now(UTC)")
    try:
        return first_id_at(value)
    except ValueError:
        raise OptionError(f"{name} is {value.isoformat()}, task ids cover the years 1970 to 10889") from None
