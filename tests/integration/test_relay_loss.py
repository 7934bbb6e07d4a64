"""Relays and servers that die, freeze or fill up: committed tasks still run, and nothing loops hot."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from dispatcher.bus import Bus
from dispatcher.embedded import EmbeddedServers
from dispatcher.relay.drain import Drain
from dispatcher.settings import Settings
from dispatcher.subjects import Subjects
from state.migrate import upgrade
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, assert_sound, until


async def test_another_relay_takes_over_from_one_that_was_killed(fleet: Fleet) -> None:
    process = await fleet.relay_process()
    standby = await fleet.relay(leads=False)
    await fleet.worker()
    assert await fleet.enqueue(apps.note.call(1)).wait(10) == 2
    process.kill()
    task = fleet.enqueue(apps.note.call(2))
    await fleet.signal(standby, standby.led, 5)
    assert await task.wait(5) == 4


async def test_another_relay_takes_over_from_one_that_froze(fleet: Fleet) -> None:
    process = await fleet.relay_process()
    standby = await fleet.relay(leads=False)
    await fleet.worker()
    assert await fleet.enqueue(apps.note.call(1)).wait(10) == 2
    process.send(signal.SIGSTOP)
    task = fleet.enqueue(apps.note.call(2))
    async with asyncio.timeout(6):
        assert await task.wait() == 4
        await standby.led.wait()
    process.send(signal.SIGCONT)  # it finds its sessions ended and stands by
    assert await fleet.enqueue(apps.note.call(3)).wait(5) == 6
    process.send(signal.SIGTERM)
    assert await process.ended() == 0, process.output


async def test_a_relay_stops_in_order_at_sigterm(fleet: Fleet) -> None:
    process = await fleet.relay_process()
    process.send(signal.SIGTERM)
    assert await process.ended() == 0
    assert "Traceback" not in process.output
    await until(lambda: fleet.leader_pid() is None)


async def test_when_the_stream_is_full_the_relay_waits_and_goes_on(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
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
    await asyncio.sleep(1.0)  # as long as we count
    assert tries <= 5
    name = Subjects(fleet.settings.namespace).stream_name("TASKS")
    await fleet.worker()
    await until(lambda: fleet.finished() >= 1, 15)
    info = await fleet.bus.api(f"STREAM.INFO.{name}")
    assert info["config"]["max_msgs"] == 20
    await fleet.all_finish(101, timeout=40)


async def test_a_deleted_stream_is_made_again_and_its_tasks_are_sent_again(fleet: Fleet) -> None:
    fleet.configure(backstop=timedelta(seconds=2))
    await fleet.relay()
    tasks = fleet.enqueue_many([apps.note.call(n) for n in range(30)])
    await until(lambda: fleet.count("outbox") == 0)
    await fleet.bus.api(f"STREAM.DELETE.{Subjects(fleet.settings.namespace).stream_name('TASKS')}")
    await fleet.worker()
    await fleet.all_finish(len(tasks), timeout=30)
    assert {row["dispatch"] for row in fleet.rows("SELECT dispatch FROM dispatcher.tasks")} == {2}


async def test_purged_messages_are_sent_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is the one we knew, but what was in it is gone."""
    from dispatcher.relay import leader

    monkeypatch.setattr(leader, "_TRIM_SECONDS", 0.2)
    fleet.configure(backstop=timedelta(seconds=1))
    await fleet.relay()
    fleet.enqueue_many([apps.note.call(n) for n in range(30)])
    await until(lambda: fleet.count("outbox") == 0)
    await fleet.bus.api(f"STREAM.PURGE.{Subjects(fleet.settings.namespace).stream_name('TASKS')}")
    await fleet.worker()
    await fleet.all_finish(30, timeout=20)


async def test_messages_that_only_wait_are_not_sent_twice(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    from dispatcher.relay import leader

    monkeypatch.setattr(leader, "_TRIM_SECONDS", 0.1)
    fleet.configure(backstop=timedelta(seconds=1))
    relay = await fleet.relay()
    fleet.enqueue_many([apps.note.call(n) for n in range(30)])
    await until(lambda: fleet.count("outbox") == 0)
    assert relay.leader is not None
    looked = relay.leader._last_look
    await until(lambda: relay.leader is not None and relay.leader._last_look > looked + 2, 10)
    assert {row["dispatch"] for row in fleet.rows("SELECT dispatch FROM dispatcher.tasks")} == {1}


async def test_a_drain_that_failed_leaves_its_rows(fleet: Fleet) -> None:
    bus = await fleet.new_bus()
    drain = Drain(fleet.settings, bus)
    fleet.enqueue_many([apps.note.call(n) for n in range(10)])
    from dispatcher.errors import BusError

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


@pytest.fixture
async def own_fleet(
    own_servers: EmbeddedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fleet]:
    """A fleet on servers of its own: they may be killed.  One connection per statement, for the database may be away."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "ledger").touch()
    monkeypatch.setenv(apps.LEDGER, str(home))
    await asyncio.to_thread(upgrade, own_servers.database_url)
    settings = Settings(
        database_url=own_servers.database_url, nats_url=own_servers.nats_url, namespace="own",
        lease=timedelta(seconds=3), grace=timedelta(seconds=3), backstop=timedelta(seconds=2),
    )  # fmt: skip
    bus = await Bus.connect(settings, name="test")
    made = Fleet(settings, bus, home, _connect(settings))
    apps.app.configure(settings)
    try:
        yield made
    finally:
        if made.connection.closed:
            made.connection = _connect(settings)
        await made.close()
        await bus.close()
    with _connect(settings) as connection:
        assert_sound(connection)
    made.connection.close()


def _connect(settings: Settings) -> psycopg.Connection[dict[str, Any]]:
    assert settings.database_url
    return psycopg.connect(settings.database_url, autocommit=True, row_factory=dict_row)


async def test_committed_task_survives_a_broker_outage(own_fleet: Fleet, own_servers: EmbeddedServers) -> None:
    relay = await own_fleet.relay()
    await own_fleet.worker()
    first = own_fleet.enqueue_many([apps.doze.call(0.01) for _ in range(50)])
    await until(lambda: own_fleet.finished() > 5)
    await asyncio.to_thread(own_servers.kill_nats)
    more = own_fleet.enqueue_many([apps.note.call(n) for n in range(50)])  # creating goes on
    await until(lambda: relay.leader is not None and relay.leader._is_blocked())
    before = relay.leader._last_look if relay.leader else 0
    await until(lambda: relay.leader is not None and relay.leader._last_look > before + 0.5)
    await asyncio.to_thread(own_servers.restart_nats)
    await own_fleet.all_finish(len(first) + len(more), timeout=30)


async def test_committed_task_survives_wiping_the_brokers_store(own_fleet: Fleet, own_servers: EmbeddedServers) -> None:
    await own_fleet.relay()
    await own_fleet.worker(slots=2)
    tasks = own_fleet.enqueue_many([apps.doze.call(0.02) for _ in range(150)])
    await until(lambda: own_fleet.finished() > 20)
    await asyncio.to_thread(own_servers.restart_nats, wipe=True)
    await own_fleet.all_finish(len(tasks), timeout=45)
    assert len(own_fleet.ledger("ran")) == len(tasks)


async def test_committed_task_survives_restoring_an_old_broker_store(
    own_fleet: Fleet, own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    """The old store holds messages of tasks that are done, and lacks those of tasks that are not."""
    import shutil

    relay = await own_fleet.relay()
    done = own_fleet.enqueue_many([apps.note.call(n) for n in range(40)])
    await until(lambda: own_fleet.count("outbox") == 0)
    store, copy = tmp_path / "servers" / "nats", tmp_path / "old"
    await asyncio.to_thread(own_servers._guarded().stop, "nats")
    shutil.copytree(store, copy)
    await asyncio.to_thread(own_servers.restart_nats)
    worker = await own_fleet.worker()
    await own_fleet.all_finish(len(done), timeout=30)
    await own_fleet.stop(worker)
    later = own_fleet.enqueue_many([apps.note.call(n) for n in range(100, 140)])
    await until(lambda: own_fleet.count("outbox") == 0, 15)
    await own_fleet.stop(relay)
    await asyncio.to_thread(own_servers._guarded().stop, "nats")
    shutil.rmtree(store)
    shutil.copytree(copy, store)
    await asyncio.to_thread(own_servers.restart_nats)
    await own_fleet.relay()
    await own_fleet.worker()
    await own_fleet.all_finish(len(done) + len(later), timeout=60)
    assert len(own_fleet.ledger("ran")) == len(done) + len(later)


async def test_committed_task_survives_a_crash_of_the_database(own_fleet: Fleet, own_servers: EmbeddedServers) -> None:
    await own_fleet.relay()
    await own_fleet.worker()
    tasks = own_fleet.enqueue_many([apps.doze.call(0.02) for _ in range(100)])
    await until(lambda: own_fleet.finished() > 10)
    own_fleet.connection.close()
    await asyncio.to_thread(own_servers.kill_postgres)
    await asyncio.to_thread(own_servers.restart_postgres)
    own_fleet.connection = _connect(own_fleet.settings)
    assert own_fleet.count("tasks") == len(tasks)
    await own_fleet.all_finish(len(tasks), timeout=40)
