"""The relay's sleep: it asks for nothing, and no committed work is ever slept over."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from dispatcher.errors import OutboxFull
from dispatcher.relay import leader
from state.ids import new_id
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE, PUSHED


def _service(url: str, number: int, pauses: list[float], errors: list[BaseException]) -> None:
    try:
        with psycopg.connect(url) as connection:
            for pause in pauses:
                with connection.transaction():
                    apps.note.enqueue(connection, number)
                    if pause:
                        threading.Event().wait(pause)  # the transaction stays open that long
    except BaseException as error:
        errors.append(error)


async def test_no_task_is_slept_over(fleet: Fleet) -> None:
    """Small transactions from four sides, some held open across the leader's falling asleep."""
    fleet.configure(backstop=timedelta(seconds=60))
    await fleet.relay()
    await fleet.worker(slots=16)
    errors: list[BaseException] = []
    patterns = [[0.0, 0.06] * 25, [0.03] * 50, [0.0] * 60 + [0.2] + [0.0] * 60, [0.11] * 12]
    threads = [
        threading.Thread(target=_service, args=(fleet.settings.database_url, n, pauses, errors))
        for n, pauses in enumerate(patterns)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join, 30)
    assert errors == []
    total = sum(map(len, patterns))
    await fleet.all_finish(total)  # far below the backstop


async def test_a_late_commit_of_an_early_row_is_not_slept_over(fleet: Fleet) -> None:
    """Id order is not commit order: the row with the lower id is committed after the higher one was published."""
    fleet.configure(backstop=timedelta(seconds=60))
    await fleet.relay()
    await fleet.worker()
    url = fleet.settings.database_url
    assert url
    for _ in range(3):
        with psycopg.connect(url) as early, psycopg.connect(url) as late:
            first = apps.note.enqueue(early, 1)
            second = apps.note.enqueue(late, 2)
            late.commit()
            await fleet.reaches(second, "succeeded")
            early.commit()
            await fleet.reaches(first, "succeeded")  # far below the backstop


@pytest.mark.parametrize("hold", [0.0, 0.03, 0.06, 0.12, 0.3])
async def test_a_timer_written_while_the_leader_falls_asleep_is_on_time(fleet: Fleet, hold: float) -> None:
    fleet.configure(backstop=timedelta(seconds=60))
    await fleet.relay()
    for n in range(3):
        with fleet.connection.transaction():
            fleet.rows("SELECT 1")
            apps.note.enqueue(fleet.connection, n)  # wakes the leader; its sleep lock waits for the next one
        url = fleet.settings.database_url
        assert url
        with psycopg.connect(url) as connection:
            task = apps.note.options(delay=hold + 0.3).enqueue(connection, 1)
            await asyncio.sleep(hold)  # as long as the transaction is open
        await fleet.reaches(task, "queued", timeout=PATIENCE)


async def test_timers_are_on_time(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    tasks = [fleet.enqueue(apps.note.options(delay=delay).call(1)) for delay in (1.2, 0.4, 0.8, 0.05)]
    await fleet.all_finish(4)
    for row in fleet.rows("SELECT due_at, started_at FROM dispatcher.tasks"):
        assert timedelta(0) <= row["started_at"] - row["due_at"] < timedelta(seconds=PUSHED)
    assert len(tasks) == 4


async def test_timers_do_not_wait_for_the_end_of_a_deep_backlog(fleet: Fleet) -> None:
    await fleet.relay()
    with fleet.connection.transaction():
        apps.app.enqueue_many(fleet.connection, [apps.note.call(n) for n in range(20_000)])
        task = apps.note.options(delay=0.05).enqueue(fleet.connection, 1)
    await until(lambda: not fleet.count("outbox") and fleet.state(task) == "queued", 20)
    [moved] = fleet.rows("SELECT at FROM dispatcher.task_events WHERE task_id = %s AND seq = 2", task.id)
    [published] = fleet.rows("SELECT count(*) AS n FROM dispatcher.dispatch_log WHERE published_at > %s", moved["at"])
    assert published["n"] > 5


async def test_an_earlier_timer_wakes_a_leader_that_sleeps_for_a_later_one(fleet: Fleet) -> None:
    relay = await fleet.relay()
    later = fleet.enqueue(apps.note.options(delay=3600).call(1))
    await until(lambda: relay.leader is not None and relay.leader.sleep.holds)
    soon = fleet.enqueue(apps.note.options(delay=0.3).call(2))
    await fleet.reaches(soon, "queued")
    assert fleet.state(later) == "scheduled"


async def test_plain_sql_wakes_too(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2
    fleet.rows("SELECT dispatcher.create_task(%s, 'note', 'default', 'default', '{\"value\": 3}', 5, 0)", new_id())
    await until(lambda: len(fleet.ledger("ran")) == 2)


async def test_the_backstop_finds_what_nobody_announced(fleet: Fleet) -> None:
    fleet.configure(backstop=timedelta(seconds=1))
    relay = await fleet.relay()
    await until(lambda: relay.leader is not None and relay.leader.sleep.holds)
    with fleet.connection.transaction():
        fleet.connection.execute("SET LOCAL session_replication_role = replica")  # no trigger fires: no NOTIFY
        task = apps.note.enqueue(fleet.connection, 1)
    await until(lambda: fleet.count("outbox") == 0)
    assert fleet.state(task) == "queued"


async def test_an_idle_relay_asks_next_to_nothing(fleet: Fleet) -> None:
    fleet.configure(lease=timedelta(seconds=4))  # the worker's session ends after a quarter of it
    relay = await fleet.relay()
    await fleet.worker()
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2
    await until(lambda: fleet.count("sessions") == 0)
    await until(lambda: relay.leader is not None and relay.leader.sleep.holds)
    seen = _last_statements(fleet)
    await fleet.beats(2)
    later = _last_statements(fleet)
    assert len([pid for pid, at in later.items() if seen.get(pid) != at]) <= 1  # at most one chore, no poll


def _last_statements(fleet: Fleet) -> dict[Any, Any]:
    rows = fleet.rows(
        "SELECT pid, query_start FROM pg_stat_activity WHERE datname = current_database()"
        " AND starts_with(application_name, 'dispatcher ')"
    )
    return {row["pid"]: row["query_start"] for row in rows}


async def test_above_its_limit_the_outbox_refuses_new_tasks_and_changes_nothing(fleet: Fleet) -> None:
    fleet.configure(outbox_limit=50)
    relay = await fleet.relay()
    await until(lambda: fleet.rows("SELECT outbox_limit FROM dispatcher.relay_state")[0]["outbox_limit"] == 50)
    await fleet.stop(relay)
    fleet.enqueue_many([apps.note.call(n) for n in range(60)])
    with pytest.raises(OutboxFull, match="relay"), fleet.connection.transaction():
        apps.note.enqueue(fleet.connection, 1)
    with pytest.raises(OutboxFull), fleet.connection.transaction():
        apps.app.enqueue_many(fleet.connection, [apps.note.call(1)])
    assert fleet.count("tasks") == 60
    await fleet.relay()
    await until(lambda: fleet.count("outbox") == 0)
    await until(lambda: _creates(fleet))  # the mark follows within a second


def _creates(fleet: Fleet) -> bool:
    try:
        with fleet.connection.transaction():
            apps.note.enqueue(fleet.connection, 1)
    except OutboxFull:
        return False
    return True


async def test_counters_are_folded_and_the_dispatch_log_is_trimmed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "_FOLD_SECONDS", 0.2)
    monkeypatch.setattr(leader, "_TRIM_SECONDS", 0.2)
    fleet.configure(backstop=timedelta(seconds=1))
    await fleet.relay()
    await fleet.worker()
    for n in range(30):
        fleet.enqueue(apps.note.call(n))
    await fleet.all_finish(30)
    await until(lambda: fleet.count("dispatch_log") == 0)
    await until(lambda: fleet.count("task_counts") == 1)
    assert fleet.rows("SELECT state, n FROM dispatcher.task_counts") == [{"state": 6, "n": 30}]
