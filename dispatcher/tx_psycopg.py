"""Statements on a psycopg connection, whatever row factory or cursor class it was given, autocommit or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, TypeVar, cast

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from dispatcher.dberrors import translated
from dispatcher.steps import Row, Steps
from state.sql import Sql

__all__ = ["drive", "drive_async", "run", "run_async"]

T = TypeVar("T")


def run(connection: psycopg.Connection[Any], sql: Sql, params: Mapping[str, Any], schema: str) -> list[Row]:
    """One statement."""
    # a cursor of our own: the connection's may be a client-side one, or make rows of another shape
    cursor = psycopg.Cursor(connection, row_factory=tuple_row)
    try:
        cursor.execute(cast(Any, sql.psycopg(schema)), params, binary=True)
        return cursor.fetchall() if _has_rows(cursor) or _pipelined(connection) else []
    except psycopg.Error as error:
        ours = translated(error, schema)
        if ours is None:
            raise
        raise ours from error


async def run_async(
    connection: psycopg.AsyncConnection[Any], sql: Sql, params: Mapping[str, Any], schema: str
) -> list[Row]:
    """One statement on an asynchronous connection."""
    cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
    try:
        await cursor.execute(cast(Any, sql.psycopg(schema)), params, binary=True)
        return await cursor.fetchall() if _has_rows(cursor) or _pipelined(connection) else []
    except psycopg.Error as error:
        ours = translated(error, schema)
        if ours is None:
            raise
        raise ours from error


def drive(connection: psycopg.Connection[Any], steps: Steps[T], schema: str, atomic: bool) -> T:
    """Several statements; with ``atomic`` all or nothing."""
    with _atomic(connection) if atomic else nullcontext():
        try:
            sql, params = next(steps)
            while True:
                sql, params = steps.send(run(connection, sql, params, schema))
        except StopIteration as stop:
            return cast(T, stop.value)


async def drive_async(connection: psycopg.AsyncConnection[Any], steps: Steps[T], schema: str, atomic: bool) -> T:
    """The same on an asynchronous connection."""
    async with _atomic_async(connection) if atomic else nullcontext():
        try:
            sql, params = next(steps)
            while True:
                sql, params = steps.send(await run_async(connection, sql, params, schema))
        except StopIteration as stop:
            return cast(T, stop.value)


def _has_rows(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> bool:
    """Whether the statement gives rows, without building the description of its columns (6 µs)."""
    return cursor.pgresult is not None and cursor.pgresult.nfields > 0


def _pipelined(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """In a pipeline the description is only there after the fetch, which waits for the result."""
    return connection.pgconn.pipeline_status != PipelineStatus.OFF


def _fresh(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether the transaction will be begun by our own first statement and left open for the caller."""
    return not connection.autocommit and connection.pgconn.transaction_status == TransactionStatus.IDLE


@contextmanager
def _atomic(connection: psycopg.Connection[Any]) -> Iterator[None]:
    if not _fresh(connection):
        with connection.transaction():
            yield
        return
    # connection.transaction() would commit at its end, which is the caller's to do
    try:
        yield
    except BaseException:
        connection.rollback()
        raise


@asynccontextmanager
async def _atomic_async(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    if not _fresh(connection):
        async with connection.transaction():
            yield
        return
    try:
        yield
    except BaseException:
        await connection.rollback()
        raise
