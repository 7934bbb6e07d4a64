"""The application's own tables, and its effects: applied once per order, however often a handler runs.

``effects`` has one row per order, taken by whichever attempt comes first; only the statement that takes it writes to
``deliveries``, which nothing in the database keeps unique.  Two deliveries of one order would show there.
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

__all__ = ["Sink", "make_tables"]

_TABLES = """
CREATE SCHEMA {shop};
CREATE TABLE {shop}.orders (
    id bigint PRIMARY KEY, file text NOT NULL, task_id uuid NOT NULL, made_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE {shop}.effects (
    order_id bigint PRIMARY KEY, task_id uuid NOT NULL, attempt int NOT NULL, digest text NOT NULL);
CREATE TABLE {shop}.deliveries (
    id bigint GENERATED ALWAYS AS IDENTITY, order_id bigint NOT NULL, attempt int NOT NULL, pid int NOT NULL);
"""
_APPLY = """
WITH taken AS (
    INSERT INTO {shop}.effects (order_id, task_id, attempt, digest)
    VALUES (%(order)s, %(task)s, %(attempt)s, %(digest)s)
    ON CONFLICT (order_id) DO NOTHING RETURNING order_id, attempt
)
INSERT INTO {shop}.deliveries (order_id, attempt, pid) SELECT order_id, attempt, %(pid)s FROM taken RETURNING id
"""


def make_tables(connection: psycopg.Connection[Any], shop: str) -> None:
    """Create the application's schema.  ``shop`` is a name we made."""
    connection.execute(_TABLES.format(shop=shop).encode())


class Sink:
    """Applies effects from coroutines (a pool) and from threads (a connection each)."""

    def __init__(self, database_url: str, shop: str) -> None:
        self._url = database_url
        self._sql = _APPLY.format(shop=shop).encode()
        self._threads = threading.local()
        self._pool: AsyncConnectionPool[Any] | None = None

    def apply(self, **row: Any) -> bool:
        """Apply one effect; ``False`` when it was applied before."""
        connection: psycopg.Connection[Any] | None = getattr(self._threads, "connection", None)
        if connection is None or connection.closed:
            connection = psycopg.connect(self._url, autocommit=True, application_name="demo handler")
            self._threads.connection = connection
        return connection.execute(self._sql, row).fetchone() is not None

    async def apply_async(self, **row: Any) -> bool:
        """The same on the event loop."""
        if self._pool is None:
            self._pool = AsyncConnectionPool(
                self._url, min_size=1, max_size=8, open=False,
                kwargs={"autocommit": True, "application_name": "demo handler"},
            )  # fmt: skip
            await self._pool.open()
        async with self._pool.connection() as connection:
            cursor = await connection.execute(self._sql, row)
            return await cursor.fetchone() is not None
