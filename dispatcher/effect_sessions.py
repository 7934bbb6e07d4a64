"""Open a session for a handler's transaction on what the application has: engine, session factory, pool, or nothing.

Each function is a context manager that commits at its end and rolls back when an error passes through.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from dispatcher.errors import ConfigurationError, OptionError
from dispatcher.installation import Installation

__all__ = ["close_pools", "open_async", "open_sync"]

_KINDS = (
    ("sqlalchemy.ext.asyncio", "AsyncEngine", "async_engine"),
    ("sqlalchemy.ext.asyncio", "async_sessionmaker", "async_maker"),
    ("sqlalchemy.engine", "Engine", "engine"),
    ("sqlalchemy.orm", "sessionmaker", "maker"),
    ("psycopg_pool", "AsyncConnectionPool", "async_pool"),
    ("psycopg_pool", "ConnectionPool", "pool"),
)
_MOST_CONNECTIONS = 16
_IDLE_SECONDS = 10.0
_lock = threading.Lock()
_pools: dict[str, Any] = {}
_async_pools: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
"""By event loop and URL: a pool works on the loop that opened it."""


def _kind_of(database: object) -> str:
    for module, name, kind in _KINDS:
        cls = getattr(sys.modules.get(module), name, None)
        if cls is not None and isinstance(database, cls):
            return kind
    raise OptionError(
        f"no transaction can be opened on {type(database).__name__}: give an SQLAlchemy engine or sessionmaker"
        " (AsyncEngine, async_sessionmaker, Engine, sessionmaker) or a psycopg pool, or nothing for the setting"
        " DISPATCHER_DATABASE_URL"
    )


def _url(home: Installation) -> str:
    url: str | None = home.settings.database_url
    if not url:
        raise ConfigurationError("no PostgreSQL is configured; set DISPATCHER_DATABASE_URL or use app.database(engine)")
    return url


def _arguments(home: Installation) -> dict[str, Any]:
    """With a name, so that pg_stat_activity says whose transaction it is.  Poolers do not keep prepared statements."""
    return {"application_name": "dispatcher handler"} | ({"prepare_threshold": None} if home.settings.pooled else {})


@asynccontextmanager
async def open_async(home: Installation, database: Any) -> AsyncIterator[Any]:
    """A session or connection for ``async with``.  Raises ``OptionError`` for what can only be used with ``with``."""
    database = home.database if database is None else database
    kind = "own" if database is None else _kind_of(database)
    if kind in ("async_engine", "async_maker"):
        from sqlalchemy.ext.asyncio import AsyncSession

        session = AsyncSession(database, expire_on_commit=False) if kind == "async_engine" else database()
        async with session, session.begin():
            yield session
        return
    if kind not in ("own", "async_pool"):
        raise OptionError(f"{type(database).__name__} is synchronous: write 'with', not 'async with'")
    pool = await _own_async_pool(home) if kind == "own" else database
    async with pool.connection() as connection:
        if not connection.autocommit:
            yield connection
            return
        async with connection.transaction():
            yield connection


@contextmanager
def open_sync(home: Installation, database: Any) -> Iterator[Any]:
    """A session or connection for ``with``.  Raises ``OptionError`` for what can only be used with ``async with``."""
    database = home.database if database is None else database
    kind = "own" if database is None else _kind_of(database)
    if kind in ("engine", "maker"):
        from sqlalchemy.orm import Session

        session = Session(database, expire_on_commit=False) if kind == "engine" else database()
        with session, session.begin():
            yield session
        return
    if kind not in ("own", "pool"):
        raise OptionError(f"{type(database).__name__} is asynchronous: write 'async with', not 'with'")
    pool = _own_pool(home) if kind == "own" else database
    with pool.connection() as connection:
        if not connection.autocommit:
            yield connection
            return
        with connection.transaction():
            yield connection


async def _own_async_pool(home: Installation) -> Any:
    """One per event loop; idle connections are given back, so that an idle worker holds none."""
    import asyncio

    from psycopg_pool import AsyncConnectionPool

    url = _url(home)
    pools = _async_pools.setdefault(asyncio.get_running_loop(), {})
    pool = pools.get(url)
    if pool is None or pool.closed:
        pool = pools[url] = AsyncConnectionPool(
            url, min_size=0, max_size=_MOST_CONNECTIONS, max_idle=_IDLE_SECONDS, open=False,
            name="dispatcher-handlers", kwargs=_arguments(home),
        )  # fmt: skip
        await pool.open()
    return pool


def _own_pool(home: Installation) -> Any:
    from psycopg_pool import ConnectionPool

    url = _url(home)
    with _lock:
        pool = _pools.get(url)
        if pool is None or pool.closed:
            pool = _pools[url] = ConnectionPool(
                url, min_size=0, max_size=_MOST_CONNECTIONS, max_idle=_IDLE_SECONDS, open=True,
                name="dispatcher-handlers", kwargs=_arguments(home),
            )  # fmt: skip
        return pool


async def close_pools(home: Installation) -> None:
    """Close our own pools to this database; later transactions open new ones."""
    import asyncio

    url = home.configured_url
    pool = _async_pools.get(asyncio.get_running_loop(), {}).pop(url, None)
    if pool is not None:
        await pool.close()
    with _lock:
        other = _pools.pop(url, None)
    if other is not None:
        await asyncio.to_thread(other.close)
