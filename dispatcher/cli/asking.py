"""What the commands about tasks and queues share: who asks, a connection to ask on, and times as people write them."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg.rows import TupleRow

from dispatcher.cli.options import require_database
from dispatcher.database import connect_limited
from dispatcher.errors import OptionError
from dispatcher.settings import Settings

__all__ = ["actor", "ago", "asking", "moment"]

_AGO = re.compile(r"(\d{1,9})\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SECONDS = 30.0


@contextmanager
def asking(settings: Settings) -> Iterator[psycopg.Connection[TupleRow]]:
    """An autocommit connection that is closed afterwards; an answer takes at most 30 s."""
    require_database(settings)
    with connect_limited(settings, "dispatcher command", _SECONDS) as connection:
        yield connection


def actor() -> str:
    """The name that the audit trail shows for this person."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return f"cli:{os.getuid()}"


def moment(option: str, text: str | None) -> datetime | None:
    """A time from ``2026-01-31``, ``2026-01-31T12:00:00+01:00`` (UTC without zone) or ``15m``, ``2h``, ``7d`` ago."""
    if text is None:
        return None
    match = _AGO.fullmatch(text.strip())
    try:
        if match:
            return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
        when = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise OptionError(
            f"{option} {text!r} is not a time: write 2026-01-31, 2026-01-31T12:00:00Z, or 15m, 2h, 7d for so long ago"
        ) from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def ago(when: datetime | None) -> str:
    """How long ago, in the largest fitting unit; empty for ``None``."""
    if when is None:
        return ""
    seconds = (datetime.now(UTC) - when).total_seconds()
    sign, seconds = ("in ", -seconds) if seconds < 0 else ("", seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{sign}{seconds / size:.0f}{unit}"
    return f"{sign}{seconds:.0f}s"
