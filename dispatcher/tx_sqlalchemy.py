"""Statements through SQLAlchemy: as driver SQL, which skips its compiler, on the session's own connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, cast
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, UnboundExecutionError

from dispatcher.dberrors import translated
from dispatcher.errors import OptionError
from dispatcher.steps import Row, Steps
from state.sql import Sql

__all__ = ["connection_of", "drive", "is_autocommit", "run"]

T = TypeVar("T")


def connection_of(tx: Any) -> Connection:
    """The connection behind a session; begins its transaction if it has none.  Raises ``OptionError``."""
    if isinstance(tx, Connection):
        connection = tx
    else:
        try:
            connection = tx.connection()
        except UnboundExecutionError:
            raise OptionError(
                "the session has no engine of its own (only some mapped classes have one):"
                " pass session.connection(bind_arguments={'mapper': ...})"
            ) from None
    if connection.dialect.name != "postgresql":
        raise OptionError(f"tasks live in PostgreSQL, this session is connected to {connection.dialect.name}")
    return connection


def run(connection: Connection, sql: Sql, params: Mapping[str, Any], schema: str) -> list[Row]:
    """One statement."""
    driver = connection.dialect.driver
    try:
        if driver == "psycopg":
            result = connection.exec_driver_sql(sql.psycopg(schema), dict(params))
        elif driver == "asyncpg":
            statement, names = sql.numbered(schema)
            result = connection.exec_driver_sql(statement, tuple(params[name] for name in names))
        elif driver == "psycopg2":
            statement, names = sql.formatted(schema)
            result = connection.exec_driver_sql(statement, tuple(_without_uuid(params[name]) for name in names))
        else:
            result = connection.execute(text(sql.sqlalchemy(schema)), dict(params))
        return [tuple(row) for row in result] if result.returns_rows else []
    except DBAPIError as error:
        ours = translated(error, schema)
        if ours is None:
            raise
        raise ours from error


def drive(connection: Connection, steps: Steps[T], schema: str, atomic: bool) -> T:
    """Several statements; with ``atomic`` all or nothing."""
    with _atomic(connection) if atomic else nullcontext():
        try:
            sql, params = next(steps)
            while True:
                sql, params = steps.send(run(connection, sql, params, schema))
        except StopIteration as stop:
            return cast(T, stop.value)


def is_autocommit(connection: Connection) -> bool:
    """Whether each statement commits by itself (isolation level AUTOCOMMIT)."""
    return bool(getattr(connection.connection.dbapi_connection, "autocommit", False))


@contextmanager
def _atomic(connection: Connection) -> Iterator[None]:
    if not is_autocommit(connection):
        with connection.begin_nested():
            yield
        return
    connection.exec_driver_sql("BEGIN")
    try:
        yield
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")


def _without_uuid(value: Any) -> Any:
    """psycopg2 knows UUIDs only after a registration that is not ours to make."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, list) and value and isinstance(value[0], UUID):
        return [str(item) for item in value]
    return value
