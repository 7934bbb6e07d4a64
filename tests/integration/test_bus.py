"""The connection to NATS, where it breaks."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from dispatcher.bus import Bus
from dispatcher.embedded import EmbeddedServers
from dispatcher.errors import BusUnavailable
from dispatcher.settings import Settings
from tests.fixtures.fleet import until
from tests.fixtures.patience import PATIENCE

pytestmark = pytest.mark.filterwarnings(  # nats-py drops the stream of a failed reconnect without closing it
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


async def test_a_batch_whose_connection_breaks_is_given_up_at_once(own_servers: EmbeddedServers) -> None:
    """Its confirmations went to the old connection, if anywhere: nobody waits for them until the time is over."""
    bus = await Bus.connect(Settings(nats_url=own_servers.nats_url), name="test")
    try:
        await bus.api("STREAM.CREATE.x", {"name": "x", "subjects": ["x.>"]})
        os.kill(own_servers.nats_pid, signal.SIGSTOP)
        storing = asyncio.create_task(bus.store([("x.1", b"", "id")], timeout=100))
        await until(lambda: bus._publisher._open is not None)
        await asyncio.to_thread(own_servers.kill_nats)
        await asyncio.to_thread(own_servers.restart_nats)
        with pytest.raises(BusUnavailable, match="broke before everything was confirmed"):
            await asyncio.wait_for(storing, PATIENCE)
        await until(lambda: bus.connected)
        await bus.store([("x.1", b"", "id")], timeout=PATIENCE)
        assert (await bus.api("STREAM.INFO.x"))["state"]["messages"] == 1
    finally:
        await bus.close()
