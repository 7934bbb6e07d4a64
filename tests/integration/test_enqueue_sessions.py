"""Every kind of session creates the same rows, in its own transaction."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dispatcher import KeyConflict, OptionError, OutboxFull, Retry, SchemaError, UnknownLane
from state.machine import Flag, State
from tests.integration import session_kinds as kinds
from tests.integration.shop import app, charge, login, mail, rows, tasks

SYNC = kinds.TRANSACTIONAL | kinds.AUTOCOMMIT
ASYNC = kinds.ASYNC_TRANSACTIONAL | kinds.ASYNC_AUTOCOMMIT
IN_2040 = datetime(2040, 1, 1, tzinfo=UTC)


def _check(database_url: str, made: list[Any]) -> None:
    found = tasks(database_url)
    assert [row["id"] for row in found] == [task.id for task in made]
    assert all(task.created for task in made)
    plain, full, *many = found
    assert (plain["type"], plain["queue"], plain["lane"], plain["state"]) == ("charge", "billing", "default", 3)
    assert (plain["events"], plain["waiting"], plain["timers"], plain["labels"]) == (1, 1, None, None)
    assert (plain["attempt"], plain["tries"], plain["max_tries"], plain["flags"]) == (1, 0, 5, 0)
    assert (plain["args"], plain["meta"], plain["due_at"]) == (b'{"order_id":1,"currency":"USD"}', None, None)
    assert abs(plain["created_at"] - datetime.now(UTC)) < timedelta(minutes=1)
    assert (full["queue"], full["lane"], full["state"], full["max_tries"]) == ("mails", "high", 2, 3)
    assert (full["events"], full["waiting"], full["timers"]) == (1, 0, [1, 2])
    assert (full["due_at"], full["expires_at"]) == (IN_2040, IN_2040 + timedelta(hours=1))
    assert full["labels"] == ["1a", "1ä'b", "2key-1"]
    assert full["flags"] == Flag.KEYED | Flag.LABELLED
    assert full["meta"]["tags"] == ["ä'b", "a"]
    assert full["meta"]["headers"] == {"trace": '%s "%(x)s" :y $1'}
    assert full["meta"]["timeout"] == 5.0
    assert full["meta"]["retry"]["max_attempts"] == 3
    assert json.loads(bytes(full["args"])) == {"to": "%s :x $1 'ü'", "body": "AP8="}
    assert [row["type"] for row in many] == ["charge", "mail", "charge"]
    assert [row["state"] for row in many] == [3, 2, 3]
    assert [row["waiting"] for row in many] == [1, 0, 1]


FULL = mail.options(
    queue="mails", lane="high", run_at=IN_2040, expires=3600, tags=["ä'b", "a"], key="key-1", timeout=5,
    retry=Retry(max_attempts=3, on=OSError), headers={"trace": '%s "%(x)s" :y $1'},
).call("%s :x $1 'ü'", b"\x00\xff")  # fmt: skip
MANY = [charge.call(1), mail.options(delay=60).call("a"), charge.options(key="many", queue="other").call(2)]


@pytest.mark.parametrize("kind", SYNC)
def test_synchronous_sessions(database_url: str, kind: str) -> None:
    with SYNC[kind](database_url) as tx:
        made = [charge.enqueue(tx, 1, currency="USD"), FULL.enqueue(tx), *app.enqueue_many(tx, MANY)]
        again = FULL.enqueue(tx)
        assert (again.id, again.created) == (made[1].id, False)
        assert app.get(tx, made[0].id).state == "queued"
    _check(database_url, made)


@pytest.mark.parametrize("kind", ASYNC)
async def test_asynchronous_sessions(database_url: str, kind: str) -> None:
    async with ASYNC[kind](database_url) as tx:
        made = [await charge.enqueue(tx, 1, currency="USD"), await FULL.enqueue(tx)]
        made += await app.enqueue_many(tx, MANY)
        again = await FULL.enqueue(tx)
        assert (again.id, again.created) == (made[1].id, False)
        assert (await app.get(tx, made[0].id)).state == "queued"
    _check(database_url, made)


class Boom(Exception): ...


@pytest.mark.parametrize("kind", kinds.TRANSACTIONAL)
def test_rolled_back_task_never_exists(database_url: str, kind: str) -> None:
    with pytest.raises(Boom), kinds.TRANSACTIONAL[kind](database_url) as tx:
        charge.enqueue(tx, 1)
        app.enqueue_many(tx, MANY)
        raise Boom
    _nothing(database_url)


@pytest.mark.parametrize("kind", kinds.ASYNC_TRANSACTIONAL)
async def test_rolled_back_task_never_exists_async(database_url: str, kind: str) -> None:
    with pytest.raises(Boom):
        async with kinds.ASYNC_TRANSACTIONAL[kind](database_url) as tx:
            await charge.enqueue(tx, 1)
            await app.enqueue_many(tx, MANY)
            raise Boom
    _nothing(database_url)


def _nothing(database_url: str) -> None:
    for table in ("tasks", "task_events", "outbox", "timers", "task_keys", "task_labels", "task_counts"):
        assert rows(database_url, f"SELECT count(*) AS n FROM dispatcher.{table}") == [{"n": 0}], table


@pytest.mark.parametrize("kind", kinds.TRANSACTIONAL)
def test_refused_calls_leave_the_transaction_usable(database_url: str, kind: str) -> None:
    keyed = charge.options(key="k")
    with kinds.TRANSACTIONAL[kind](database_url) as tx:
        first = keyed.enqueue(tx, 1)
        with pytest.raises(KeyConflict) as conflict:
            keyed.enqueue(tx, 2)
        assert (conflict.value.task_id, conflict.value.key) == (first.id, "k")
        with pytest.raises(KeyConflict):
            app.enqueue_many(tx, [charge.call(1), charge.options(key="fresh").call(1), keyed.call(2)])
        last = charge.enqueue(tx, 3)
    assert [row["id"] for row in tasks(database_url)] == [first.id, last.id]
    assert len(rows(database_url, "SELECT * FROM dispatcher.task_keys")) == 1


@pytest.mark.parametrize("kind", kinds.ASYNC_TRANSACTIONAL)
async def test_refused_calls_leave_the_transaction_usable_async(database_url: str, kind: str) -> None:
    keyed = charge.options(key="k")
    async with kinds.ASYNC_TRANSACTIONAL[kind](database_url) as tx:
        first = await keyed.enqueue(tx, 1)
        with pytest.raises(KeyConflict):
            await keyed.enqueue(tx, 2)
        with pytest.raises(KeyConflict):
            await app.enqueue_many(tx, [charge.call(1), charge.options(key="fresh").call(1), keyed.call(2)])
        last = await charge.enqueue(tx, 3)
    assert [row["id"] for row in tasks(database_url)] == [first.id, last.id]


@pytest.mark.parametrize("kind", ["psycopg", "session-psycopg", "session-psycopg2"])
def test_errors_of_the_database_become_ours(database_url: str, kind: str) -> None:
    with pytest.raises(UnknownLane, match='queue "billing" has no lane "express": use high, default or low') as lane:
        with SYNC[kind](database_url) as tx:
            charge.options(lane="express").enqueue(tx, 1)
    assert "\n" not in str(lane.value)
    rows(database_url, "UPDATE dispatcher.relay_state SET outbox_limit = 0 RETURNING 1")
    with pytest.raises(OutboxFull, match="limit of 0 waiting tasks is reached: see that a relay runs"):
        with SYNC[kind](database_url) as tx:
            charge.enqueue(tx, 1)
    with pytest.raises(OutboxFull), SYNC[kind](database_url) as tx:
        app.enqueue_many(tx, MANY)
    _nothing(database_url)


@pytest.mark.parametrize("kind", ["async-psycopg", "async-session-psycopg", "async-session-asyncpg"])
async def test_errors_of_the_database_become_ours_async(database_url: str, kind: str) -> None:
    with pytest.raises(UnknownLane, match='queue "billing" has no lane "express"'):
        async with ASYNC[kind](database_url) as tx:
            await charge.options(lane="express").enqueue(tx, 1)


@pytest.mark.parametrize("kind", ["psycopg", "session-psycopg2"])
def test_a_database_without_our_tables_is_told(empty_database_url: str, kind: str) -> None:
    with pytest.raises(SchemaError, match="dispatcher migrate up"), SYNC[kind](empty_database_url) as tx:
        charge.enqueue(tx, 1)


def test_savepoints_of_the_caller_hold(database_url: str) -> None:
    with SYNC["session-psycopg"](database_url) as tx:
        assert isinstance(tx, Session)
        kept = charge.enqueue(tx, 1)
        with pytest.raises(Boom), tx.begin_nested():
            charge.enqueue(tx, 2)
            raise Boom
        with tx.begin_nested():
            also = charge.enqueue(tx, 3)
    assert [row["id"] for row in tasks(database_url)] == [kept.id, also.id]


def test_the_callers_rows_and_the_task_commit_together(database_url: str) -> None:
    class Base(DeclarativeBase): ...

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)

    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Order(id=1))
        charge.enqueue(session, 1)
        assert rows(database_url, "SELECT * FROM orders") == []
        assert tasks(database_url) == []
    assert len(rows(database_url, "SELECT * FROM orders")) == len(tasks(database_url)) == 1
    engine.dispose()


def test_sessions_that_cannot_hold_tasks(database_url: str) -> None:
    with Session(create_engine("sqlite://")) as session:
        with pytest.raises(OptionError, match="tasks live in PostgreSQL, this session is connected to sqlite"):
            charge.enqueue(session, 1)
    with Session() as session, pytest.raises(OptionError, match="the session has no engine of its own"):
        charge.enqueue(session, 1)


def test_a_pipeline_of_psycopg(database_url: str) -> None:
    with psycopg.connect(database_url) as connection, connection.pipeline():
        made = [charge.enqueue(connection, i) for i in range(3)]
    assert [row["id"] for row in tasks(database_url)] == [task.id for task in made]


def test_secrets_appear_in_no_log_and_no_error(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"), echo=True)
    with caplog.at_level("DEBUG"), pytest.raises(Exception, match="constraint") as caught, engine.begin() as connection:
        task = login.enqueue(connection, "u", password=SecretStr("hunter2"))
        connection.execute(text("UPDATE dispatcher.tasks SET state = 99 WHERE id = :id"), {"id": task.id})
    assert "create_task" in caplog.text
    assert "hunter2" not in caplog.text + str(caught.value)
    with pytest.raises(UnknownLane) as lane, engine.begin() as connection:
        login.options(lane="none").enqueue(connection, "u", password=SecretStr("hunter2"))
    assert lane.value.__cause__ is not None
    assert "hunter2" not in str(lane.value.__cause__)
    with engine.begin() as connection:
        login.enqueue(connection, "u", password=SecretStr("hunter2"))
    (row,) = tasks(database_url)
    assert json.loads(bytes(row["args"])) == {"user": "u", "password": "hunter2"}
    assert row["meta"] == {"secret": ["password"]}
    assert row["flags"] == Flag.SECRET_RESULT
    engine.dispose()


async def test_statement_through_asyncpg(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        sql, params = FULL.statement()
        row = await connection.fetchrow(sql, *params)
        assert row["created"]
        again = await connection.fetchrow(sql, FULL.statement()[1][0], *params[1:])
        assert (again["task_id"], again["created"]) == (row["task_id"], False)
    with pytest.raises(asyncpg.PostgresError, match="already belongs to task") as conflict:
        sql, params = mail.options(key="key-1").call("someone else").statement()
        await connection.fetchrow(sql, *params)
    assert conflict.value.sqlstate == "DS003"
    await connection.close()
    (task,) = tasks(database_url)
    assert task["id"] == row["task_id"]
    assert task["state"] == State.SCHEDULED


def test_statement_through_drivers_with_format_parameters(database_url: str) -> None:
    import psycopg2

    drivers: list[Any] = [psycopg, psycopg2]
    for driver in drivers:
        connection = driver.connect(database_url)
        with connection.cursor() as cursor:
            cursor.execute(*charge.call(1).statement(style="format"))
            assert cursor.fetchone()[1] is True
        connection.commit()
        connection.close()
    assert [row["waiting"] for row in tasks(database_url)] == [1, 1]


def test_another_schema(servers: Any, empty_database_url: str) -> None:
    from dispatcher import Dispatcher
    from state.migrate import upgrade

    upgrade(empty_database_url, schema="jobs")
    other = Dispatcher("other", schema="jobs")

    @other.task(name="f")
    def f(x: int) -> None: ...

    with psycopg.connect(empty_database_url) as connection:
        f.enqueue(connection, 1)
        other.enqueue_many(connection, [f.call(2)])
        assert len(other.list(connection).tasks) == 2
