"""Workers that die, freeze, or lose their servers: nothing is lost, nothing stale is written."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from dispatcher.database import Database
from state import claims, settle
from state.machine import Reason
from state.sql import Sql
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE, PUSHED

LEASE = 2.0
QUICK_ACK = '[defaults]\nack_wait = "2s"\n'
"""A message that went to a frozen worker goes to another one after this time."""


@pytest.fixture(autouse=True)
def _short_lease(fleet: Fleet) -> None:
    fleet.use_streams(QUICK_ACK)
    fleet.configure(lease=timedelta(seconds=LEASE))


async def test_tasks_of_a_killed_worker_go_to_others_within_the_lease(fleet: Fleet) -> None:
    await fleet.relay()
    process = await fleet.worker_process(slots=2)
    tasks = [fleet.enqueue(kind.call("go")) for kind in (apps.hold, apps.hold_plain)]
    for task in tasks:
        await fleet.entry("start", task)
    process.kill()
    for task in tasks:
        await fleet.reaches(task, "queued", timeout=LEASE + PUSHED)
        assert (fleet.row(task)["attempt"], Reason(fleet.row(task)["reason"])) == (2, Reason.LEASE_EXPIRED)
    fleet.open("go")
    await fleet.worker()
    await fleet.all_finish(2)
    assert {fleet.row(task)["tries"] for task in tasks} == {2}


async def test_a_task_that_kills_every_worker_ends_as_failed(fleet: Fleet) -> None:
    await fleet.relay()
    task = fleet.enqueue(apps.vanish.call(99))
    for _ in range(3):
        process = fleet.process("worker", "tests.fixtures.apps:app", "-c", "2")
        assert await process.ended() == 9
    row = await fleet.reaches(task, "failed")
    assert (row["tries"], Reason(row["reason"])) == (3, Reason.LEASE_EXPIRED)


async def test_a_frozen_worker_writes_nothing_when_it_wakes(fleet: Fleet) -> None:
    await fleet.relay()
    process = await fleet.worker_process()
    frozen = fleet.enqueue(apps.hold.call("go"))
    await fleet.entry("start", frozen)
    process.send(signal.SIGSTOP)
    other = await fleet.worker()
    again = await fleet.entry("start", frozen, number=2)
    assert again.attempt == 2
    fleet.open("go")  # both end now: the one that is frozen when it wakes
    await fleet.reaches(frozen, "succeeded")
    before = fleet.row(frozen)
    process.send(signal.SIGCONT)
    await until(lambda: "handlers are stopped" in process.output or len(fleet.ledger("end")) == 2)
    process.send(signal.SIGTERM)
    await process.ended()
    assert fleet.row(frozen) == before
    assert other.settler.refused == 0


async def test_a_handler_that_blocks_the_event_loop_keeps_its_lease(fleet: Fleet) -> None:
    """The renewal runs in a thread of its own."""
    await fleet.relay()
    process = await fleet.worker_process()
    task = fleet.enqueue(apps.frozen_loop.call("go"))
    await fleet.entry("start", task)
    first = fleet.rows("SELECT expires_at FROM dispatcher.sessions")[0]["expires_at"]
    await until(
        lambda: (fleet.rows("SELECT expires_at FROM dispatcher.sessions")[0]["expires_at"] - first).seconds > LEASE
    )
    fleet.open("go")
    await fleet.reaches(task, "succeeded")
    assert (fleet.row(task)["attempt"], fleet.row(task)["tries"]) == (1, 1)
    assert process.popen.poll() is None


def _lose_answer(monkeypatch: pytest.MonkeyPatch, statement: Sql) -> list[int]:
    """The first run of ``statement`` is committed, and its answer lost with the connection."""
    lost: list[int] = []
    real = Database.run

    async def run(self: Database, sql: Sql, params: Any = None) -> Any:
        rows = await real(self, sql, params)
        if sql is statement and not lost:
            lost.append(len(rows))
            await self.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return rows

    monkeypatch.setattr(Database, "run", run)
    return lost


async def test_a_claim_whose_answer_is_lost_is_adopted(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a single try it would otherwise fail although it never started."""
    lost = _lose_answer(monkeypatch, claims.CLAIM_ONE)
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.note.options(max_attempts=1).call(4))
    assert await task.wait(PATIENCE) == 8
    assert lost == [1]
    assert (fleet.row(task)["attempt"], fleet.row(task)["tries"]) == (1, 1)
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2  # under a new session
    await until(lambda: fleet.count("sessions") == 0)
    assert fleet.count("claims") == 0


@pytest.mark.parametrize("make", [lambda: apps.note.call(4), lambda: apps.raising.call("no")])
async def test_a_settle_whose_answer_is_lost_counts_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any]
) -> None:
    call = make()
    lost = _lose_answer(monkeypatch, settle.SUCCEED if call.name == "note" else settle.LEAVE)
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(call)
    await fleet.reaches(task, "succeeded", "failed")
    await until(lambda: bool(lost))
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2
    assert fleet.row(task)["tries"] == 1


async def test_who_waits_hears_of_a_settle_whose_answer_was_lost(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    _lose_answer(monkeypatch, settle.SUCCEED)
    await fleet.relay()
    await fleet.worker()
    assert await fleet.enqueue(apps.note.call(4)).wait(PUSHED) == 8


def _more_than(fleet: Fleet, number: int) -> bool:
    return fleet.finished() > number


async def test_ended_database_sessions_of_workers_lose_nothing(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker(slots=4)
    tasks = fleet.enqueue_many([apps.doze.call(0.02) for _ in range(100)])
    for _ in range(4):
        done = fleet.finished()
        fleet.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND starts_with(application_name, 'dispatcher worker')"
        )
        await until(partial(_more_than, fleet, min(done + 10, 99)))
    await fleet.all_finish(len(tasks))
    assert {entry.task_id for entry in fleet.ledger("ran")} == {task.id for task in tasks}


async def test_many_workers_killed_at_random_lose_nothing(fleet: Fleet) -> None:
    await fleet.relay()
    victims = [await fleet.worker_process(slots=2) for _ in range(2)]
    tasks = fleet.enqueue_many([apps.doze.options(max_attempts=20).call(0.05) for _ in range(60)])
    await until(lambda: fleet.finished() > 5)
    for victim in victims:
        victim.kill()
    survivor = await fleet.worker(slots=8)
    await fleet.all_finish(len(tasks))
    assert survivor.settler.refused == 0
    rerun = {entry.task_id for entry in fleet.ledger("ran") if entry.attempt > 1}
    assert len(rerun) <= 4 + 4  # only what was running or claimed ahead
