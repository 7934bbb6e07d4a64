"""Makes, changes and checks our tables: the only door to alembic, which is imported when a migration really runs.

Processes check at their start that the tables fit (``check_schema_version``): two short statements, no alembic.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from state.errors import RevisionUnknown, SchemaBusy, SchemaMissing, SchemaTooNew, SchemaTooOld
from state.sql import DEFAULT_SCHEMA, Sql, check_schema

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "EXPECTED_REVISION",
    "LOCK_TIMEOUT",
    "SchemaStatus",
    "check_schema_version",
    "check_schema_version_async",
    "downgrade",
    "expected_revision",
    "sql",
    "status",
    "upgrade",
]

EXPECTED_REVISION = "0011"
"""The revision this code was written for.  A constant, so that checking it costs no import of alembic."""
LOCK_TIMEOUT = 30.0
"""Seconds that a migration waits for another migration, or for a table, before it gives up."""

_HAS_TABLE = Sql("SELECT to_regclass('{s}.schema_version') IS NOT NULL")
_FOUND = Sql("SELECT version_num FROM {s}.schema_version")
# alembic keeps the migration at work in module globals
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """How the tables in one schema compare with this package."""

    schema: str
    found: str | None
    """Revision in the database, ``None`` when there are no tables."""
    expected: str
    verdict: Literal["current", "missing", "too_old", "too_new"]
    pending: tuple[str, ...]
    """Revisions that ``upgrade`` would apply, in order."""


def expected_revision() -> str:
    """The revision that this version of the package works with."""
    return EXPECTED_REVISION


def upgrade(
    database_url: str, schema: str = DEFAULT_SCHEMA, revision: str = "head", *, lock_timeout: float = LOCK_TIMEOUT
) -> None:
    """Bring the tables up to ``revision`` in one transaction; safe to run from many processes at once.

    ``database_url`` is anything libpq accepts; ``lock_timeout`` is in seconds.  Raises ``SchemaTooNew`` when the
    tables come from a newer package and ``SchemaBusy`` when a lock could not be had; then nothing has changed.
    """
    _run(database_url, schema, "upgrade", revision, lock_timeout)


def downgrade(
    database_url: str, schema: str = DEFAULT_SCHEMA, revision: str = "base", *, lock_timeout: float = LOCK_TIMEOUT
) -> None:
    """Take the tables back to ``revision``, by default to nothing: **the tasks in them are gone afterwards**.

    Raises as ``upgrade`` does, and ``SchemaMissing`` when there is nothing to take back.
    """
    _run(database_url, schema, "downgrade", revision, lock_timeout)


def sql(schema: str = DEFAULT_SCHEMA, revision: str = "head", *, since: str = "base", down: bool = False) -> str:
    """The SQL that ``upgrade`` would run from ``since`` to ``revision``, for people who apply it by other means.

    With ``down`` the SQL that goes back from ``since`` to ``revision``.  One transaction, no connection needed.
    """
    from alembic import command

    output = io.StringIO()
    config = _config(schema, LOCK_TIMEOUT, output)
    with _one_at_a_time:
        (command.downgrade if down else command.upgrade)(config, f"{since}:{revision}", sql=True)
    return output.getvalue()


def status(database_url: str, schema: str = DEFAULT_SCHEMA) -> SchemaStatus:
    """Compare the tables with this package without changing anything."""
    from alembic.script import ScriptDirectory

    with psycopg.connect(database_url, autocommit=True) as connection:
        found = _found(connection, schema)
    verdict: Literal["current", "missing", "too_old", "too_new"] = "current"
    try:
        _judge(schema, found)
    except SchemaMissing:
        verdict = "missing"
    except SchemaTooOld:
        verdict = "too_old"
    except SchemaTooNew:
        verdict = "too_new"
    script = ScriptDirectory.from_config(_config(schema, LOCK_TIMEOUT))
    revisions = [item.revision for item in reversed(list(script.walk_revisions()))]
    pending = tuple(revision for revision in revisions if found is None or _number(revision) > _number(found))
    return SchemaStatus(check_schema(schema), found, EXPECTED_REVISION, verdict, pending)


def check_schema_version(target: str | psycopg.Connection[Any], schema: str = DEFAULT_SCHEMA) -> None:
    """Raise ``SchemaMissing``, ``SchemaTooOld`` or ``SchemaTooNew`` unless the tables fit this package.

    ``target`` is a libpq URL or an open psycopg connection of any row factory, which is left as it was found.
    """
    if isinstance(target, str):
        with psycopg.connect(target, autocommit=True) as connection:
            found = _found(connection, schema)
    else:
        was_idle = target.info.transaction_status == TransactionStatus.IDLE
        found = _found(target, schema)
        if was_idle and not target.autocommit:
            target.rollback()
    _judge(schema, found)


async def check_schema_version_async(target: str | psycopg.AsyncConnection[Any], schema: str = DEFAULT_SCHEMA) -> None:
    """``check_schema_version`` for asynchronous callers."""
    if isinstance(target, str):
        async with await psycopg.AsyncConnection.connect(target, autocommit=True) as connection:
            found = await _found_async(connection, schema)
    else:
        was_idle = target.info.transaction_status == TransactionStatus.IDLE
        found = await _found_async(target, schema)
        if was_idle and not target.autocommit:
            await target.rollback()
    _judge(schema, found)


def _found(connection: psycopg.Connection[Any], schema: str) -> str | None:
    with connection.cursor(row_factory=tuple_row) as cursor:
        # asked first: a failing SELECT would spoil a transaction that the caller may have open
        has_table = cursor.execute(_HAS_TABLE.psycopg(schema)).fetchone()
        if has_table is None or not has_table[0]:
            return None
        row = cursor.execute(_FOUND.psycopg(schema)).fetchone()
        return None if row is None else str(row[0])


async def _found_async(connection: psycopg.AsyncConnection[Any], schema: str) -> str | None:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_HAS_TABLE.psycopg(schema))
        has_table = await cursor.fetchone()
        if has_table is None or not has_table[0]:
            return None
        await cursor.execute(_FOUND.psycopg(schema))
        row = await cursor.fetchone()
        return None if row is None else str(row[0])


def _number(revision: str) -> int:
    """Revisions are numbers written with leading zeros; anything else was not made by us, so it counts as newer."""
    return int(revision) if revision.isdecimal() else 1 << 31


def _judge(schema: str, found: str | None) -> None:
    if found is None:
        raise SchemaMissing(schema)
    if _number(found) < _number(EXPECTED_REVISION):
        raise SchemaTooOld(schema, found, EXPECTED_REVISION)
    if _number(found) > _number(EXPECTED_REVISION):
        raise SchemaTooNew(schema, found, EXPECTED_REVISION)


def _config(schema: str, lock_timeout: float, output: io.StringIO | None = None) -> Config:
    from alembic.config import Config

    config = Config(output_buffer=output)
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["schema"] = check_schema(schema)
    config.attributes["lock_timeout_ms"] = int(lock_timeout * 1000)
    return config


def _run(database_url: str, schema: str, verb: Literal["upgrade", "downgrade"], revision: str, wait: float) -> None:
    from alembic import command
    from alembic.util.exc import CommandError
    from sqlalchemy import create_engine
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.pool import NullPool

    config = _config(schema, wait)
    act: Callable[[Config, str], None] = getattr(command, verb)
    # Our own creator: libpq reads the URL, so that several hosts, services and PG* variables work.  Read committed,
    # whatever the server's default: who waited for the lock must see what the other one did.
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(database_url),
        poolclass=NullPool,
        isolation_level="READ COMMITTED",
    )
    try:
        with _one_at_a_time, engine.begin() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, psycopg.Connection)
            found = _found(raw, schema)
            if found is None and verb == "downgrade":
                raise SchemaMissing(schema)
            if found is not None and _number(found) > _number(EXPECTED_REVISION):
                raise SchemaTooNew(schema, found, EXPECTED_REVISION)
            config.attributes["connection"] = connection
            act(config, revision)
    except CommandError as error:
        raise RevisionUnknown(schema, revision, EXPECTED_REVISION) from error
    except OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise SchemaBusy(schema, wait) from error
        # psycopg's own error says it in one line; SQLAlchemy's wraps it in several
        raise (error.orig or error) from None
    finally:
        engine.dispose()
