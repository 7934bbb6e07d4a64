"""Run statements on whatever transaction the caller has: one table of session kinds, nothing imported for it.

Libraries are looked up among the modules that are already loaded: an object of theirs cannot exist without them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from dispatcher.errors import OptionError
from dispatcher.steps import Row, Steps
from state.sql import Sql

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    SyncTx: TypeAlias = Session | scoped_session[Any] | Connection | psycopg.Connection[Any]
    AsyncTx: TypeAlias = AsyncSession | async_scoped_session[Any] | AsyncConnection | psycopg.AsyncConnection[Any]
else:
    SyncTx = AsyncTx = Any

__all__ = [
    "AsyncTx",
    "Row",
    "Steps",
    "SyncTx",
    "is_async",
    "kind_of",
    "resolved",
    "run",
    "run_async",
    "run_steps",
    "run_steps_async",
]

T = TypeVar("T")

_KINDS = (
    ("psycopg", "Connection", "psycopg"),
    ("psycopg", "AsyncConnection", "psycopg_async"),
    ("sqlalchemy.orm", "Session", "session"),
    ("sqlalchemy.orm", "scoped_session", "scoped"),
    ("sqlalchemy.engine", "Connection", "connection"),
    ("sqlalchemy.ext.asyncio", "AsyncSession", "async_session"),
    ("sqlalchemy.ext.asyncio", "async_scoped_session", "async_scoped"),
    ("sqlalchemy.ext.asyncio", "AsyncConnection", "async_connection"),
)
_ASYNC = frozenset({"psycopg_async", "async_session", "async_scoped", "async_connection"})
_known: dict[type, str] = {}


def kind_of(tx: object) -> str:
    """Which kind of session or connection this is.  Raises ``OptionError`` for anything else."""
    kind = _known.get(type(tx))
    if kind is None:
        kind = _known[type(tx)] = _classify(tx)
    return kind


def _classify(tx: object) -> str:
    for module, name, kind in _KINDS:
        cls = getattr(sys.modules.get(module), name, None)
        if cls is not None and isinstance(tx, cls):
            return kind
    raise OptionError(
        f"expected a session or connection as the first argument, not {type(tx).__name__}: pass an SQLAlchemy Session,"
        " Connection, AsyncSession or AsyncConnection, or a psycopg connection; for any other driver use"
        " call(...).statement()"
    )


def resolved(tx: Any) -> Any:
    """The session that a scoped session stands for here and now, anything else as it is.

    A coroutine may be run by another asyncio task, where the scope has another session: resolve before making it.
    """
    return tx() if kind_of(tx) in ("scoped", "async_scoped") else tx


def is_async(tx: object) -> bool:
    """Whether work on this session has to be awaited.  Raises ``OptionError`` for anything that is no session."""
    return kind_of(tx) in _ASYNC


def run(tx: SyncTx, sql: Sql, params: Mapping[str, Any], schema: str) -> list[Row]:
    """Run one statement in the caller's transaction and return its rows as plain tuples."""
    kind = kind_of(tx)
    if kind == "psycopg":
        from dispatcher import tx_psycopg

        return tx_psycopg.run(tx, sql, params, schema)  # type: ignore[arg-type]
    _refuse_async(tx, kind)
    from dispatcher import tx_sqlalchemy

    return tx_sqlalchemy.run(tx_sqlalchemy.connection_of(tx), sql, params, schema)


async def run_async(tx: AsyncTx, sql: Sql, params: Mapping[str, Any], schema: str) -> list[Row]:
    """Run one statement in the caller's asynchronous transaction."""
    if kind_of(tx) == "psycopg_async":
        from dispatcher import tx_psycopg

        return await tx_psycopg.run_async(tx, sql, params, schema)  # type: ignore[arg-type]
    from dispatcher import tx_sqlalchemy as sa

    owner: Any = resolved(tx)
    rows: list[Row] = await owner.run_sync(lambda sync: sa.run(sa.connection_of(sync), sql, params, schema))
    return rows


def run_steps(tx: SyncTx, steps: Steps[T], schema: str, *, atomic: bool = True) -> T:
    """Run several statements: all or nothing, and after an error the transaction is as usable as before.

    ``atomic=False`` spares reads the savepoint.
    """
    kind = kind_of(tx)
    if kind == "psycopg":
        from dispatcher import tx_psycopg

        return tx_psycopg.drive(tx, steps, schema, atomic)  # type: ignore[arg-type]
    _refuse_async(tx, kind)
    from dispatcher import tx_sqlalchemy

    return tx_sqlalchemy.drive(tx_sqlalchemy.connection_of(tx), steps, schema, atomic)


async def run_steps_async(tx: AsyncTx, steps: Steps[T], schema: str, *, atomic: bool = True) -> T:
    """The same on an asynchronous session."""
    if kind_of(tx) == "psycopg_async":
        from dispatcher import tx_psycopg

        return await tx_psycopg.drive_async(tx, steps, schema, atomic)  # type: ignore[arg-type]
    from dispatcher import tx_sqlalchemy as sa

    owner: Any = resolved(tx)
    result: T = await owner.run_sync(lambda sync: sa.drive(sa.connection_of(sync), steps, schema, atomic))
    return result


def _refuse_async(tx: object, kind: str) -> None:
    if kind in _ASYNC:
        raise OptionError(f"{type(tx).__name__} is asynchronous: use the asynchronous form and await it")
