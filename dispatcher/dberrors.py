"""From a database error, whichever library raised it, to one of ours where we know the cure."""

from __future__ import annotations

from typing import Any

from dispatcher.errors import DispatcherError, OutboxFull, SchemaMissing, UnknownLane
from state.create import OUTBOX_FULL, UNKNOWN_LANE

__all__ = ["sqlstate", "translated"]

_UNDEFINED = frozenset({"3F000", "42P01", "42883"})
"""No such schema, table or function."""


def sqlstate(error: BaseException) -> str | None:
    """The five-character SQLSTATE, if the error carries one (psycopg, psycopg2, asyncpg, SQLAlchemy around them)."""
    inner: Any = getattr(error, "orig", None) or error
    state = getattr(inner, "sqlstate", None) or getattr(inner, "pgcode", None)
    return str(state) if state else None


def translated(error: Exception, schema: str) -> DispatcherError | None:
    """Our error for this one, or ``None`` if it is the caller's own business (a lost connection, a deadlock ...)."""
    state = sqlstate(error)
    if state == OUTBOX_FULL:
        return OutboxFull(f"{_first_line(error)}: see that a relay runs and reaches NATS, or raise the outbox limit")
    if state == UNKNOWN_LANE:
        return UnknownLane(
            f"{_first_line(error)}: use high, default or low, or add the lane to streams.conf and run:"
            " dispatcher streams apply"
        )
    if (state in _UNDEFINED and f"{schema}." in str(error)) or state == "3F000":
        return SchemaMissing(schema)
    return None


def _first_line(error: Exception) -> str:
    inner: Any = getattr(error, "orig", None) or error
    diagnostics = getattr(inner, "diag", None)
    text = getattr(diagnostics, "message_primary", None) or str(inner)
    return str(text).splitlines()[0].rsplit("Error'>: ", 1)[-1]
