"""Two statements in one round trip: rows, errors, lost connections and cancellation leave the connection usable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from dispatcher.database import Database, Transient
from dispatcher.settings import Settings
from state.sql import Sql
from tests.fixtures.fleet import until

PID = Sql("SELECT pg_backend_pid(), CAST(:a AS bigint), CAST(:b AS text), now() < clock_timestamp()")
COMMIT = Sql("COMMIT")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(Settings(database_url=database_url), "one trip")
    yield database
    await database.close()


async def status(database: Database) -> str:
    return (await database.connection()).info.transaction_status.name


async def test_a_transaction_begins_with_the_rows_of_its_first_statement(database: Database) -> None:
    first = await database.begin(PID, {"a": 1 << 40, "b": "x%'"})
    assert first[0][1:] == (1 << 40, "x%'", True)
    assert await status(database) == "INTRANS"
    await database.run(COMMIT)
    again = await database.begin(PID, {"a": 2, "b": None})  # prepared by now
    await database.rollback()
    assert again[0][:3] == (first[0][0], 2, None)
    assert (await database.begin(PID, {"a": 3, "b": ""}))[0][0] == first[0][0]
    await database.run(COMMIT)
    assert await status(database) == "IDLE"


async def test_an_error_is_raised_as_itself_and_the_next_trip_works(database: Database) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await database.begin(Sql("SELECT 1 / CAST(:a AS int)"), {"a": 0})
    assert await status(database) == "INERROR"
    await database.rollback()
    with pytest.raises(psycopg.errors.UndefinedTable):
        await database.begin(Sql("SELECT * FROM {s}.no_such_table"), {})
    await database.rollback()
    assert (await database.begin(PID, {"a": 1, "b": "x"}))[0][1] == 1
    await database.run(COMMIT)


async def test_a_connection_that_ends_on_the_way_is_opened_again(database: Database) -> None:
    with pytest.raises(Transient):
        await database.begin(Sql("SELECT pg_terminate_backend(pg_backend_pid())"), {})
    assert (await database.begin(PID, {"a": 1, "b": "x"}))[0][1] == 1
    await database.run(COMMIT)


async def test_a_cancelled_trip_leaves_a_usable_connection(database: Database, database_url: str) -> None:
    """The server is told to stop, and its answer is not taken for that of the next statement."""
    trip = asyncio.create_task(database.begin(Sql("SELECT pg_sleep(CAST(:s AS float8))"), {"s": 60}))
    with psycopg.connect(database_url, autocommit=True) as other:
        sleeping: list[Any] = []
        async with asyncio.timeout(30):
            while not sleeping:
                await asyncio.sleep(0)
                sleeping = other.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE application_name = 'one trip' AND wait_event = 'PgSleep'"
                ).fetchall()
    trip.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trip
    await database.rollback()
    assert (await database.begin(PID, {"a": 1, "b": "x"}))[0][1] == 1
    await database.run(COMMIT)


def _end(database_url: str, pid: int) -> None:
    """End that session, and wait until it is gone."""
    with psycopg.connect(database_url, autocommit=True) as other:
        assert other.execute("SELECT pg_terminate_backend(%s, 30000)", [pid]).fetchone() == (True,)


async def _lose(database: Database, database_url: str, pid: int) -> None:
    """End the session, and wait until this process has read that it is gone, which nothing asked it to do."""
    connection = await database.connection()
    await asyncio.to_thread(_end, database_url, pid)
    await until(lambda: connection.closed)


async def test_a_connection_lost_at_rest_is_opened_again_without_an_error(
    database: Database, database_url: str
) -> None:
    [(pid, *_)] = await database.run(PID, {"a": 1, "b": "x"})
    await _lose(database, database_url, pid)
    [(other, *_)] = await database.run(PID, {"a": 1, "b": "x"})
    assert other != pid


async def test_a_connection_lost_within_a_transaction_is_told_before_its_commit(
    database: Database, database_url: str
) -> None:
    """On a new connection the commit would say that all is well."""
    [(pid, *_)] = await database.begin(PID, {"a": 1, "b": "x"})
    await _lose(database, database_url, pid)
    with pytest.raises(Transient):
        await database.run(COMMIT)
    assert (await database.run(PID, {"a": 1, "b": "x"}))[0][1] == 1


async def test_more_than_a_socket_takes_at_once_goes_both_ways(database: Database) -> None:
    """The server reads only when it can write, and so do we."""
    many = [b"x" * 1000] * 20_000
    sql = Sql("SELECT unnest(CAST(:all AS bytea[]))")
    rows = await database.run(sql, {"all": many})
    assert [row[0] for row in rows] == many


async def test_a_statement_serves_values_of_every_size(database: Database) -> None:
    """psycopg sends a number in as few bytes as it needs: each width is prepared by itself."""
    sql = Sql("SELECT CAST(:a AS bigint), CAST(:b AS int[])")
    for a in (1, 1 << 20, 1 << 40, None, 2):
        for b in ([], [1], [1, 1 << 20], [None], None):
            assert await database.run(sql, {"a": a, "b": b}) == [(a, b)]


async def test_a_value_that_cannot_be_sent_leaves_a_usable_database(database: Database) -> None:
    for statement in (database.run, database.begin):
        with pytest.raises(psycopg.ProgrammingError):
            await statement(PID, {"a": object(), "b": "x"})
        assert (await database.run(PID, {"a": 1, "b": "x"}))[0][1] == 1


async def test_a_reader_that_the_event_loop_has_lost_is_registered_again(database: Database) -> None:
    """Seen under uvloop, after a process that had been stopped found its connections dead."""
    await database.run(PID, {"a": 1, "b": "x"})
    assert database._trip is not None
    asyncio.get_running_loop().remove_reader(database._trip._socket)
    async with asyncio.timeout(15):
        assert (await database.run(PID, {"a": 2, "b": "x"}))[0][1] == 2
        assert (await database.run(PID, {"a": 3, "b": "x"}))[0][1] == 3
