"""The connection to NATS, where it breaks."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any, cast

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


async def test_no_batch_begins_before_a_connection_is_wholly_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py calls itself connected one round trip earlier, and then tells that it is: the batch was given up."""
    bus = await Bus.connect(settings, name="test comes back")
    name = f"back{os.getpid()}"
    try:
        await bus.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"]})
        client = bus._client
        flush, reached, go_on = client.flush, asyncio.Event(), asyncio.Event()

        async def slow(timeout: int = 10) -> None:
            reached.set()
            await go_on.wait()
            await flush(timeout)

        with monkeypatch.context() as patched:
            patched.setattr(client, "flush", slow)
            await client._process_op_err(ConnectionResetError("Connection lost"))
            await asyncio.wait_for(reached.wait(), PATIENCE)
            assert client.is_connected and not bus.connected
            with pytest.raises(BusUnavailable, match="NATS is away"):
                await bus.store([(f"{name}.1", b"", "id")], timeout=PATIENCE)
            go_on.set()
            await until(lambda: bus.connected)
        await bus.store([(f"{name}.1", b"", "id")], timeout=PATIENCE)
        await bus.api(f"STREAM.DELETE.{name}")
    finally:
        await bus.close()


async def test_a_connection_that_breaks_in_the_middle_of_a_call_ends_nobody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the end of a connection and the next one nats-py raises what the socket said, from any method."""
    bus = await Bus.connect(settings, name="test breaks")
    try:

        async def broken(*_: Any, **__: Any) -> None:
            raise ConnectionResetError("Connection lost")

        with monkeypatch.context() as patched:
            patched.setattr(bus._client, "publish", broken)
            await bus.publish("test.breaks")
            await bus.ack(["$JS.ACK.none"])
            await bus.nak(["$JS.ACK.none"], 0.1)
            with pytest.raises(BusUnavailable, match="Connection lost"):
                await bus.request_many("test.breaks", wait=0.01)
            with pytest.raises(BusUnavailable, match="Connection lost"):
                await bus.store([("test.breaks", b"x", "id")], 1.0)
        heard: list[bytes] = []

        async def hear(message: Any) -> None:
            heard.append(bytes(message.data))

        with monkeypatch.context() as patched:
            patched.setattr(bus._client, "_send_subscribe", broken)
            subscription = await bus.subscribe("test.breaks", hear)
        await bus._client._process_op_err(ConnectionResetError("Connection lost"))
        await until(lambda: bus.reconnects == 1)

        async def arrived() -> bool:
            await bus.publish("test.breaks", b"again")
            return bool(heard)

        await until(arrived)
        await subscription.unsubscribe()
    finally:
        await bus.close()


@pytest.mark.parametrize("module", ["asyncio", "uvloop"])
def test_what_is_sent_on_a_connection_that_is_closed_ends_nobody(settings: Settings, module: str) -> None:
    """Trap of uvloop: it raises ``RuntimeError`` where asyncio drops what is written; workers ended on it."""
    factory = pytest.importorskip(module).new_event_loop

    async def scene() -> None:
        bus = await Bus.connect(settings, name="test closed")
        try:
            client = cast(Any, bus._client)
            client._reading_task.cancel()  # nobody has noticed yet
            client._flusher_task.cancel()  # as after the first write that failed: the next ones send by themselves
            transport = client._transport._io_writer.transport
            transport.abort()
            await until(lambda: client._transport._io_writer._protocol._connection_lost)
            assert await bus.publish("test.closed", b"x") is False
            await bus.ack(["$JS.ACK.none"])
            with pytest.raises(BusUnavailable):
                await bus.store([("test.closed", b"x", "id")], 1.0)
            client._transport.write(b"PING\r\n")  # as its pings do, and as its reconnect says hello
            await client._process_op_err(ConnectionResetError("Connection lost"))
            await until(lambda: bus.reconnects == 1)
            assert await bus.publish("test.closed", b"x")
        finally:
            await bus.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scene())


@pytest.mark.parametrize("module", ["asyncio", "uvloop"])
def test_a_client_whose_server_is_away_closes(own_servers: EmbeddedServers, module: str) -> None:
    """What it could not send any more is of no interest then."""
    factory = pytest.importorskip(module).new_event_loop

    async def scene() -> None:
        bus = await Bus.connect(Settings(nats_url=own_servers.nats_url), name="test away")
        await asyncio.to_thread(own_servers.kill_nats)
        await until(lambda: not bus.connected)
        assert await bus.publish("test.away", b"x")
        await bus.close()
        assert bus.closed.is_set()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scene())
