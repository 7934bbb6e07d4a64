"""Idempotency keys: one task per key, whoever asks at whatever moment, and no poisoned transaction."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.errors import SerializationFailure
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

import dispatcher.enqueue
from dispatcher import KeyConflict, Task
from dispatcher.dberrors import sqlstate
from tests.fixtures.patience import PATIENCE, until_blocking
from tests.integration.shop import app, charge, mail, rows, tasks

KEYED = charge.options(key="order-1")


def _somebody_waits_for_a_lock(database_url: str) -> bool:
    sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(rows(database_url, sql))


def _enqueue(database_url: str, **options: Any) -> Task[Any]:
    with psycopg.connect(database_url) as connection:
        return KEYED.options(**options).enqueue(connection, 1)


def test_a_second_enqueue_returns_the_first_task(database_url: str) -> None:
    first = _enqueue(database_url)
    second = _enqueue(database_url, delay=60, tags=["other"])
    assert first.created
    assert (second.id, second.created) == (first.id, False)
    (task,) = tasks(database_url)
    assert (task["state"], task["labels"], task["timers"]) == (3, ["2order-1"], None)


def test_keys_belong_to_their_task_type(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        one = KEYED.enqueue(connection, 1)
        two = mail.options(key="order-1").enqueue(connection, "a")
    assert one.created
    assert two.created
    assert one.id != two.id


def test_equal_arguments_may_be_written_differently(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        first = KEYED.enqueue(connection, 1, currency="USD")
        assert KEYED.enqueue(connection, order_id=1, currency="USD").id == first.id
        with pytest.raises(KeyConflict):
            KEYED.enqueue(connection, 1, currency="CHF")


def test_a_rolled_back_key_is_free_again(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        KEYED.enqueue(connection, 1)
        connection.rollback()
    assert _enqueue(database_url).created


def test_a_key_with_an_end_is_free_after_it(database_url: str) -> None:
    first = _enqueue(database_url, key_ttl=3600)
    assert not _enqueue(database_url).created
    rows(database_url, "UPDATE dispatcher.task_keys SET expires_at = now() RETURNING 1")
    second = _enqueue(database_url, key_ttl=3600)
    assert second.created
    assert second.id != first.id
    assert not _enqueue(database_url).created
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE dispatcher.task_keys SET expires_at = now()")
        made = app.enqueue_many(connection, [KEYED.call(2), KEYED.call(2)])
    assert [task.created for task in made] == [True, False]


def test_a_key_without_end_lives_as_long_as_the_row(database_url: str) -> None:
    _enqueue(database_url)
    assert rows(database_url, "SELECT expires_at FROM dispatcher.task_keys") == [{"expires_at": None}]


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "rolled-back"])
@pytest.mark.parametrize("many", [False, True], ids=["single", "bulk"])
def test_a_concurrent_duplicate_waits_for_the_first(database_url: str, committed: bool, many: bool) -> None:
    def second() -> Task[Any]:
        with psycopg.connect(database_url) as connection:
            connection.execute("SELECT count(*) FROM dispatcher.tasks")  # its snapshot must not matter
            task: Task[Any] = app.enqueue_many(connection, [KEYED.call(1)])[0] if many else KEYED.enqueue(connection, 1)
            assert connection.execute("SELECT 1").fetchone() == (1,)  # the transaction is not poisoned
            return task

    with ThreadPoolExecutor(1) as pool, psycopg.connect(database_url) as connection:
        first = KEYED.enqueue(connection, 1)
        waiting: Future[Task[Any]] = pool.submit(second)
        until_blocking(lambda: _somebody_waits_for_a_lock(database_url))
        assert not waiting.done()
        if committed:
            connection.commit()
        else:
            connection.rollback()
        task = waiting.result(PATIENCE)
    assert task.created is not committed
    assert (task.id == first.id) is committed
    assert [row["id"] for row in tasks(database_url)] == [task.id]


def test_a_concurrent_conflict_leaves_the_transaction_usable(database_url: str) -> None:
    def second() -> Task[Any]:
        with psycopg.connect(database_url) as connection:
            with pytest.raises(KeyConflict):
                KEYED.enqueue(connection, 2)
            return charge.enqueue(connection, 3)

    with ThreadPoolExecutor(1) as pool, psycopg.connect(database_url) as connection:
        first = KEYED.enqueue(connection, 1)
        waiting = pool.submit(second)
        until_blocking(lambda: _somebody_waits_for_a_lock(database_url))
        connection.commit()
        other = waiting.result(PATIENCE)
    assert [row["id"] for row in tasks(database_url)] == sorted([first.id, other.id])


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
@pytest.mark.parametrize("many", [False, True], ids=["single", "bulk"])
def test_under_stricter_isolation_a_concurrent_duplicate_is_the_ordinary_serialization_failure(
    database_url: str, level: psycopg.IsolationLevel, many: bool
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.isolation_level = level
        connection.execute("SELECT count(*) FROM dispatcher.tasks")
        first = _enqueue(database_url)
        with pytest.raises(SerializationFailure):
            app.enqueue_many(connection, [KEYED.call(1)]) if many else KEYED.enqueue(connection, 1)
        connection.rollback()
        again = KEYED.enqueue(connection, 1)
        assert (again.id, again.created) == (first.id, False)


def test_the_serialization_failure_is_sqlalchemys_own(database_url: str) -> None:
    engine = create_engine(
        database_url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="REPEATABLE READ"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        _enqueue(database_url)
        with pytest.raises(OperationalError) as failure:
            KEYED.enqueue(connection, 1)
        assert sqlstate(failure.value) == "40001"
    engine.dispose()


def test_keys_in_bulk(database_url: str) -> None:
    first = _enqueue(database_url)
    with psycopg.connect(database_url) as connection:
        made = app.enqueue_many(
            connection,
            [charge.call(1), KEYED.call(1), charge.options(key="a").call(2), charge.options(key="a").call(2)],
        )
    assert [task.created for task in made] == [True, False, True, False]
    assert made[1].id == first.id
    assert made[2].id == made[3].id
    assert len(tasks(database_url)) == 3


@pytest.mark.parametrize("chunk", [1000, 7])
def test_a_conflict_in_bulk_creates_nothing(database_url: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher.enqueue, "_CHUNK", chunk)
    _enqueue(database_url)
    calls = [charge.options(key=f"k{i}").call(i) for i in range(20)] + [charge.call(1), KEYED.call(99)]
    with psycopg.connect(database_url) as connection:
        with pytest.raises(KeyConflict):
            app.enqueue_many(connection, calls)
        assert len(connection.execute("SELECT * FROM dispatcher.task_keys").fetchall()) == 1
        made = app.enqueue_many(connection, calls[:-1])
    assert all(task.created for task in made)
    assert len(tasks(database_url)) == 22


def test_two_bulk_callers_with_the_same_keys_do_not_deadlock(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher.enqueue, "_CHUNK", 20)
    keys = [f"key-{i}" for i in range(60)]
    calls = [t.options(key=key).call(*a) for key in keys for t, a in ((charge, (1,)), (mail, ("a",)))]

    def bulk(calls: list[Any]) -> int:
        with psycopg.connect(database_url) as connection:
            connection.execute("SET deadlock_timeout = '100ms'")
            return sum(task.created for task in app.enqueue_many(connection, calls))

    with ThreadPoolExecutor(4) as pool:
        orders = [calls, calls[::-1], calls[50:] + calls[:50], calls[::2] + calls[1::2]]
        created = [work.result(2 * PATIENCE) for work in [pool.submit(bulk, order) for order in orders]]
    assert sum(created) == len(calls) == len(tasks(database_url))


def test_many_single_callers_with_one_key_make_one_task(database_url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: _enqueue(database_url), range(24)))
    assert len({task.id for task in made}) == 1
    assert sum(task.created for task in made) == 1
    assert len(tasks(database_url)) == 1
