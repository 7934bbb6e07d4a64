"""Bulk: one or a few statements, in order, all or nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

import dispatcher.enqueue
from dispatcher import OutboxFull, UnknownLane
from tests.integration.shop import app, charge, login, mail, rows, tasks


def test_tasks_come_back_in_order_over_all_statements(database_url: str) -> None:
    calls = [charge.call(i) if i % 3 else mail.options(queue=f"q{i % 4}").call(str(i)) for i in range(2500)]
    with psycopg.connect(database_url) as connection:
        made = app.enqueue_many(connection, iter(calls))
    found = tasks(database_url)
    assert [task.id for task in made] == [row["id"] for row in found]
    assert [bytes(row["args"]) for row in found] == [call.args for call in calls]
    assert [row["queue"] for row in found] == [call.asked.queue for call in calls]
    assert all(row["events"] == row["waiting"] == 1 for row in found)
    order = rows(database_url, "SELECT task_id FROM dispatcher.outbox ORDER BY id")
    assert [row["task_id"] for row in order] == [task.id for task in made]
    counts = rows(database_url, "SELECT sum(n) AS n FROM dispatcher.task_counts")
    assert counts == [{"n": 2500}]


def test_nothing_to_do(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert app.enqueue_many(connection, []) == []
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_every_option_per_task(database_url: str) -> None:
    moment = datetime(2040, 1, 1, tzinfo=UTC)
    with psycopg.connect(database_url) as connection:
        app.enqueue_many(
            connection,
            [
                charge.call(1),
                charge.options(run_at=moment).call(2),
                charge.options(delay=3600, expires=60).call(3),
                charge.options(tags=["x"], max_attempts=1).call(4),
                charge.options(key="k", key_ttl=60, headers={"a": "b"}).call(5),
                charge.options(run_at=datetime(2020, 1, 1, tzinfo=UTC)).call(6),
            ],
        )
    found = tasks(database_url)
    assert [row["state"] for row in found] == [3, 2, 2, 3, 3, 3]
    assert [row["waiting"] for row in found] == [1, 0, 0, 1, 1, 1]
    assert [row["timers"] for row in found] == [None, [1], [1, 2], None, None, None]
    assert [row["labels"] for row in found] == [None, None, None, ["1x"], ["2k"], None]
    assert [row["max_tries"] for row in found] == [5, 5, 5, 1, 5, 5]
    assert found[1]["due_at"] == moment
    assert (found[2]["expires_at"] - found[2]["due_at"]).total_seconds() == 60
    assert found[4]["meta"] == {"headers": {"a": "b"}}


def _failing_late() -> list[Any]:
    return [*(charge.call(i) for i in range(25)), charge.options(lane="none").call(1)]


@pytest.mark.parametrize("autocommit", [False, True])
def test_an_error_in_a_later_statement_undoes_the_earlier_ones(
    database_url: str, autocommit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher.enqueue, "_CHUNK", 10)
    with psycopg.connect(database_url, autocommit=autocommit) as connection:
        with pytest.raises(UnknownLane):
            app.enqueue_many(connection, _failing_late())
        first = charge.enqueue(connection, 1)
        with pytest.raises(UnknownLane):
            app.enqueue_many(connection, _failing_late())
        more = app.enqueue_many(connection, [charge.call(i) for i in range(25)])
    assert [row["id"] for row in tasks(database_url)] == [first.id, *(task.id for task in more)]


@pytest.mark.parametrize("isolation", [None, "AUTOCOMMIT"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_same_through_sqlalchemy(
    database_url: str, driver: str, isolation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher.enqueue, "_CHUNK", 10)
    url = database_url.replace("postgresql://", f"postgresql+{driver}://")
    engine = create_engine(url, **({"isolation_level": isolation} if isolation else {}))
    with engine.begin() as connection:
        with pytest.raises(UnknownLane):
            app.enqueue_many(connection, _failing_late())
        more = app.enqueue_many(connection, [charge.call(i) for i in range(25)])
    assert [row["id"] for row in tasks(database_url)] == [task.id for task in more]
    engine.dispose()


@pytest.mark.parametrize("isolation", [None, "AUTOCOMMIT"])
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_the_same_through_asynchronous_sqlalchemy(
    database_url: str, driver: str, isolation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher.enqueue, "_CHUNK", 10)
    url = database_url.replace("postgresql://", f"postgresql+{driver}://")
    engine = create_async_engine(url, **({"isolation_level": isolation} if isolation else {}))
    async with engine.begin() as connection:
        with pytest.raises(UnknownLane):
            await app.enqueue_many(connection, _failing_late())
        more = await app.enqueue_many(connection, [charge.call(i) for i in range(25)])
    assert [row["id"] for row in tasks(database_url)] == [task.id for task in more]
    await engine.dispose()


async def test_the_same_on_an_asynchronous_psycopg_connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher.enqueue, "_CHUNK", 10)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        with pytest.raises(UnknownLane):
            await app.enqueue_many(connection, _failing_late())
        more = await app.enqueue_many(connection, [charge.call(i) for i in range(25)])
    assert [row["id"] for row in tasks(database_url)] == [task.id for task in more]


def test_large_arguments_are_split_over_statements(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher.enqueue, "_CHUNK_BYTES", 100_000)
    with psycopg.connect(database_url) as connection:
        app.enqueue_many(connection, [mail.call("a" * 60_000) for _ in range(5)])
    assert len(tasks(database_url)) == 5


def test_a_full_outbox_creates_none_of_them(database_url: str) -> None:
    rows(database_url, "UPDATE dispatcher.relay_state SET outbox_limit = 0 RETURNING 1")
    with psycopg.connect(database_url) as connection, pytest.raises(OutboxFull):
        app.enqueue_many(connection, [charge.call(1)])
    assert tasks(database_url) == []


def test_calls_that_are_all_alike_make_the_same_rows_as_others(database_url: str) -> None:
    """They take another statement: it must neither forget nor add a column, an event or a counter."""
    with psycopg.connect(database_url) as connection:
        alike = app.enqueue_many(connection, [login.call("eve", SecretStr("s")), login.call("eve", SecretStr("s"))])
        mixed = app.enqueue_many(connection, [login.call("eve", SecretStr("s")), mail.call("x")])
    found = {row["id"]: row for row in tasks(database_url)}
    events = rows(database_url, "SELECT * FROM dispatcher.task_events")
    waiting = rows(database_url, "SELECT * FROM dispatcher.outbox")
    one, other = alike[1].id, mixed[0].id

    def same(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name not in ("id", "task_id", "created_at", "at")}

    assert same(found[one]) == same(found[other])
    for table in (events, waiting):
        assert [same(row) for row in table if row["task_id"] == one] == [
            same(row) for row in table if row["task_id"] == other
        ]
    counts = rows(database_url, "SELECT state, sum(n) AS n FROM dispatcher.task_counts GROUP BY 1")
    assert counts == [{"state": 3, "n": 4}]


def test_calls_that_are_all_alike_are_refused_like_others(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        with pytest.raises(UnknownLane, match="none"):
            app.enqueue_many(connection, [charge.options(lane="none").call(i) for i in range(2)])
        astray = charge.options(lane="none")
        with pytest.raises(UnknownLane, match="none"):
            app.enqueue_many(connection, [astray.call(i) for i in range(2)])
    assert tasks(database_url) == []
