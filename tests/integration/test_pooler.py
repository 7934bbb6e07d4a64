"""Everything behind a real PgBouncer in transaction mode; only the relay goes past it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from dispatcher.database import BY_INDEX, BlockingDatabase, Database
from dispatcher.errors import WaitError
from state.machine import Reason
from state.sql import Sql
from tests.fixtures import apps, flow_apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.flow_apps import ACCOUNTS, app, balances
from tests.fixtures.patience import PATIENCE
from tests.fixtures.pooler import POOL_SIZE, Pooler
from tests.integration import session_kinds as kinds

NOW = Sql("""
SELECT current_setting('statement_timeout'), current_setting('plan_cache_mode'), current_setting('enable_seqscan'),
       pg_backend_pid(), CAST(:n AS int)
""")
SLEEP = Sql("SELECT pg_sleep(CAST(:seconds AS float8))")
FRESH = ("0", "auto", "on")
"""What every other client of the same sessions must find."""


def has_ended(fleet: Fleet, number: int) -> bool:
    return fleet.finished() >= number


async def give_up_sessions(fleet: Fleet, pooler: Pooler, *after: int) -> None:
    """Each time so many tasks have ended, every session of the server ends with its transaction."""
    for number in after:
        await until(partial(has_ended, fleet, number))
        await asyncio.to_thread(pooler.tell, "RECONNECT")


@pytest.fixture
async def bank(pooled_fleet: Fleet) -> AsyncIterator[Fleet]:
    pooled_fleet.connection.execute(ACCOUNTS)
    app.configure(pooled_fleet.settings)
    yield pooled_fleet
    await app.close()


def sessions(pooler: Pooler) -> list[dict[str, Any]]:
    return [row for row in pooler.tell("SHOW SERVERS") if row["database"] != "pgbouncer"]


def assert_none_prepared(fleet: Fleet) -> None:
    """No attempt failed, to be tried again, over a statement that another session has prepared, or has not."""
    assert fleet.count("task_events", "CAST(detail AS text) LIKE '%prepared statement%'") == 0


async def test_every_end_of_a_task_is_reached_by_way_of_it(
    pooled_fleet: Fleet, pooler: Pooler, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = pooled_fleet
    caplog.set_level(logging.INFO, "shop")
    await fleet.relay()
    for _ in range(2):
        await fleet.worker(slots=8)
    stopped = fleet.enqueue(apps.hold.call("never"))
    await fleet.entry("start", stopped)
    good = fleet.enqueue_many(
        [apps.note.call(n) for n in range(100)]
        + [apps.note_plain.call(n) for n in range(50)]
        + [apps.flaky.call(n % 3) for n in range(30)]
        + [apps.nap.call(2) for _ in range(10)]
        + [apps.later.call(0.05) for _ in range(5)]
        + [apps.chatty.call("hello")]
    )
    given_up, failed = fleet.enqueue(apps.give_up.call("enough")), fleet.enqueue(apps.raising.call("no"))
    recycling = asyncio.create_task(give_up_sessions(fleet, pooler, 40, 100))
    with psycopg.connect(pooler.url, prepare_threshold=None) as service:
        [answer] = apps.app.cancel(service, stopped.id)
    assert answer.outcome == "cancel_requested"
    assert [await task.wait(PATIENCE) for task in good[:100]] == [2 * n for n in range(100)]
    for task in good[100:]:
        await task.wait(PATIENCE)
    for task, why in ((failed, "failed.*no"), (given_up, "cancelled.*enough"), (stopped, "cancelled")):
        with pytest.raises(WaitError, match=why):
            await task.wait(PATIENCE)
    await recycling
    logs = await until(lambda: apps.app.logs(fleet.connection, good[-1].id))
    assert {line.message for line in logs[0].lines} == {"loop hello", "thread hello"}
    assert [fleet.state(task) for task in (failed, given_up, stopped)] == ["failed", "cancelled", "cancelled"]
    assert Reason(fleet.row(stopped)["reason"]) is Reason.BY_REQUEST
    assert len(sessions(pooler)) <= POOL_SIZE
    assert_none_prepared(fleet)


async def test_effects_steps_children_and_flows_work_by_way_of_it(bank: Fleet, pooler: Pooler) -> None:
    fleet = bank
    await fleet.relay()
    for _ in range(2):
        await fleet.worker(app, slots=2)
    moved = fleet.enqueue_many(
        [kind.call(1) for kind in (flow_apps.transfer, flow_apps.transfer_plain) for _ in range(40)]
        + [flow_apps.transfer_in_process.call(1), flow_apps.in_steps.call(1, fail_after="take")]
    )
    recycling = asyncio.create_task(give_up_sessions(fleet, pooler, 20, 60))
    with psycopg.connect(pooler.url, prepare_threshold=None) as service:
        spawned = flow_apps.spawn.enqueue(service, 3)
        chained = flow_apps.add.call(1).then(flow_apps.double).then(flow_apps.add, 5).enqueue(service)
    for task in moved:
        await task.wait(PATIENCE)
    assert await spawned.wait(PATIENCE) == 6
    assert await chained.wait(PATIENCE) == 9
    await recycling
    assert balances(fleet.connection) == (-84, 84)  # the one in a process moves three times as much
    assert_none_prepared(fleet)


async def test_nothing_is_lost_when_it_is_killed(bank: Fleet, pooler: Pooler) -> None:
    fleet = bank
    await fleet.relay()
    for _ in range(2):
        await fleet.worker(app, slots=4)
    calls = [
        kind.options(max_attempts=1000).call(1) for kind in (flow_apps.transfer, flow_apps.add) for _ in range(150)
    ]
    waits = [asyncio.create_task(task.wait(2 * PATIENCE)) for task in fleet.enqueue_many(calls)]

    for _ in range(5):
        await until(partial(has_ended, fleet, min(fleet.finished() + 20, len(calls))))
        await asyncio.to_thread(pooler.kill)
        await asyncio.to_thread(pooler.start)
    await asyncio.gather(*waits)
    await fleet.all_finish(450, timeout=2 * PATIENCE)  # each transfer has its receipt
    assert balances(fleet.connection) == (-150, 150)
    assert_none_prepared(fleet)


async def test_every_kind_of_session_enqueues_by_way_of_it(pooled_fleet: Fleet, pooler: Pooler) -> None:
    """Each twice, so that the second finds what the first left in the server's session."""
    fleet = pooled_fleet
    await fleet.relay()
    await fleet.worker()
    made = []
    for kind in (kinds.TRANSACTIONAL | kinds.AUTOCOMMIT).values():
        for number in range(2):
            with kind(pooler.url) as tx:
                made += [apps.note.enqueue(tx, number), *apps.app.enqueue_many(tx, [apps.note.call(number)] * 2)]
    for asynchronous in kinds.BEHIND_A_POOLER.values():
        for number in range(2):
            async with asynchronous(pooler.url) as tx:
                made += [await apps.note.enqueue(tx, number)]
                made += await apps.app.enqueue_many(tx, [apps.note.call(number)] * 2)
    for kind in kinds.TRANSACTIONAL.values():
        with pytest.raises(KeyError, match="rolled back"), kind(pooler.url) as tx:
            apps.note.enqueue(tx, 7)
            raise KeyError("rolled back")
    await fleet.all_finish(len(made))
    assert fleet.count("tasks") == len(made)
    assert len(made) == 6 * (len(kinds.TRANSACTIONAL | kinds.AUTOCOMMIT) + len(kinds.BEHIND_A_POOLER))


async def test_a_session_is_renewed_by_way_of_it(pooled_fleet: Fleet) -> None:
    fleet, lease = pooled_fleet, 2.0
    fleet.configure(lease=timedelta(seconds=lease))
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.hold.call("go"))
    await fleet.entry("start", task)
    first = fleet.rows("SELECT expires_at FROM dispatcher.sessions")[0]["expires_at"]
    await until(
        lambda: (fleet.rows("SELECT expires_at FROM dispatcher.sessions")[0]["expires_at"] - first).seconds > lease
    )
    fleet.open("go")
    await fleet.reaches(task, "succeeded")
    assert (fleet.row(task)["attempt"], fleet.row(task)["tries"]) == (1, 1)


async def test_a_pool_of_its_own_keeps_the_leases_when_others_hold_every_session(
    pooled_fleet: Fleet, pooler: Pooler
) -> None:
    fleet = pooled_fleet
    fleet.configure(lease=timedelta(seconds=2), database_url=pooler.other_pool)
    await fleet.relay()
    await fleet.worker()
    held = fleet.enqueue(apps.hold.call("go"))
    await fleet.entry("start", held)
    with ExitStack() as stack:
        for _ in range(POOL_SIZE):
            stack.enter_context(psycopg.connect(pooler.url)).execute("SELECT 1")  # and goes on with its transaction
        other = psycopg.connect(pooler.url)
        asks = asyncio.create_task(asyncio.to_thread(other.execute, "SELECT 1"))
        tasks = fleet.enqueue_many([apps.note.call(n) for n in range(20)])
        await until(partial(has_ended, fleet, len(tasks)))
        renewed = fleet.rows("SELECT expires_at FROM dispatcher.sessions")[0]["expires_at"]
        await until(
            lambda: (fleet.rows("SELECT expires_at FROM dispatcher.sessions")[0]["expires_at"] - renewed).seconds > 2
        )
        assert not asks.done()
    await asks
    other.close()
    fleet.open("go")
    await fleet.reaches(held, "succeeded")
    assert (fleet.row(held)["attempt"], fleet.row(held)["tries"]) == (1, 1)


# one statement --------------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(pooler: Pooler) -> Pooler:
    """One session of the server for everybody: what somebody leaves behind is the next one's."""
    pooler.kill()
    pooler.start(default_pool_size="1", query_wait_timeout="10")
    return pooler


async def test_a_statement_has_its_settings_and_leaves_none(pooled_fleet: Fleet, alone: Pooler) -> None:
    database = Database(pooled_fleet.settings, "one", statement_timeout="20s", **BY_INDEX)
    other = psycopg.connect(alone.url, autocommit=True, prepare_threshold=None)
    found = set()
    for number in range(8):
        [(*settings, pid, said)] = await database.run(NOW, {"n": number})
        assert (*settings, said) == ("20s", "force_generic_plan", "off", number)
        [(*settings, same, _)] = other.execute(NOW.psycopg().encode(), {"n": 0}).fetchall()
        assert tuple(settings) == FRESH
        found |= {pid, same}
    assert len(found) == 1
    assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchall() == [(0,)]
    await database.close()
    other.close()


@pytest.mark.parametrize("blocking", [False, True], ids=["in a loop", "in a thread"])
async def test_an_error_or_a_timeout_leaves_no_transaction(pooled_fleet: Fleet, alone: Pooler, blocking: bool) -> None:
    settings, limit = pooled_fleet.settings, {"statement_timeout": "200ms"}
    one, thread = Database(settings, "one", **limit), BlockingDatabase(settings, "thread", **limit)

    async def run(sql: Sql, **params: Any) -> list[Any]:
        return await asyncio.to_thread(thread.run, sql, params) if blocking else await one.run(sql, params)

    with psycopg.connect(alone.url, autocommit=True, prepare_threshold=None) as other:
        for sql, params, kind in (
            (Sql("SELECT 1 / CAST(:n AS int)"), {"n": 0}, psycopg.errors.DivisionByZero),
            (Sql("SELECT * FROM {s}.no_such_table"), {}, psycopg.errors.UndefinedTable),
            (SLEEP, {"seconds": 60.0}, psycopg.errors.QueryCanceled),
        ):
            with pytest.raises(kind):
                await run(sql, **params)
            [(*rest, _, _)] = other.execute(NOW.psycopg().encode(), {"n": 0}).fetchall()  # waits if it is not free
            assert tuple(rest) == FRESH
            assert (await run(NOW, n=3))[0][-1] == 3
    await one.close()
    thread.close()


async def test_a_cancelled_statement_gives_its_session_back(pooled_fleet: Fleet, alone: Pooler) -> None:
    database = Database(pooled_fleet.settings, "one")
    trip = asyncio.create_task(database.run(SLEEP, {"seconds": 60.0}))
    await until(lambda: pooled_fleet.rows("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
    trip.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trip
    with psycopg.connect(alone.url, autocommit=True, prepare_threshold=None) as other:
        [(*rest, _, _)] = other.execute(NOW.psycopg().encode(), {"n": 0}).fetchall()
        assert tuple(rest) == FRESH
    assert (await database.run(NOW, {"n": 2}))[0][-1] == 2
    await database.close()
