"""Keeps a whole system up: servers, relay and worker; restarts what ends, says so, and takes it apart in order."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from dispatcher.dev.child import command_line, environment, how_it_ended, popen_options
from dispatcher.dev.prepare import wait_for_workers
from dispatcher.embedded import EmbeddedServers
from dispatcher.embedded.revival import Revival
from dispatcher.errors import WaitError
from dispatcher.settings import Settings

__all__ = ["Kept", "System"]

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 10.0
_HEALTHY_SECONDS = 10.0
_READY_SECONDS = 30.0
_SERVER_LOOK_SECONDS = 1.0


class Kept:
    """One child process that is started again, after a growing pause, whenever it ends by itself."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str], say: Callable[[str], None]) -> None:
        self.name = name
        self._argv, self._env, self._say = argv, env, say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Until :meth:`stop`; returns when the process is gone."""
        wait = _FIRST_WAIT / 2
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                self._process = await asyncio.create_subprocess_exec(
                    *self._argv, env=self._env, stdin=subprocess.DEVNULL, **popen_options()
                )
                code = await self._process.wait()
                if self._stopping.is_set():
                    return
                healthy = time.monotonic() - began > _HEALTHY_SECONDS
                wait = _FIRST_WAIT if healthy else min(_LONGEST_WAIT, 2 * wait)
                self._say(f"{self.name} ended with {how_it_ended(code)}; starting it again in {wait:g} s")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Ask it to finish its work, and wait until it has."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        await self._ended.wait()

    def kill(self) -> None:
        """End it at once."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


class System:
    """``run`` keeps everything up until the first Ctrl-C or SIGTERM, then drains; the second stops hard."""

    def __init__(
        self,
        settings: Settings,
        servers: EmbeddedServers | None,
        worker: list[str],
        say: Callable[[str], None],
        ready: Callable[[], None],
    ) -> None:
        env = environment(settings)
        self._settings, self._servers, self._say, self._ready = settings, servers, say, ready
        self._relay = Kept("relay", command_line("relay"), env, say)
        self._worker = Kept("worker", command_line("worker", *worker), env, say)
        self._stop = asyncio.Event()
        self._signals = 0

    async def run(self) -> None:
        """Returns when everything but the servers is gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        async with asyncio.TaskGroup() as group:
            for kept in (self._relay, self._worker):
                group.create_task(kept.run())
            others = [group.create_task(self._announce())]
            if self._servers is not None:
                others.append(group.create_task(self._watch(self._servers)))
            await self._stop.wait()
            for task in others:
                task.cancel()
            await self._worker.stop()
            await self._relay.stop()

    def _signalled(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._say("finishing what runs; press Ctrl-C again to stop at once")
            self._stop.set()
        else:
            self._say("stopping at once")
            self._worker.kill()
            self._relay.kill()

    async def _announce(self) -> None:
        try:
            await wait_for_workers(self._settings, 1, _READY_SECONDS)
        except WaitError:
            self._say(f"the worker is not ready after {_READY_SECONDS:g} s; its own lines say why")
            return
        self._ready()

    async def _watch(self, servers: EmbeddedServers) -> None:
        """Start a server again that died; its clients wait for it meanwhile."""
        revival = Revival(servers)
        while True:
            await asyncio.sleep(_SERVER_LOOK_SECONDS)
            for done in await asyncio.to_thread(revival.look):
                self._say(done)
