"""A TCP proxy of our own in front of PostgreSQL and NATS: what a network can do to a connection, on purpose.

cut        every connection is closed and new ones are refused, for a while
half-open  bytes vanish in both directions while the connections seem to stand; they are reset at the end
slow       every piece of data waits
reset      every connection ends with RST, new ones are welcome
swallow    the next answer of the server to a connection with the wanted application name is lost with its connection

It runs in a thread with an event loop of its own; the methods are called from any other thread.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from dispatcher.embedded.ports import HOST

__all__ = ["LoopThread", "Proxy"]

R = TypeVar("R")
_CHUNK = 65536


class LoopThread:
    """An event loop in a thread, for whoever is not asynchronous."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="drill-loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R], timeout: float = 30.0) -> R:
        """Run a coroutine there and return what it returns.  Raises ``TimeoutError`` when it takes too long."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def close(self) -> None:
        """End what runs there, and the loop."""

        async def end() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=2) if others else None

        with suppress(TimeoutError):
            self.run(end(), 5.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.name: str | None = None
        """PostgreSQL's application_name, once the client has told it."""
        self.hole = False
        """Bytes vanish."""
        self.swallow = False
        """The next answer is lost."""

    def read_name(self, data: bytes) -> None:
        """Find the application name in a start-up message; a request for encryption comes before it."""
        if len(data) < 8 or data[4:8] in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):
            return
        parts = data[8:].split(b"\0")
        names = dict(zip(parts[::2], parts[1::2], strict=False))
        self.name = names.get(b"application_name", b"").decode(errors="replace")

    def abort(self) -> None:
        """End both sides at once, with RST where bytes are pending."""
        for side in (self.client, self.server):
            side.transport.abort()


class Proxy:
    """Listens on a port of its own and passes everything on to ``target``."""

    def __init__(self, thread: LoopThread, target: int, host: str = HOST) -> None:
        self._thread, self._target, self._host = thread, target, host
        self._links: set[_Link] = set()
        self._refusing = False
        self._delay = 0.0
        self._swallow: list[tuple[str, bytes]] = []
        self.swallowed: list[str] = []
        """Application names whose answer was lost, in order."""
        self._server = thread.run(self._listen())
        self.port = int(self._server.sockets[0].getsockname()[1])
        """Where clients connect."""

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, HOST, 0)

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            if self._refusing:
                raise ConnectionRefusedError
            back, server = await asyncio.open_connection(self._host, self._target)
        except OSError:
            client.transport.abort()
            return
        link = _Link(client, server)
        self._links.add(link)
        ways = [
            asyncio.ensure_future(self._pass(link, reader, server, outward=True)),
            asyncio.ensure_future(self._pass(link, back, client, outward=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            for way in ways:
                way.cancel()
            for side in (client, server):
                with suppress(OSError, RuntimeError):
                    side.close()

    async def _pass(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, outward: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if link.name is None and outward:
                    link.read_name(data)
                if self._delay:
                    await asyncio.sleep(random.uniform(0.5, 1.5) * self._delay)
                if link.hole:
                    continue
                if outward and self._swallow and link.name is not None:
                    self._arm(link, data)
                elif not outward and link.swallow:
                    self.swallowed.append(link.name or "")
                    link.abort()
                    return
                writer.write(data)
                await writer.drain()

    def _arm(self, link: _Link, data: bytes) -> None:
        """The request goes out, its answer will not come back."""
        for wanted in self._swallow:
            if link.name is not None and link.name.startswith(wanted[0]) and wanted[1] in data:
                self._swallow.remove(wanted)
                link.swallow = True
                return

    # faults ---------------------------------------------------------------------------------------------------------

    @property
    def ports(self) -> list[int]:
        """The ports from which we are connected to the server now: how it knows these connections."""
        return [int(link.server.get_extra_info("sockname")[1]) for link in list(self._links)]

    def reset(self) -> int:
        """End every connection; returns how many."""

        async def work() -> int:
            links = list(self._links)
            for link in links:
                link.abort()
            return len(links)

        return self._thread.run(work())

    def cut(self) -> int:
        """End every connection and refuse new ones until :meth:`heal`; returns how many ended."""
        self._refusing = True
        return self.reset()

    def half_open(self) -> int:
        """Let every connection of now lose its bytes until :meth:`heal` resets it; returns how many."""

        async def work() -> int:
            for link in self._links:
                link.hole = True
            return len(self._links)

        return self._thread.run(work())

    def slow(self, seconds: float) -> int:
        """Let every piece of data wait about so long, until :meth:`heal`; returns how many connections are open."""
        self._delay = seconds
        return len(self._links)

    def swallow(self, name: str, request: bytes = b"") -> None:
        """Lose the next answer to a connection whose application name begins so, to a request that contains this."""
        self._swallow.append((name, request))

    def heal(self) -> None:
        """Be an honest network again; connections that lost bytes end."""
        self._refusing, self._delay = False, 0.0
        self._swallow.clear()

        async def work() -> None:
            for link in list(self._links):
                if link.hole:
                    link.abort()

        self._thread.run(work())

    def close(self) -> None:
        """Stop listening and end every connection."""

        async def work() -> None:
            self._server.close()
            for link in list(self._links):
                link.abort()

        with suppress(TimeoutError):
            self._thread.run(work(), 5.0)
