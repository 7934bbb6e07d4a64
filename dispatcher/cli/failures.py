"""What every kind of error means on the command line: its one line and its exit code.

Nothing is imported to find out: an error whose package was never loaded cannot have been raised.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from state.errors import DispatcherError

__all__ = ["CONFLICT", "ERROR", "NOT_FOUND", "OK", "UNAVAILABLE", "USAGE", "Failure", "describe"]

OK = 0
ERROR = 1
"""Something went wrong."""
USAGE = 2
"""The command, an option, a setting or a file is not valid."""
NOT_FOUND = 3
"""The task, queue or file that was named does not exist."""
CONFLICT = 4
"""What was asked for contradicts what is there."""
UNAVAILABLE = 5
"""PostgreSQL or NATS cannot be reached, or does not answer."""

_CODES = {
    "ConfigurationError": USAGE,
    "CallError": USAGE,
    "RevisionUnknown": USAGE,
    "UnknownTask": NOT_FOUND,
    "TaskNotFound": NOT_FOUND,
    "FlowNotFound": NOT_FOUND,
    "FlowInUse": CONFLICT,
    "KeyConflict": CONFLICT,
    "NotCommitted": CONFLICT,
    "NotFinished": CONFLICT,
    "BusUnavailable": UNAVAILABLE,
    "SchemaBusy": UNAVAILABLE,
    "OutboxFull": UNAVAILABLE,
    "SchemaError": CONFLICT,
}
_MOST = 600


@dataclass(frozen=True, slots=True)
class Failure:
    """One line for people and the exit code that goes with it."""

    message: str
    code: int


def describe(error: BaseException) -> Failure:
    """Say in one line what ``error`` means and what to do about it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, DispatcherError):
        return Failure(_one_line(error), _code(error))
    failure = _database(error) or _broker(error)
    if failure is not None:
        return failure
    if isinstance(error, FileNotFoundError):
        return Failure(f"there is no file {error.filename}", NOT_FOUND)
    if isinstance(error, OSError):
        return Failure(_one_line(error), UNAVAILABLE if isinstance(error, ConnectionError | TimeoutError) else ERROR)
    return Failure(
        f"unexpected {type(error).__name__}: {_one_line(error)}; run it again with DISPATCHER_DEBUG=1 for details",
        ERROR,
    )


def _code(error: DispatcherError) -> int:
    if getattr(error, "code", None) == 503:  # JetStream: no responder, no leader
        return UNAVAILABLE
    return next((_CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _CODES), ERROR)


def _database(error: BaseException) -> Failure | None:
    psycopg: Any = sys.modules.get("psycopg")
    # SQLAlchemy wraps the driver's error into several lines with the whole statement
    original = getattr(error, "orig", None) or error
    if psycopg is None or not isinstance(original, psycopg.Error):
        return None
    state = getattr(original, "sqlstate", None) or ""
    if state in ("42P01", "3F000", "42883"):
        return Failure(
            f"the database has no dispatcher tables here, or old ones ({_one_line(original)}); see: dispatcher migrate"
            " status",
            CONFLICT,
        )
    if state in ("26000", "42P05"):  # a prepared statement that this session does not have, or has already
        from dispatcher.database import THROUGH_A_POOLER

        return Failure(f"PostgreSQL refused: {_one_line(original)}; {THROUGH_A_POOLER}", USAGE)
    if state.startswith("DS"):
        codes = {"DS001": UNAVAILABLE, "DS002": USAGE, "DS003": CONFLICT, "DS005": USAGE}
        return Failure(_one_line(original), codes.get(state, ERROR))
    if isinstance(original, psycopg.OperationalError) and state[:2] not in ("42", "40", "55"):
        return Failure(
            f"PostgreSQL cannot be reached: {_one_line(original)}; check --database-url or DISPATCHER_DATABASE_URL",
            UNAVAILABLE,
        )
    if isinstance(original, psycopg.ProgrammingError) and not state:
        # raised while reading the URL; the text may repeat parts of it, and with them the password
        return Failure(
            "the database URL cannot be read; write postgresql://user:password@host:5432/name in --database-url or"
            " DISPATCHER_DATABASE_URL",
            USAGE,
        )
    return Failure(f"PostgreSQL refused: {_one_line(original)}", ERROR)


def _broker(error: BaseException) -> Failure | None:
    if not type(error).__module__.startswith("nats"):
        return None
    return Failure(
        f"NATS does not answer as it should: {_one_line(error) or type(error).__name__}; check --nats-url or"
        " DISPATCHER_NATS_URL",
        UNAVAILABLE,
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"
