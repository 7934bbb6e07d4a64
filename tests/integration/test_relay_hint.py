"""A single task that wakes the sleeping leader: a worker is told of it at once, and then it needs no message."""

from __future__ import annotations

import asyncio

import psycopg

from dispatcher.relay.service import Relay
from dispatcher.subjects import Subjects
from dispatcher.wire import encode
from state.ids import new_id
from state.locks import SLEEP, advisory_key
from state.machine import State
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE


async def _asleep(fleet: Fleet) -> Relay:
    """A relay that has drained before, so that it knows its lanes, and sleeps."""
    relay = await fleet.relay()
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2
    await until(lambda: relay.leader is not None and relay.leader.sleep.holds and not fleet.count("outbox"))
    return relay


async def test_a_task_that_a_worker_was_told_of_needs_no_message(fleet: Fleet) -> None:
    await fleet.worker()
    relay = await _asleep(fleet)
    for number in range(5):
        assert await fleet.enqueue(apps.note.call(number)).wait(PATIENCE) == number * 2
        await until(lambda: not fleet.count("outbox"))
    # a worker that was slow by chance may have needed a message
    assert relay.drain.forgotten + relay.drain.published == 6
    assert relay.drain.forgotten > 0
    assert fleet.rows("SELECT count(*) AS n FROM dispatcher.dispatch_log") == [{"n": relay.drain.published}]
    assert not relay.drain.told
    assert len(fleet.ledger("ran")) == 6


async def test_a_task_that_nobody_claims_gets_its_message(fleet: Fleet) -> None:
    """The hint is lost, for there is no worker; the message waits for one."""
    worker = await fleet.worker()
    relay = await _asleep(fleet)
    await fleet.stop(worker)
    task = fleet.enqueue(apps.note.call(7))
    await until(lambda: relay.drain.published == 2)
    assert fleet.row(task)["state"] == State.QUEUED
    await fleet.worker()
    await fleet.reaches(task, "succeeded")
    assert fleet.row(task)["tries"] == 1


async def test_a_hint_that_is_of_no_use_leaves_no_trace(fleet: Fleet) -> None:
    """Of a task that there is not, of one that has ended, of an attempt to come: the stream will tell what is true."""
    worker = await fleet.worker()
    relay = await _asleep(fleet)
    ended = fleet.enqueue(apps.note.call(2))
    assert await ended.wait(PATIENCE) == 4
    await fleet.stop(relay)
    bus = await fleet.new_bus()
    before = worker.claimer.counts.copy()
    stream = fleet.streams.queue("default").stream
    lane = Subjects(fleet.settings.namespace).hint(stream, "default", "default")
    good = fleet.enqueue(apps.note.call(3))
    for reference in ((new_id(), 1, 1), (ended.id, 1, 1), (ended.id, 2, 1), (good.id, 1, 1)):
        assert await bus.publish(lane, encode(*reference))
        await until(lambda: len(worker.inbox) == 0 and worker.claimer.quiet.is_set())
    await fleet.reaches(good, "succeeded")
    assert worker.claimer.counts == before | {"claimed": before["claimed"] + 1}
    assert fleet.count("quarantine") == 0
    assert await bus.publish(lane, b"no reference")
    await until(lambda: fleet.count("quarantine") == 1)


async def test_what_is_told_while_entries_are_looked_at_is_not_forgotten(fleet: Fleet) -> None:
    """Its entry may have been committed too late to be seen."""
    relay = await fleet.relay()
    await until(lambda: relay.leader is not None and relay.leader.sleep.holds)
    late = new_id()
    relay.drain.told = {new_id(): 0.0}
    looks = asyncio.ensure_future(relay.drain.forget())
    await asyncio.sleep(0)
    relay.drain.told[late] = 1.0
    assert await looks == (0, False)
    assert relay.drain.told == {late: 1.0}


async def test_forged_and_foreign_notifications_change_nothing(fleet: Fleet) -> None:
    await fleet.worker()
    relay = await _asleep(fleet)
    forged = ["", ":", "x:y:z:1", f"1:{new_id()}:1", f"999:{new_id()}:1:1", f"1:{new_id()}:-1:{1 << 40}", "1:2:3:4:5:6"]
    forged.append(f"1:{new_id()}:1:1")  # a hint of a task that there is not
    with psycopg.connect(fleet.settings.database_url or "", autocommit=True) as other:
        for entry in forged:
            other.execute("SELECT pg_notify('dispatcher.wake', 'outbox:' || %s)", [entry])
    assert await fleet.enqueue(apps.note.call(3)).wait(PATIENCE) == 6
    assert relay.led.is_set()
    await until(lambda: not relay.drain.told)
    assert fleet.count("quarantine") == 0


async def test_only_a_single_entry_is_named(fleet: Fleet) -> None:
    """Several go together in a drain; and an id that the sequence did not give names nothing."""
    key = advisory_key(fleet.settings.db_schema, SLEEP)
    url = fleet.settings.database_url or ""
    with psycopg.connect(url, autocommit=True) as sleeper, psycopg.connect(url, autocommit=True) as writer:
        sleeper.execute("SELECT pg_advisory_lock(%s, %s)", key)
        sleeper.execute('LISTEN "dispatcher.wake"')
        one = apps.note.enqueue(writer, 1)
        apps.app.enqueue_many(writer, [apps.note.call(2), apps.note.call(3)])
        with psycopg.connect(url, autocommit=True) as fresh:
            fresh.execute(
                "INSERT INTO dispatcher.outbox (id, task_id, attempt, dispatch, lane_id) OVERRIDING SYSTEM VALUE"
                " SELECT 900, task_id, attempt, dispatch, lane_id FROM dispatcher.outbox LIMIT 1"
            )
        said = [note.payload for note in sleeper.notifies(timeout=PATIENCE, stop_after=3)]
    [lane] = fleet.rows("SELECT lane_id FROM dispatcher.tasks WHERE id = %s", one.id)
    assert said == [f"outbox:{lane['lane_id']}:{one.id}:1:1", "outbox", "outbox"]
