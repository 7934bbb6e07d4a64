"""Connections of our own processes to PostgreSQL: set up for hot statements, found dead quickly."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import TupleRow, tuple_row

from dispatcher.errors import ConfigurationError
from dispatcher.one_trip import BlockingTrip, OneTrip, Statement
from dispatcher.settings import Settings
from state.sql import Sql

__all__ = [
    "BY_INDEX",
    "THROUGH_A_POOLER",
    "BlockingDatabase",
    "Database",
    "Transient",
    "connect",
    "connect_limited",
    "connect_sync",
]

_log = logging.getLogger("dispatcher.database")

Transient = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
)
"""What a statement raises when the server, or the way to it, is gone or has become a standby; all else is a bug."""

THROUGH_A_POOLER = (
    "the database URL leads through a pooler; set DISPATCHER_DATABASE_URL to the pooler and"
    " DISPATCHER_DIRECT_DATABASE_URL to a URL that leads past it"
)
_REFUSES_OPTIONS = "unsupported startup parameter"  # PgBouncer's own words, in no other language

# Custom plans flip to a hash join over the whole table at 500 to 1,000 ids on analysed tables of 20 to 40 thousand rows
# and halve the throughput (10.3 against 21.3 thousand tasks a second, reference measurement).
_PLANS = {"plan_cache_mode": "force_generic_plan"}
BY_INDEX = {"enable_seqscan": "off", "enable_bitmapscan": "off"}
"""Settings for connections whose statements look rows up by key, and do so for weeks.  Their plans are made once, in a
new installation on empty tables, where reading `tasks` whole is the cheapest plan; nothing makes them anew before
the next ANALYZE."""
# A generic plan is made when a statement is first used and holds until the next ANALYZE.  Made on a table of 40 tasks
# it reads the whole index at each claim; so plans are made anew whenever twice as much has been done.
_PLAN_ANEW = Sql("DISCARD PLANS")
_BEGIN, _ROLLBACK = Sql("BEGIN"), Sql("ROLLBACK")
_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20000}


def _arguments(settings: Settings, name: str, extra: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    if not settings.database_url:
        raise ConfigurationError("no PostgreSQL is configured; set DISPATCHER_DATABASE_URL or pass --database-url")
    arguments = {"application_name": name, "connect_timeout": 5, "autocommit": True, "prepare_threshold": 0, **_ALIVE}
    if settings.pooled:  # the next transaction is in another session of the server
        return settings.database_url, arguments | {"prepare_threshold": None}
    options = " ".join(f"-c {key}={value}" for key, value in {**_PLANS, **extra}.items())
    return settings.database_url, arguments | {"options": options}


def _for_one_transaction(settings: Settings, extra: Mapping[str, str]) -> Sql | None:
    """Behind a pooler: what the start-up options would have set, for the transaction that the statement begins."""
    if not settings.pooled:
        return None
    wanted = {**_PLANS, **extra}
    return Sql("SELECT " + ", ".join(f"set_config('{key}', '{value}', true)" for key, value in wanted.items()))


@contextmanager
def _pooler_named() -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        if _REFUSES_OPTIONS in str(error):
            raise ConfigurationError(THROUGH_A_POOLER) from error
        raise


async def connect(settings: Settings, name: str, **extra: str) -> psycopg.AsyncConnection[TupleRow]:
    """One autocommit connection; ``extra`` are PostgreSQL settings for it, which it cannot have behind a pooler.

    Raises ``psycopg.OperationalError``, and ``ConfigurationError`` for a pooler that the settings know nothing of.
    """
    url, arguments = _arguments(settings, name, extra)
    with _pooler_named():
        return await psycopg.AsyncConnection.connect(url, row_factory=tuple_row, **arguments)


def connect_sync(settings: Settings, name: str, **extra: str) -> psycopg.Connection[TupleRow]:
    """The same for a thread of its own."""
    url, arguments = _arguments(settings, name, extra)
    with _pooler_named():
        return psycopg.Connection.connect(url, row_factory=tuple_row, **arguments)


def connect_limited(settings: Settings, name: str, seconds: float) -> psycopg.Connection[TupleRow]:
    """The same, and no statement takes longer than ``seconds``, behind a pooler neither."""
    if not settings.pooled:
        return connect_sync(settings, name, statement_timeout=f"{seconds * 1000:.0f}ms")
    url, arguments = _arguments(settings, name, {})
    connection = _Limited.connect(url, row_factory=tuple_row, **arguments)
    connection.seconds = seconds
    return connection


class _Limited(psycopg.Connection[TupleRow]):
    """Cancels what takes too long by itself: the server keeps no limit for a session that is another one each time."""

    seconds = 0.0

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        timer = threading.Timer(self.seconds, self.cancel)
        timer.daemon = True
        timer.start()
        try:
            return super().wait(*args, **kwargs)
        finally:
            timer.cancel()


class Database:
    """A connection that is opened when first needed and opened again after it broke.

    One statement at a time; every caller that wants to work beside others has its own ``Database``.  ``extra`` are
    PostgreSQL settings for its statements.  Behind a pooler they are set for each statement, in the same round trip,
    and nothing is kept in the server's session: transactions of several statements need a direct connection.
    """

    def __init__(self, settings: Settings, name: str, **extra: str) -> None:
        self._settings, self._name, self._extra = settings, name, extra
        self._first = _for_one_transaction(settings, extra)
        self._connection: psycopg.AsyncConnection[TupleRow] | None = None
        self._trip: OneTrip | None = None
        self._runs = 0
        self._lock = asyncio.Lock()
        self.schema = settings.db_schema

    async def connection(self) -> psycopg.AsyncConnection[TupleRow]:
        """The open connection, for everything but statements.  Raises one of ``Transient`` when the server is away."""
        if self._connection is None or self._connection.closed:
            await self.close()
            self._connection = await connect(self._settings, self._name, **self._extra)
            self._trip, self._runs = OneTrip(self._connection, self.schema, prepare=self._first is None), 0
        return self._connection

    async def run(self, sql: Sql, params: Mapping[str, Any] | None = None) -> list[TupleRow]:
        """Run one statement in its own transaction and return its rows.

        Raises one of ``Transient`` when the connection broke: whether the statement was committed is then unknown.
        """
        statement = sql, params or {}
        if self._first is not None:
            return await self._in_one_trip((self._first, {}), statement)
        self._runs += 1
        if self._runs & (self._runs - 1) == 0 and self._runs > 1:  # 2, 4, 8 …
            await self._in_one_trip((_PLAN_ANEW, {}))  # a trip of its own: a statement may have to be the first in one
        return await self._in_one_trip(statement)

    async def begin(self, sql: Sql, params: Mapping[str, Any]) -> list[TupleRow]:
        """Begin a transaction with this statement, in one round trip, and return its rows.

        The caller ends the transaction, also when this raises.
        """
        return await self._in_one_trip((_BEGIN, {}), (sql, params))

    async def rollback(self) -> None:
        """Undo what :meth:`begin` began.  psycopg's own way would forget every prepared statement."""
        await self._in_one_trip((_ROLLBACK, {}))

    async def _in_one_trip(self, *statements: Statement) -> list[TupleRow]:
        async with self._lock:
            if self._trip is not None and (loss := self._trip.loss) is not None:
                self._trip.loss = None
                raise loss
            await self.connection()
            assert self._trip is not None
            return await self._trip.run(*statements)

    async def close(self) -> None:
        """Give the connection back to the server; the next ``run`` opens a new one."""
        connection, self._connection = self._connection, None
        if self._trip is not None:
            self._trip.close()
        if connection is not None:
            await connection.close()


class BlockingDatabase:
    """The same for a thread of its own."""

    def __init__(self, settings: Settings, name: str, **extra: str) -> None:
        self._settings, self._name, self._extra = settings, name, extra
        self._first = _for_one_transaction(settings, extra)
        self._connection: psycopg.Connection[TupleRow] | None = None
        self.schema = settings.db_schema

    def run(self, sql: Sql, params: Mapping[str, Any] | None = None) -> list[TupleRow]:
        """Run one statement in its own transaction and return its rows.  Raises as ``Database.run`` does."""
        if self._connection is None or self._connection.closed:
            self._connection = connect_sync(self._settings, self._name, **self._extra)
        if self._first is not None:
            return BlockingTrip(self._connection, self.schema).run((self._first, {}), (sql, params or {}))
        cursor = self._connection.cursor(binary=True).execute(sql.psycopg(self.schema).encode(), params)
        result = cursor.pgresult
        return cursor.fetchall() if result is not None and result.nfields else []

    def close(self) -> None:
        """Give the connection back to the server; the next ``run`` opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


async def pause_before_retry(tries: int, longest: float = 5.0) -> None:
    """Wait with full jitter: up to 0.1 s doubled per try, at most ``longest`` seconds."""
    await asyncio.sleep(random.uniform(0.02, min(longest, 0.1 * 2 ** min(tries, 10))))
