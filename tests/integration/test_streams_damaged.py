"""Settings of consumers that the server's damaged files have changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dispatcher.embedded import EmbeddedServers
from dispatcher.streams.config import StreamConfig
from dispatcher.streams.ensure import ensure_consumer, ensure_stream
from dispatcher.streams.server import read_consumer
from dispatcher.subjects import Subjects
from tests.fixtures.fleet import Fleet, until


async def test_a_flipped_bit_in_a_consumers_metadata_is_set_right(
    own_fleet: Fleet, own_servers: EmbeddedServers, tmp_path: Path
) -> None:
    """nats-server 2.15.1 takes the update and answers with the old metadata, once after each restart."""
    bus, subjects = own_fleet.bus, Subjects(own_fleet.settings.namespace)
    stream, name = subjects.stream_name("TASKS"), subjects.consumer("mail", "low")
    await ensure_stream(bus, subjects, "TASKS", StreamConfig())
    await ensure_consumer(bus, subjects, "TASKS", "mail", "low", 10)
    before = await read_consumer(bus, stream, name)
    assert before is not None
    mark = before["config"]["metadata"]["config"]
    await asyncio.to_thread(own_servers.kill_nats)
    [settings] = [
        path for path in (tmp_path / "servers" / "nats").rglob("meta.inf") if path.parent.parent.name == "obs"
    ]
    wrong = chr(ord(mark[0]) ^ 8) + mark[1:]
    settings.write_text(settings.read_text().replace(mark, wrong))
    await asyncio.to_thread(own_servers.restart_nats)
    await until(lambda: bus.connected)
    damaged = await read_consumer(bus, stream, name)
    assert damaged is not None and damaged["config"]["metadata"]["config"] == wrong
    await ensure_consumer(bus, subjects, "TASKS", "mail", "low", 10)
    after = await read_consumer(bus, stream, name)
    assert after is not None and after["config"] == before["config"]
