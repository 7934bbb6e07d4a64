"""A fenced sink: somebody else's system that keeps the highest attempt it has seen of each task and refuses lower ones.

Its tables lie in a schema of their own and are reached past the proxy: to a handler it is another system, whose network
is not the one that the drill breaks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

__all__ = ["MARK", "SCHEMA", "Sink", "make_tables"]

SCHEMA = "drill_sink"
MARK = "made by dispatcher drill, which deletes it"
"""The comment of every schema of a drill."""
_TABLES = f"""
CREATE SCHEMA {SCHEMA};
COMMENT ON SCHEMA {SCHEMA} IS '{MARK}';
CREATE TABLE {SCHEMA}.highest (task_id uuid PRIMARY KEY, attempt int NOT NULL);
CREATE TABLE {SCHEMA}.offers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, task_id uuid NOT NULL, attempt int NOT NULL,
    accepted boolean NOT NULL, pid int NOT NULL);
"""
_OFFER = f"""
WITH taken AS (
    INSERT INTO {SCHEMA}.highest AS h (task_id, attempt) VALUES (%(task)s, %(attempt)s)
    ON CONFLICT (task_id) DO UPDATE SET attempt = excluded.attempt WHERE h.attempt < excluded.attempt
    RETURNING attempt
)
INSERT INTO {SCHEMA}.offers (task_id, attempt, accepted, pid)
SELECT %(task)s, %(attempt)s, EXISTS (SELECT FROM taken), %(pid)s RETURNING accepted
""".encode()
_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)
_PATIENCE_SECONDS = 20.0
_AGAIN_SECONDS = 0.2
_ARGUMENTS = {"autocommit": True, "application_name": "drill sink", "connect_timeout": 5}


def make_tables(connection: psycopg.Connection[Any]) -> None:
    """Create the sink."""
    connection.execute(_TABLES.encode())


class Sink:
    """Offers effects from coroutines (a pool) and from threads (a connection each); waits out a server that is away.

    An answer that got lost is asked for again, and the sink then refuses its own attempt: at most once, as it should.
    """

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._threads = threading.local()
        self._pool: AsyncConnectionPool[Any] | None = None

    def offer(self, **row: Any) -> bool:
        """Apply one effect; ``False`` when the sink refused it."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                connection: psycopg.Connection[Any] | None = getattr(self._threads, "connection", None)
                if connection is None or connection.closed:
                    connection = psycopg.connect(self._url, **_ARGUMENTS)  # type: ignore[arg-type]
                    self._threads.connection = connection
                return bool(_first(connection.execute(_OFFER, row).fetchone()))
            except _AWAY:
                if time.monotonic() > until:
                    raise
                time.sleep(_AGAIN_SECONDS)

    async def offer_async(self, **row: Any) -> bool:
        """The same on the event loop."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                pool = await self._opened()
                async with pool.connection(timeout=5.0) as connection:
                    return bool(_first(await (await connection.execute(_OFFER, row)).fetchone()))
            except _AWAY:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _opened(self) -> AsyncConnectionPool[Any]:
        if self._pool is None:
            self._pool = AsyncConnectionPool(
                self._url, min_size=1, max_size=4, open=False, kwargs=_ARGUMENTS, reconnect_timeout=2.0
            )
            await self._pool.open()
        return self._pool


def _first(row: Any) -> Any:
    return None if row is None else row[0]
