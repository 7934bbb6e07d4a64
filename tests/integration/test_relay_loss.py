"""Relays and servers that die, freeze or fill up: committed tasks still run, and nothing loops hot."""

from __future__ import annotations

import asyncio
import signal
from datetime import timedelta

import pytest

from dispatcher.errors import BusError
from dispatcher.relay import guard, leader, reconcile
from dispatcher.relay.drain import Drain
from dispatcher.streams.server import parse_version
from dispatcher.subjects import Subjects
from dispatcher.wire import encode
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.patience import PATIENCE


async def test_another_relay_takes_over_from_one_that_was_killed(fleet: Fleet) -> None:
    process = await fleet.relay_process()
    standby = await fleet.relay(leads=False)
    await fleet.worker()
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2
    process.kill()
    task = fleet.enqueue(apps.note.call(2))
    await fleet.signal(standby, standby.led, 5)
    assert await task.wait(PATIENCE) == 4


async def test_another_relay_takes_over_from_one_that_froze(fleet: Fleet) -> None:
    process = await fleet.relay_process()
    standby = await fleet.relay(leads=False)
    await fleet.worker()
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2
    process.send(signal.SIGSTOP)
    task = fleet.enqueue(apps.note.call(2))
    async with asyncio.timeout(PATIENCE):
        assert await task.wait() == 4
        await standby.led.wait()
    process.send(signal.SIGCONT)  # it finds its sessions ended and stands by
    assert await fleet.enqueue(apps.note.call(3)).wait(PATIENCE) == 6
    process.send(signal.SIGTERM)
    assert await process.ended() == 0, process.output


async def test_a_relay_stops_in_order_at_sigterm(fleet: Fleet) -> None:
    process = await fleet.relay_process()
    process.send(signal.SIGTERM)
    assert await process.ended() == 0
    assert "Traceback" not in process.output
    await until(lambda: fleet.leader_pid() is None)


async def test_when_the_stream_is_full_the_relay_waits_and_goes_on(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.use_streams("[defaults]\nmax_msgs = 20\n")
    tries = 0
    real = Drain.once

    async def counted(self: Drain) -> int:
        nonlocal tries
        tries += 1
        return await real(self)

    relay = await fleet.relay()
    fleet.enqueue_many([apps.note.call(n) for n in range(100)])
    monkeypatch.setattr(Drain, "once", counted)
    await until(lambda: relay.leader is not None and relay.leader._is_blocked())
    assert fleet.count("outbox") == 100
    fleet.enqueue(apps.note.call(100))  # creating goes on
    tries = 0
    await fleet.beats(2)
    assert tries <= 8
    name = Subjects(fleet.settings.namespace).stream_name("TASKS")
    await fleet.worker()
    await until(lambda: fleet.finished() >= 1)
    info = await fleet.bus.api(f"STREAM.INFO.{name}")
    assert info["config"]["max_msgs"] == 20
    await fleet.all_finish(101, timeout=2 * PATIENCE)


async def test_a_deleted_stream_is_made_again_and_its_tasks_are_sent_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_GUARD_SECONDS", 1.0)
    fleet.configure(backstop=timedelta(seconds=2))
    await fleet.relay()
    tasks = fleet.enqueue_many([apps.note.call(n) for n in range(30)])
    await until(lambda: fleet.count("outbox") == 0)
    await fleet.bus.api(f"STREAM.DELETE.{Subjects(fleet.settings.namespace).stream_name('TASKS')}")
    await fleet.worker()
    await fleet.all_finish(len(tasks))
    assert {row["dispatch"] for row in fleet.rows("SELECT dispatch FROM dispatcher.tasks")} == {2}


async def test_purged_messages_are_sent_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is the one we knew, but what was in it is gone."""
    monkeypatch.setattr(leader, "_TRIM_SECONDS", 0.2)
    fleet.configure(backstop=timedelta(seconds=1))
    await fleet.relay()
    fleet.enqueue_many([apps.note.call(n) for n in range(30)])
    await until(lambda: fleet.count("outbox") == 0)
    await fleet.bus.api(f"STREAM.PURGE.{Subjects(fleet.settings.namespace).stream_name('TASKS')}")
    await fleet.worker()
    await fleet.all_finish(30)
    assert min(row["dispatch"] for row in fleet.rows("SELECT dispatch FROM dispatcher.tasks")) >= 2


async def test_messages_that_only_wait_are_not_sent_twice(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "_TRIM_SECONDS", 0.1)
    fleet.configure(backstop=timedelta(seconds=1))
    relay = await fleet.relay()
    fleet.enqueue_many([apps.note.call(n) for n in range(30)])
    await until(lambda: fleet.count("outbox") == 0)
    assert relay.leader is not None
    looked = relay.leader._last_look
    await until(lambda: relay.leader is not None and relay.leader._last_look > looked + 2)
    assert {row["dispatch"] for row in fleet.rows("SELECT dispatch FROM dispatcher.tasks")} == {1}


async def test_a_drain_that_failed_leaves_its_rows(fleet: Fleet) -> None:
    bus = await fleet.new_bus()
    drain = Drain(fleet.settings, bus)
    fleet.enqueue_many([apps.note.call(n) for n in range(10)])
    with pytest.raises(BusError):
        await drain.once()  # there is no stream yet
    assert fleet.count("outbox") == 10 and fleet.count("dispatch_log") == 0
    await drain.close()


async def test_two_drains_share_the_outbox(fleet: Fleet) -> None:
    relay = await fleet.relay()
    await fleet.stop(relay)
    one, two = Drain(fleet.settings, await fleet.new_bus()), Drain(fleet.settings, await fleet.new_bus())
    fleet.enqueue_many([apps.note.call(n) for n in range(3000)])

    async def empty(drain: Drain) -> int:
        total = 0
        while fleet.count("outbox"):
            total += await drain.once()
        return total

    assert sum(await asyncio.gather(empty(one), empty(two))) == 3000
    info = await fleet.bus.api(f"STREAM.INFO.{Subjects(fleet.settings.namespace).stream_name('TASKS')}")
    assert info["state"]["messages"] == 3000
    await one.close()
    await two.close()


async def test_messages_that_no_task_needs_do_not_hide_lost_ones(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged store may keep messages that are never delivered; whatever is lost behind one has to be found."""
    relay = await fleet.relay()
    worker = await fleet.worker()
    done = [fleet.enqueue(apps.note.call(n)) for n in range(3)]
    await fleet.all_finish(3)
    await fleet.stop(worker)
    subjects = Subjects(fleet.settings.namespace)
    lane = subjects.lane("TASKS", "default", "default")
    await fleet.bus.store([(lane, encode(task.id, 1, 1), f"stray-{task.id}") for task in done], 5.0)
    await fleet.bus.store([(lane, b"not ours", "foreign")], 5.0)
    lost = fleet.enqueue(apps.note.call(7))
    name = subjects.stream_name("TASKS")

    async def messages() -> int:
        return int((await fleet.bus.api(f"STREAM.INFO.{name}"))["state"]["messages"])

    async def stored() -> bool:
        return await messages() == 5

    await until(stored)
    assert relay.leader is not None
    await relay.leader.reconciler.once()
    assert await messages() == 5  # they may be on their way to a worker
    monkeypatch.setattr(reconcile, "_STRAY_AFTER", timedelta(0))
    await relay.leader.reconciler.once()
    assert await messages() == 2  # evidence is kept, and so is what somebody needs
    await fleet.bus.api(f"STREAM.PURGE.{name}")
    await fleet.bus.store([(lane, encode(done[0].id, 1, 1), "stray-again")], 5.0)
    monkeypatch.setattr(reconcile, "_MARGIN", timedelta(0))
    assert await relay.leader.reconciler.once() == 1
    await fleet.worker()
    await fleet.reaches(lost, "succeeded")


async def test_a_deleted_consumer_is_made_again_within_seconds(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the workers it is only silence; the leader reads the lanes that they serve anyhow."""
    monkeypatch.setattr(guard, "_GUARD_SECONDS", 4 * PATIENCE)  # its own look finds nothing
    await fleet.relay()
    await fleet.worker()
    assert await fleet.enqueue(apps.note.call(1)).wait(PATIENCE) == 2
    subjects = Subjects(fleet.settings.namespace)
    name = subjects.consumer("default", "default")
    await fleet.bus.api(f"CONSUMER.DELETE.{subjects.stream_name('TASKS')}.{name}")
    assert await fleet.enqueue(apps.note.call(2)).wait(PATIENCE) == 4


async def test_messages_that_their_consumer_takes_for_acknowledged_are_delivered(fleet: Fleet) -> None:
    """As after damage to the stream's files: its numbers start anew, and the consumer remembers the old ones."""
    if parse_version(fleet.bus.server_version) < (2, 14, 0):
        pytest.skip("this nats-server cannot reset a consumer, and the damage itself cannot be made at will")
    await fleet.relay()
    worker = await fleet.worker()
    await fleet.stop(worker)
    tasks = fleet.enqueue_many([apps.note.call(n) for n in range(20)])
    stream = Subjects(fleet.settings.namespace).stream_name("TASKS")

    async def stored() -> bool:
        return bool((await fleet.bus.api(f"STREAM.INFO.{stream}"))["state"]["messages"] == len(tasks))

    await until(stored)
    consumer = Subjects.consumer("default", "default")
    answer = await fleet.bus.api(f"CONSUMER.RESET.{stream}.{consumer}", {"seq": 1000})
    assert (answer["ack_floor"]["stream_seq"], answer["num_pending"]) == (999, 0)
    await fleet.worker()
    await fleet.all_finish(len(tasks))


async def test_messages_that_nobody_gets_and_no_task_needs_are_removed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after damage to the stream's files, when all work is done."""
    if parse_version(fleet.bus.server_version) < (2, 14, 0):
        pytest.skip("this nats-server cannot reset a consumer, and the damage itself cannot be made at will")
    monkeypatch.setattr("dispatcher.relay.guard._GUARD_SECONDS", 0.5)
    monkeypatch.setattr("dispatcher.relay.leader._TRIM_SECONDS", 0.5)
    await fleet.relay()
    worker = await fleet.worker()
    tasks = fleet.enqueue_many([apps.note.call(n) for n in range(20)])
    await fleet.all_finish(len(tasks))
    await fleet.stop(worker)
    subjects = Subjects(fleet.settings.namespace)
    stream = subjects.stream_name("TASKS")
    lane = subjects.lane("TASKS", "default", "default")
    await fleet.bus.store([(lane, encode(task.id, 1, 1), f"old-{task.id}") for task in tasks], PATIENCE)
    await fleet.bus.api(f"CONSUMER.RESET.{stream}.{subjects.consumer('default', 'default')}", {"seq": 1000})
    await fleet.worker()

    async def is_empty() -> bool:
        return bool((await fleet.bus.api(f"STREAM.INFO.{stream}"))["state"]["messages"] == 0)

    await until(is_empty)
    assert fleet.count("tasks", "state = 6") == len(tasks)
