"""Several tasks in one message: each is claimed for itself, and the message is there until all of them are decided."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from dispatcher.handle import Task
from dispatcher.relay import flow
from dispatcher.relay.service import Relay
from dispatcher.subjects import Subjects
from dispatcher.wire import encode_all
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE
from workers.runtime import Worker

LANE = "any.queue.default.default"


async def publish(fleet: Fleet, *tasks: Task[object]) -> None:
    """One message for all of them, as a relay would have published it."""
    subject = Subjects(fleet.settings.namespace).lane("TASKS", "default", "default")
    await fleet.bus.store([(subject, encode_all([(task.id, 1, 1) for task in tasks]), uuid4().hex)], PATIENCE)


async def messages(fleet: Fleet) -> int:
    name = Subjects(fleet.settings.namespace).stream_name("TASKS")
    return int((await fleet.bus.api(f"STREAM.INFO.{name}"))["state"]["messages"])


async def is_empty(worker: Worker) -> bool:
    return await worker.lanes.waiting() == 0


async def test_the_message_stays_until_the_last_of_its_tasks_is_settled(fleet: Fleet) -> None:
    worker = await fleet.worker()
    tasks = [fleet.enqueue(apps.note.call(1)), fleet.enqueue(apps.hold.call("go")), fleet.enqueue(apps.flaky.call(9))]
    await publish(fleet, *tasks)
    await fleet.entry("start", tasks[1])
    await fleet.reaches(tasks[0], "succeeded")
    await fleet.reaches(tasks[2], "retrying")
    assert await messages(fleet) == 1
    fleet.open("go")
    await fleet.reaches(tasks[1], "succeeded")
    await until(lambda: is_empty(worker))
    assert worker.claimer.counts["claimed"] == 3 and worker.claimer.counts["stale"] == 0


async def test_one_task_that_cannot_be_claimed_now_does_not_hold_up_the_others(fleet: Fleet) -> None:
    worker = await fleet.worker()
    tasks = [fleet.enqueue(apps.note.call(n)) for n in range(3)]
    assert fleet.settings.database_url
    with psycopg.connect(fleet.settings.database_url) as other:
        other.execute("SELECT FROM dispatcher.tasks WHERE id = %s FOR UPDATE", (tasks[1].id,))
        await publish(fleet, *tasks)
        await fleet.reaches(tasks[0], "succeeded")
        await fleet.reaches(tasks[2], "succeeded")
        assert fleet.state(tasks[1]) == "queued"
        other.rollback()
    await fleet.reaches(tasks[1], "succeeded")
    await until(lambda: is_empty(worker))
    assert len(fleet.ledger("ran")) == 3


async def test_of_a_message_whose_tasks_are_done_or_running_nothing_runs_again(fleet: Fleet) -> None:
    worker, other = await fleet.worker(), await fleet.worker()
    tasks = [fleet.enqueue(apps.note.call(1)), fleet.enqueue(apps.hold.call("go"))]
    await publish(fleet, *tasks)
    await fleet.entry("start", tasks[1])
    await fleet.reaches(tasks[0], "succeeded")
    for _ in range(5):
        await publish(fleet, *tasks)
    fleet.open("go")
    await fleet.reaches(tasks[1], "succeeded")
    await until(lambda: is_empty(worker))
    assert len(fleet.ledger("ran")) == 1 and len(fleet.ledger("start")) == 1
    assert worker.claimer.counts["claimed"] + other.claimer.counts["claimed"] == 2


async def test_what_a_leaving_worker_did_not_run_goes_to_another(fleet: Fleet) -> None:
    first = await fleet.worker(slots=1)
    tasks = [fleet.enqueue(apps.hold.call("go")), *(fleet.enqueue(apps.note.call(n)) for n in range(6))]
    await publish(fleet, *tasks)
    await fleet.entry("start", tasks[0])
    second = await fleet.worker()
    await fleet.relay()  # for what the first one had claimed ahead of its slot
    first.drain()
    await until(lambda: len(fleet.ledger("ran")) == 6)
    fleet.open("go")
    await fleet.all_finish(7)
    await until(lambda: is_empty(second))
    assert len(fleet.ledger("ran")) == 6 and len(fleet.ledger("start")) == 1


@pytest.fixture
def bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few tasks are enough to travel together."""
    monkeypatch.setattr(flow, "_SPREAD", 2)
    monkeypatch.setattr(flow, "_PIECES", 4)


async def bundling(fleet: Fleet) -> tuple[Relay, Worker]:
    """Both; the relay has heard what the worker wants."""
    relay = await fleet.relay()
    worker = await fleet.worker(slots=16)
    await until(lambda: relay.drain.together is not None and relay.drain.together(LANE, 400) > 1)
    return relay, worker


async def stored(fleet: Fleet) -> int:
    name = Subjects(fleet.settings.namespace).stream_name("TASKS")
    return int((await fleet.bus.api(f"STREAM.INFO.{name}"))["state"]["last_seq"])


@pytest.mark.usefixtures("bundles")
async def test_a_burst_travels_in_few_messages_and_every_outcome_is_written(fleet: Fleet) -> None:
    relay, worker = await bundling(fleet)
    calls = [apps.note.call(n) for n in range(300)] + [apps.flaky.call(1) for _ in range(20)]
    calls += [apps.nap.call(1) for _ in range(20)]
    tasks = fleet.enqueue_many(calls)
    await fleet.all_finish(len(tasks))
    await until(lambda: is_empty(worker))
    # once each, and again after the failure and the nap; what is done need not have been counted yet
    await until(lambda: relay.drain.published + relay.drain.forgotten == len(tasks) + 40)
    assert await stored(fleet) < len(tasks) / 2
    notes = [task.id for task in tasks[:300]]
    assert sorted(entry.task_id for entry in fleet.ledger("ran") if entry.task_id in set(notes)) == notes


@pytest.mark.usefixtures("bundles")
async def test_messages_of_several_that_vanish_are_sent_again(fleet: Fleet) -> None:
    """Purged before anybody listens; the guard and the reconciler know tasks, not messages."""
    relay, worker = await bundling(fleet)
    tasks = fleet.enqueue_many([apps.hold.call("go") for _ in range(200)])
    await until(lambda: len(fleet.ledger("start")) >= 16)
    name = Subjects(fleet.settings.namespace).stream_name("TASKS")
    await fleet.bus.api(f"STREAM.DELETE.{name}")
    fleet.open("go")
    assert relay.leader is not None
    relay.leader.on_blocked()  # look at the streams now, not in ten seconds
    await fleet.all_finish(len(tasks))
    assert worker.claimer.counts["claimed"] >= 200
