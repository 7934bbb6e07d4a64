"""What people and circumstances ask of workers: cancel, pause, drain, lanes, keys, foreign messages."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import timedelta
from uuid import uuid4

import pytest

from dispatcher import status
from dispatcher.errors import TaskCancelled, TaskFailed
from dispatcher.subjects import Subjects
from dispatcher.wire import encode, message_id
from state.machine import Reason
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet
from tests.fixtures.patience import PATIENCE, PUSHED, until
from tests.fixtures.waits import looked

TOLD = 5.0
"""Half of the time until the next renewal of the session would tell it: the message did."""


def cancel(fleet: Fleet, *tasks: object) -> list[str]:
    with fleet.connection.transaction():
        answers = apps.app.cancel(fleet.connection, *(task.id for task in tasks))  # type: ignore[attr-defined]
    return [answer.outcome for answer in answers]


async def test_a_running_coroutine_is_cancelled_within_a_second(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.hold.call("never"))
    await fleet.entry("start", task)
    assert cancel(fleet, task) == ["cancel_requested"]
    with pytest.raises(TaskCancelled):
        await task.wait(TOLD)
    await fleet.entry("stopped", task)


async def test_a_running_plain_function_is_told_within_a_second(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.hold_plain.call("never"))
    await fleet.entry("start", task)
    assert cancel(fleet, task) == ["cancel_requested"]
    await fleet.entry("stopped", task, timeout=TOLD)
    await fleet.reaches(task, "cancelled")


async def test_a_function_that_does_not_listen_may_still_succeed(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.deaf_plain.call("go"))
    await fleet.entry("start", task)
    assert cancel(fleet, task) == ["cancel_requested"]
    fleet.open("go")
    assert await task.wait(PATIENCE) == "go"
    assert cancel(fleet, task) == ["too_late"]


@pytest.mark.parametrize("kind", ["queued", "scheduled"])
async def test_a_waiting_task_that_is_cancelled_wakes_who_waits_for_it(fleet: Fleet, kind: str) -> None:
    """Nobody settles it, so the leader must say it: the wait ends at once, not with its backstop of 30 s."""
    await fleet.relay()
    task = fleet.enqueue(apps.note.options(delay=60 if kind == "scheduled" else None).call(1))
    waiting = asyncio.ensure_future(task.wait(2 * PATIENCE))
    await looked(apps.app, task)
    assert cancel(fleet, task) == ["cancelled"]
    with pytest.raises(TaskCancelled):
        await asyncio.wait_for(waiting, PUSHED)
    await until(lambda: fleet.count("cancel_requests") == 0)
    await fleet.worker()
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2
    assert len(fleet.ledger("ran")) == 1


async def test_a_cancel_whose_message_is_lost_still_arrives(fleet: Fleet) -> None:
    """The renewal of the session brings it."""
    fleet.configure(lease=timedelta(seconds=2))
    relay = await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.hold.call("never"))
    await fleet.entry("start", task)
    await fleet.stop(relay)
    cancel(fleet, task)
    await fleet.reaches(task, "cancelled")
    assert [entry.task_id for entry in fleet.ledger("stopped", "end")] == [task.id]


async def test_an_expired_task_fails_and_wakes_who_waits(fleet: Fleet) -> None:
    await fleet.relay()
    task = fleet.enqueue(apps.note.options(expires=0.3).call(1))
    with pytest.raises(TaskFailed, match="expired"):
        await task.wait(PATIENCE)
    await fleet.worker()
    assert await fleet.enqueue(apps.note.options(expires=60).call(2)).wait(PATIENCE) == 4
    assert [entry.value for entry in fleet.ledger("ran")] == ["2"]


async def test_pause_and_resume_hold_for_the_whole_fleet(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    await fleet.worker()
    assert await fleet.enqueue(apps.note.call(0)).wait(PATIENCE) == 0
    with fleet.connection.transaction():
        status.pause(fleet.connection, "default", actor="test")
    tasks = fleet.enqueue_many([apps.note.call(n) for n in range(1, 41)])
    await until(lambda: fleet.count("parked") == 40)
    assert len(fleet.ledger("ran")) == 1
    status.resume(fleet.connection, "default")
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(task.wait() for task in tasks))
    assert fleet.count("parked") == 0


async def test_the_urgent_lane_overtakes_a_backlog(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker(slots=2)
    backlog = fleet.enqueue_many([apps.doze.options(lane="low").call(0.1) for _ in range(40)])
    await until(lambda: len(fleet.ledger("ran")) >= 2)
    urgent = fleet.enqueue_many([apps.note.options(lane="high").call(n) for n in range(4)])
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(task.wait() for task in urgent))
    assert sum(fleet.state(task) == "queued" for task in backlog) >= 10
    await fleet.all_finish(44)


async def test_a_key_makes_one_task_through_the_whole_path(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    first = fleet.enqueue(apps.note.options(key="order-1").call(5))
    assert await first.wait(PATIENCE) == 10
    again = fleet.enqueue(apps.note.options(key="order-1").call(5))
    assert (again.id, again.created) == (first.id, False)
    assert await again.wait(PATIENCE) == 10
    assert len(fleet.ledger("ran")) == 1


async def test_a_task_type_nobody_here_knows_waits_for_a_worker_that_does(fleet: Fleet) -> None:
    await fleet.relay()
    mine = await fleet.worker()
    with fleet.connection.transaction():
        task = apps.stranger.enqueue(fleet.connection, 7)
    await until(lambda: mine.claimer.counts["unknown_type"] >= 1)
    seen = time.monotonic()
    await until(lambda: mine.claimer.counts["unknown_type"] >= 2)
    assert time.monotonic() - seen > 0.9  # no hot loop: it comes back after a second at the earliest
    row = fleet.row(task)
    assert (fleet.state(task), row["tries"], row["seq"], row["dispatch"]) == ("queued", 0, 1, 1)
    await fleet.worker(apps.other)
    await fleet.stop(mine)  # while both are there the server chooses, and may choose the wrong one many times
    await fleet.reaches(task, "succeeded")
    await apps.other.close()


@pytest.mark.parametrize("body", [b"", b"hello", b"\x02" + bytes(24), b'{"task": 1}', b"\x00" * 900])
async def test_a_message_that_is_not_ours_is_kept_as_evidence_and_runs_nothing(fleet: Fleet, body: bytes) -> None:
    await fleet.relay()
    worker = await fleet.worker()
    subject = Subjects(fleet.settings.namespace).lane("TASKS", "default", "default")
    await fleet.bus.store([(subject, body, uuid4().hex)], 5)
    rows = await until(lambda: fleet.rows("SELECT payload, why, worker FROM dispatcher.quarantine"))
    assert (rows[0]["payload"], rows[0]["worker"]) == (body, worker.name)
    await until(lambda: _lane_is_empty(worker))
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2


async def _lane_is_empty(worker: object) -> bool:
    return await worker.lanes.waiting() == 0  # type: ignore[attr-defined, no-any-return]


async def test_a_message_for_another_attempt_than_the_rows_never_runs(fleet: Fleet) -> None:
    await fleet.relay()
    worker = await fleet.worker()
    task = fleet.enqueue(apps.note.call(1))
    assert await task.wait(PATIENCE) == 2
    subject = Subjects(fleet.settings.namespace).lane("TASKS", "default", "default")
    for id, attempt in ((task.id, 1), (task.id, 2), (uuid4(), 1)):
        await fleet.bus.store([(subject, encode(id, attempt, 9), message_id(id, attempt, 9))], 5)
    await until(lambda: fleet.count("quarantine") == 2)  # the attempt that does not exist, and the task that does not
    await until(lambda: worker.claimer.counts["stale"] == 1)
    assert len(fleet.ledger("ran")) == 1


async def test_a_message_that_comes_many_times_runs_once(fleet: Fleet) -> None:
    await fleet.relay()
    await fleet.worker()
    task = fleet.enqueue(apps.hold.call("go"))
    await fleet.entry("start", task)
    subject = Subjects(fleet.settings.namespace).lane("TASKS", "default", "default")
    await fleet.bus.store([(subject, encode(task.id, 1, n), uuid4().hex) for n in range(20)], 5)
    fleet.open("go")
    assert await task.wait(PATIENCE) == "go"
    assert len(fleet.ledger("start")) == 1


async def test_long_tasks_fill_every_slot(fleet: Fleet) -> None:
    """A lane that was sized for a little must grow when its messages are all being worked on.

    The last ones may have to wait until a busy worker hands its surplus on.
    """
    await fleet.relay()
    await fleet.worker(slots=12)
    await fleet.worker(slots=12)
    for _ in range(24):
        fleet.enqueue(apps.hold.call("go"))
    await until(lambda: len(fleet.ledger("start")) == 24, what="every slot runs a task")
    fleet.open("go")
    await fleet.all_finish(24)
    assert [entry.attempt for entry in fleet.ledger("start")] == [1] * 24


async def test_two_workers_share_the_work(fleet: Fleet) -> None:
    await fleet.relay()
    one, two = await fleet.worker(slots=4), await fleet.worker(slots=4)
    fleet.enqueue_many([apps.doze.call(0.02) for _ in range(200)])
    await fleet.all_finish(200)
    assert min(one.claimer.counts["claimed"], two.claimer.counts["claimed"]) > 20
    assert len(fleet.ledger("ran")) == 200


async def test_a_deep_backlog_of_slow_tasks_does_not_stall(fleet: Fleet) -> None:
    """Ten times what fits at once, over three lanes, with few slots: refused messages come back in time."""
    worker = await fleet.worker(slots=4)
    fleet.enqueue_many([
        apps.doze.options(lane=lane).call(0.05) for lane in ("high", "default", "low") for _ in range(40)
    ])  # fmt: skip
    await fleet.relay()
    await fleet.all_finish(120)  # 1.5 s of work
    assert len(fleet.ledger("ran")) == 120
    assert worker.settler.refused == 0


async def test_drain_finishes_what_runs_and_gives_back_the_rest(fleet: Fleet) -> None:
    await fleet.relay()
    worker = await fleet.worker(slots=2)
    running = fleet.enqueue_many([apps.hold.call("go") for _ in range(2)])
    for task in running:
        await fleet.entry("start", task)
    waiting = fleet.enqueue_many([apps.note.call(n) for n in range(20)])
    await until(lambda: len(worker.inbox) + len(worker.executor.ready) + worker.inbox.refused > 0)
    worker.drain()
    await until(lambda: worker.inbox.closed)
    fleet.open("go")
    await fleet.stop(worker)
    assert [fleet.state(task) for task in running] == ["succeeded"] * 2
    assert {fleet.state(task) for task in waiting} == {"queued"}
    assert {fleet.row(task)["tries"] for task in waiting} == {0}
    assert fleet.count("sessions") == 0
    await fleet.worker()
    async with asyncio.timeout(10):  # less than the ack_wait of 15 s: no message was pushed to somebody who had left
        await asyncio.gather(*(task.wait() for task in waiting))


async def test_drain_gives_back_what_does_not_end_within_the_grace_time(fleet: Fleet) -> None:
    fleet.configure(grace=timedelta(seconds=0.3))
    await fleet.relay()
    worker = await fleet.worker()
    tasks = [fleet.enqueue(kind.call("later")) for kind in (apps.hold, apps.hold_plain)]
    for task in tasks:
        await fleet.entry("start", task)
    await fleet.stop(worker)
    for task in tasks:
        row = fleet.row(task)
        assert (fleet.state(task), row["tries"], row["attempt"], Reason(row["reason"])) == (
            "queued",
            0,
            2,
            Reason.RELEASED,
        )
    fleet.open("later")
    await fleet.worker()
    await fleet.all_finish(2)


async def test_burst_ends_when_nothing_waits(fleet: Fleet) -> None:
    await fleet.relay()
    fleet.enqueue_many([apps.note.call(n) for n in range(50)])
    worker = await fleet.worker(burst=True)
    await asyncio.wait_for(fleet.task_of(worker), PATIENCE)
    assert fleet.finished() == 50


async def test_sigterm_drains_a_worker_process(fleet: Fleet) -> None:
    await fleet.relay()
    process = await fleet.worker_process(slots=1)
    running = fleet.enqueue(apps.hold.call("go"))
    await fleet.entry("start", running)
    waiting = fleet.enqueue(apps.note.call(3))
    process.send(signal.SIGTERM)
    await until(lambda: "draining" in process.output)
    fleet.open("go")
    assert await process.ended() == 0, process.output
    assert fleet.state(running) == "succeeded"
    assert fleet.row(waiting)["tries"] == 0
    assert "Traceback" not in process.output


async def test_a_second_signal_ends_a_worker_at_once_and_loses_nothing(fleet: Fleet) -> None:
    fleet.configure(lease=timedelta(seconds=2))
    await fleet.relay()
    process = await fleet.worker_process()
    task = fleet.enqueue(apps.hold.call("go"))
    await fleet.entry("start", task)
    process.send(signal.SIGTERM)
    await until(lambda: "draining" in process.output)
    process.send(signal.SIGTERM)
    assert await process.ended() != 0
    fleet.open("go")
    await fleet.worker()
    assert await task.wait(PATIENCE) == "go"
    assert fleet.row(task)["tries"] == 2
