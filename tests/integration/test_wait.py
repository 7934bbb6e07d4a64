"""Waiting for results: pushed, from any thread or loop, with clear answers when there is none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import SecretStr

import dispatcher.waiting
from dispatcher import (
    ConfigurationError,
    Dispatcher,
    DispatcherError,
    NotCommitted,
    NotFinished,
    OptionError,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    WaitTimeout,
)
from dispatcher.bus import Bus
from dispatcher.embedded import EmbeddedServers
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects
from state.machine import Reason, State
from tests.fixtures.patience import PUSHED, until
from tests.fixtures.waits import looked
from tests.integration import session_kinds as kinds
from tests.integration.shop import Receipt, app, charge, login, rows


@pytest.fixture(autouse=True)
async def configured(settings: Settings) -> AsyncIterator[None]:
    app.configure(settings)
    yield
    await app.close()


def _enqueue(database_url: str, order_id: int = 1) -> Any:
    with psycopg.connect(database_url) as connection:
        return charge.enqueue(connection, order_id)


def _end(database_url: str, id: UUID, result: bytes | None, state: State = State.SUCCEEDED, error: str = "") -> None:
    """What a worker does to the row when it settles."""
    reason = None if state is State.SUCCEEDED else Reason.EXHAUSTED if state is State.FAILED else Reason.BY_REQUEST
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE dispatcher.tasks SET state = %s, reason = %s, result = %s, tries = 1, started_at = now(),"
            " finished_at = now() WHERE id = %s",
            (state, reason, result, id),
        )
        if state is not State.SUCCEEDED:
            connection.execute(
                "INSERT INTO dispatcher.failures (task_id, tenant_id, queue_id, type_id, state, reason, error)"
                " SELECT id, tenant_id, queue_id, type_id, state, reason, %s FROM dispatcher.tasks WHERE id = %s",
                (error, id),
            )


async def _announce(bus: Bus, settings: Settings, *ids: UUID, state: State = State.SUCCEEDED) -> None:
    await bus.publish(Subjects(settings.namespace).settled, b"".join(id.bytes + bytes([state]) for id in ids))


async def test_the_result_is_pushed(database_url: str, settings: Settings, bus: Bus) -> None:
    task = _enqueue(database_url)
    waiting = asyncio.create_task(task.wait(timeout=PUSHED))
    other = _enqueue(database_url, 2)
    both = asyncio.create_task(other.wait(timeout=PUSHED))
    await looked(app, task, other)
    _end(database_url, task.id, b'{"order_id":1,"paid":true}')
    _end(database_url, other.id, b'{"order_id":2,"paid":false}')
    assert not waiting.done()
    await _announce(bus, settings, uuid4(), other.id, task.id)
    assert await waiting == Receipt(order_id=1)
    assert await both == Receipt(order_id=2, paid=False)


async def test_a_task_that_has_ended_is_answered_at_once(database_url: str) -> None:
    task = _enqueue(database_url)
    _end(database_url, task.id, b'{"order_id":1,"paid":true}')
    assert await task.wait(timeout=PUSHED) == Receipt(order_id=1)
    assert await app.handle(task.id).wait(timeout=PUSHED) == {"order_id": 1, "paid": True}
    assert await asyncio.to_thread(task.wait_blocking, PUSHED) == Receipt(order_id=1)


async def test_failure_and_cancellation_are_told_apart(database_url: str) -> None:
    failed, cancelled = _enqueue(database_url), _enqueue(database_url)
    _end(database_url, failed.id, None, State.FAILED, "Traceback ...\nValueError: no such card")
    _end(database_url, cancelled.id, None, State.CANCELLED)
    with pytest.raises(TaskFailed, match=r"failed \(exhausted\): ValueError: no such card") as error:
        await failed.wait(timeout=PUSHED)
    assert (error.value.reason, error.value.error) == ("exhausted", "Traceback ...\nValueError: no such card")
    with pytest.raises(TaskCancelled, match=r"was cancelled \(by_request\)"):
        await cancelled.wait(timeout=PUSHED)


async def test_timeout(database_url: str) -> None:
    task = _enqueue(database_url)
    with pytest.raises(WaitTimeout, match=r"did not end within 0\.1 s"):
        await task.wait(timeout=0.1)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(task.wait_blocking, 0.1)
    for wrong in (-1, "5", True):
        with pytest.raises(OptionError, match="timeout must be seconds"):
            await task.wait(timeout=wrong)
    waits = app._home._waiting._waits
    await until(lambda: not waits)


@pytest.mark.parametrize("kind", kinds.TRANSACTIONAL)
def test_waiting_inside_the_creating_transaction_is_refused(database_url: str, kind: str) -> None:
    with kinds.TRANSACTIONAL[kind](database_url) as tx:
        task = charge.enqueue(tx, 1)
        with pytest.raises(NotCommitted, match="wait after the end of the transaction"):
            task.wait_blocking(timeout=PUSHED)
    with pytest.raises(WaitTimeout):
        task.wait_blocking(timeout=0.05)


@pytest.mark.parametrize("kind", kinds.ASYNC_TRANSACTIONAL)
async def test_waiting_inside_the_creating_transaction_is_refused_async(database_url: str, kind: str) -> None:
    async with kinds.ASYNC_TRANSACTIONAL[kind](database_url) as tx:
        (task,) = await app.enqueue_many(tx, [charge.call(1)])
        with pytest.raises(NotCommitted):
            await task.wait(timeout=PUSHED)
    with pytest.raises(WaitTimeout):
        await task.wait(timeout=0.05)


@pytest.mark.parametrize("kind", ["psycopg-autocommit", "connection-psycopg-autocommit"])
def test_with_autocommit_there_is_nothing_to_wait_for(database_url: str, kind: str) -> None:
    with kinds.AUTOCOMMIT[kind](database_url) as tx:
        task = charge.enqueue(tx, 1)
        with pytest.raises(WaitTimeout):
            task.wait_blocking(timeout=0.05)


def test_a_rolled_back_task_is_not_found(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        task = charge.enqueue(connection, 1)
        connection.rollback()
        with pytest.raises(TaskNotFound, match="never committed"):
            task.wait_blocking(timeout=PUSHED)


def test_a_commit_between_look_and_answer_is_seen(database_url: str) -> None:
    """The look finds nothing, and before its answer is judged the transaction commits."""
    with psycopg.connect(database_url) as connection:
        task = charge.enqueue(connection, 1)
        explain = task._explain_absence
        seen: list[bool] = []

        class Late(type(task)):  # type: ignore[misc]
            def _explain_absence(self, may: bool) -> None:
                connection.commit()
                seen.append(may)
                explain(may)

        late = Late(task.id, created=True, home=task._home, decode=task._decode, is_open=task._is_open)
        with pytest.raises(WaitTimeout):
            late.wait_blocking(timeout=0.2)
        assert seen == [True]


async def test_waits_of_all_threads_and_loops_share_one_connection(
    database_url: str, settings: Settings, bus: Bus
) -> None:
    made = [_enqueue(database_url, i) for i in range(20)]
    looks: list[int] = []
    with ThreadPoolExecutor(20) as pool:
        loop = asyncio.get_running_loop()
        waits = [loop.run_in_executor(pool, task.wait_blocking, PUSHED) for task in made[:10]]
        waits += [loop.run_in_executor(pool, lambda t=task: asyncio.run(t.wait(PUSHED))) for task in made[10:]]  # type: ignore[misc]
        await until(lambda: app._home._waiting is not None and len(app._home._waiting._waits) == 20)
        looks += [row["n"] for row in rows(database_url, _CONNECTIONS)]
        for i, task in enumerate(made):
            _end(database_url, task.id, b'{"order_id":%d}' % i)
        await _announce(bus, settings, *(task.id for task in made))
        results = await asyncio.gather(*waits)
    assert sorted(result.order_id for result in results) == list(range(20))
    assert looks == [1]


_CONNECTIONS = (
    "SELECT count(*) AS n FROM pg_stat_activity"
    " WHERE application_name = 'dispatcher-wait' AND datname = current_database()"
)


async def test_a_broken_database_connection_is_opened_again(database_url: str, settings: Settings, bus: Bus) -> None:
    task = _enqueue(database_url)
    waiting = asyncio.create_task(task.wait(timeout=PUSHED))
    await looked(app, task)
    rows(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'dispatcher-wait' AND datname = current_database()",
    )
    _end(database_url, task.id, b'{"order_id":1}')
    await _announce(bus, settings, task.id)
    assert await waiting == Receipt(order_id=1)


async def test_what_ended_while_the_broker_was_away_is_found_at_the_reconnect(
    database_url: str, own_servers: EmbeddedServers
) -> None:
    app.configure(Settings(database_url=database_url, nats_url=own_servers.nats_url))
    task = _enqueue(database_url)
    waiting = asyncio.create_task(task.wait(timeout=60))
    await looked(app, task)
    await asyncio.to_thread(own_servers.kill_nats)
    _end(database_url, task.id, b'{"order_id":1}')
    started = time.monotonic()
    await asyncio.to_thread(own_servers.restart_nats)
    assert await waiting == Receipt(order_id=1)
    assert time.monotonic() - started < PUSHED


async def test_the_backstop_finds_what_nobody_announced(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher.waiting, "_BACKSTOP", 0.2)
    task = _enqueue(database_url)
    waiting = asyncio.create_task(task.wait(timeout=PUSHED))
    await looked(app, task)
    _end(database_url, task.id, b'{"order_id":1}')
    assert await waiting == Receipt(order_id=1)


async def test_closing_ends_open_waits_and_later_ones_work_again(database_url: str) -> None:
    task = _enqueue(database_url)
    waiting = asyncio.create_task(task.wait(timeout=PUSHED))
    await looked(app, task)
    await app.close()
    with pytest.raises(DispatcherError, match="the app was closed while a task was waited for"):
        await waiting
    assert not [thread for thread in threading.enumerate() if thread.name == "dispatcher-wait"]
    with pytest.raises(WaitTimeout):
        await task.wait(timeout=0.05)
    await app.close()
    await app.close()


async def test_waiting_needs_settings() -> None:
    alone = Dispatcher("alone")
    with pytest.raises(ConfigurationError, match="set DISPATCHER_NATS_URL"):
        await alone.handle(uuid4()).wait(timeout=1)
    alone.configure(Settings(nats_url="nats://127.0.0.1:1"))
    with pytest.raises(ConfigurationError, match="set DISPATCHER_DATABASE_URL"):
        await alone.handle(uuid4()).wait(timeout=1)


async def test_an_unreachable_broker_does_not_hide_a_finished_task(
    database_url: str, servers: Any, unused_tcp_port: int
) -> None:
    task = _enqueue(database_url)
    _end(database_url, task.id, b'{"order_id":1}')
    app.configure(Settings(database_url=database_url, nats_url=f"nats://127.0.0.1:{unused_tcp_port}"))
    assert await task.wait(timeout=PUSHED) == Receipt(order_id=1)


async def test_reading_a_result_with_the_callers_session(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        task = charge.enqueue(connection, 1)
        with pytest.raises(NotFinished, match="it is queued: use wait"):
            task.result(connection)
        with pytest.raises(TaskNotFound):
            charge.handle(uuid4()).result(connection)
        connection.commit()
        _end(database_url, task.id, b'{"order_id":1}')
        assert task.result(connection) == Receipt(order_id=1)
    async with kinds.async_session("asyncpg")(database_url) as session:
        assert await task.result(session) == Receipt(order_id=1)


async def test_a_secret_result_reaches_the_waiter_intact(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        task = login.enqueue(connection, "u", password=SecretStr("x"))
    _end(database_url, task.id, b'"hunter2"')
    assert (await task.wait(timeout=PUSHED)).get_secret_value() == "hunter2"
