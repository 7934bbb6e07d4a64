"""The promises that need servers of their own: the broker's store, outages, a crash of the database."""

from __future__ import annotations

import asyncio
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from dispatcher.embedded import EmbeddedServers
from dispatcher.embedded.revival import Revival
from dispatcher.handle import Task
from tests.fixtures import apps
from tests.fixtures.fleet import Fleet, connect, until
from tests.fixtures.patience import PATIENCE

pytestmark = pytest.mark.filterwarnings(  # nats-py drops the stream of a failed reconnect without closing it
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


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
    await own_fleet.all_finish(len(first) + len(more))
    assert {entry.task_id for entry in own_fleet.ledger("ran")} == {task.id for task in (*first, *more)}


async def test_committed_task_survives_wiping_the_brokers_store(own_fleet: Fleet, own_servers: EmbeddedServers) -> None:
    await own_fleet.relay()
    await own_fleet.worker(slots=2)
    tasks = own_fleet.enqueue_many([apps.doze.call(0.02) for _ in range(150)])
    await until(lambda: own_fleet.finished() > 20)
    await asyncio.to_thread(own_servers.restart_nats, wipe=True)
    await own_fleet.all_finish(len(tasks), timeout=2 * PATIENCE)
    assert len(own_fleet.ledger("ran")) == len(tasks)


async def test_committed_task_survives_restoring_an_old_broker_store(
    own_fleet: Fleet, own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    """The old store holds messages of tasks that are done, and lacks those of tasks that are not."""
    relay = await own_fleet.relay()
    done = own_fleet.enqueue_many([apps.note.call(n) for n in range(40)])
    await until(lambda: own_fleet.count("outbox") == 0)
    store, copy = tmp_path / "servers" / "nats", tmp_path / "old"
    await asyncio.to_thread(own_servers._guarded().stop, "nats")
    shutil.copytree(store, copy)
    await asyncio.to_thread(own_servers.restart_nats)
    worker = await own_fleet.worker()
    await own_fleet.all_finish(len(done))
    await own_fleet.stop(worker)
    later = own_fleet.enqueue_many([apps.note.call(n) for n in range(100, 140)])
    await until(lambda: own_fleet.count("outbox") == 0)
    await own_fleet.stop(relay)
    await asyncio.to_thread(own_servers._guarded().stop, "nats")
    shutil.rmtree(store)
    shutil.copytree(copy, store)
    await asyncio.to_thread(own_servers.restart_nats)
    await own_fleet.relay()
    await own_fleet.worker()
    await own_fleet.all_finish(len(done) + len(later), timeout=2 * PATIENCE)
    assert len(own_fleet.ledger("ran")) == len(done) + len(later)


async def test_committed_task_survives_a_crash_of_the_database(own_fleet: Fleet, own_servers: EmbeddedServers) -> None:
    await own_fleet.relay()
    await own_fleet.worker()
    tasks = own_fleet.enqueue_many([apps.doze.call(0.02) for _ in range(100)])
    await until(lambda: own_fleet.finished() > 10)
    own_fleet.connection.close()
    await asyncio.to_thread(own_servers.kill_postgres)
    await asyncio.to_thread(own_servers.restart_postgres)
    own_fleet.connection = connect(own_fleet.settings)
    assert own_fleet.count("tasks") == len(tasks)
    await own_fleet.all_finish(len(tasks), timeout=2 * PATIENCE)


async def broker_dies_at_work(fleet: Fleet, servers: EmbeddedServers, tasks: int) -> list[Task[Any]]:
    """So many tasks, some of them done, when nats-server is killed."""
    await fleet.relay()
    await fleet.worker()
    made = fleet.enqueue_many([apps.doze.call(0.02) for _ in range(tasks)])
    await until(lambda: fleet.finished() > 10)
    await asyncio.to_thread(servers.kill_nats)
    return made


def forget_stream(store: Path) -> None:
    """A flipped bit in the checksum of its settings: the server does not know it any more, and its files are there."""
    [checksum] = [path for path in store.rglob("meta.sum") if path.parent.parent.name == "streams"]
    checksum.write_bytes(bytes([checksum.read_bytes()[0] ^ 1]) + checksum.read_bytes()[1:])


async def test_committed_task_survives_a_stream_made_over_damaged_files(
    own_fleet: Fleet, own_servers: EmbeddedServers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server does not know the stream any more, and takes its files for those of the one that is made instead."""
    await own_fleet.relay()
    await own_fleet.worker()
    done = own_fleet.enqueue_many([apps.note.call(n) for n in range(60)])
    await own_fleet.all_finish(len(done))
    tasks = own_fleet.enqueue_many([apps.doze.call(0.02) for _ in range(60)])
    await until(lambda: own_fleet.finished() > len(done) + 10)
    await asyncio.to_thread(own_servers.kill_nats)
    store = tmp_path / "servers" / "nats"
    forget_stream(store)
    for block in store.rglob("*.blk"):
        block.write_bytes(block.read_bytes()[: block.stat().st_size // 3])
    await asyncio.to_thread(own_servers.restart_nats)
    more = own_fleet.enqueue_many([apps.note.call(n) for n in range(20)])
    await own_fleet.all_finish(len(done) + len(tasks) + len(more), timeout=2 * PATIENCE)
    assert "over the files of a damaged one" in caplog.text


async def test_committed_task_survives_a_server_that_panics_over_its_store(
    own_fleet: Fleet, own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    """nats-server 2.15.1 does not find the stream, and panics whenever it is made again, as soon as it is back."""
    tasks = await broker_dies_at_work(own_fleet, own_servers, 100)
    store = tmp_path / "servers" / "nats"
    forget_stream(store)
    for block in store.rglob("*.blk"):
        block.write_bytes(with_wrong_lengths(block.read_bytes()))
    await asyncio.to_thread(own_servers.restart_nats)
    revival, said = Revival(own_servers), list[str]()

    def tended() -> bool:
        said.extend(revival.look())
        return own_fleet.finished() >= len(tasks)

    await until(lambda: asyncio.to_thread(tended), 2 * PATIENCE)
    await own_fleet.all_finish(len(tasks))
    if own_servers.nats_version == "2.15.1":
        assert said[0].startswith("nats-server was gone")
        assert "an empty one" in said[1]


async def test_committed_task_survives_a_stream_that_the_server_has_stopped(
    own_fleet: Fleet, own_servers: EmbeddedServers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Settings of a consumer have a field that nobody knows: the server starts, and takes the stream out of service."""
    tasks = await broker_dies_at_work(own_fleet, own_servers, 60)
    files = (tmp_path / "servers" / "nats").rglob("meta.inf")
    settings = next(path for path in files if path.parent.parent.name == "obs")
    settings.write_bytes(settings.read_bytes().replace(b'"metadata"', b'"metad`ta"'))
    await asyncio.to_thread(own_servers.restart_nats)
    more = own_fleet.enqueue_many([apps.note.call(n) for n in range(20)])
    await own_fleet.all_finish(len(tasks) + len(more), timeout=2 * PATIENCE)
    if own_servers.nats_version == "2.15.1":
        assert "the server has stopped" in caplog.text


def with_wrong_lengths(block: bytes) -> bytes:
    """A block of nats-server's store whose messages say that their headers are longer than themselves.

    A record is its length (the highest bit: has headers), sequence and time, the subject's length and the subject;
    then comes the length of the headers.
    """
    data, at = bytearray(block), 0
    while at + 22 <= len(data):
        length, subject = struct.unpack_from("<I16xH", data, at)
        if length >> 31:
            data[at + 22 + subject] ^= 128
        at += max(22, length & 0x7FFFFFFF)
    return bytes(data)


async def test_committed_task_survives_damaged_files_of_the_broker(
    own_fleet: Fleet, own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    """The server cannot read its consumers' files any more, and can make none in their place."""
    tasks = await broker_dies_at_work(own_fleet, own_servers, 60)
    states = list((tmp_path / "servers" / "nats").rglob("o.dat"))
    assert states
    for state in states:
        state.write_bytes(bytes([state.read_bytes()[0] ^ 128]) + state.read_bytes()[1:])
    await asyncio.to_thread(own_servers.restart_nats)
    more = own_fleet.enqueue_many([apps.note.call(n) for n in range(20)])
    await own_fleet.all_finish(len(tasks) + len(more), timeout=2 * PATIENCE)
