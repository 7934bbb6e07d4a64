"""One child process as its worker sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from workers.frames import Frame, packed, read
from workers.outcome import ProcessDied

__all__ = ["Process"]

_START_SECONDS = 120.0
_END_SECONDS = 1.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
# by -c and not by -m, which would search the current folder for a package of this name first
_CODE = "import sys; sys.path[:] = sys.argv[2:]; from workers.child import main; main(int(sys.argv[1]))"


class Process:
    """Started with :meth:`start`; runs one task at a time; can be killed at any moment."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self.tasks = 0
        """How many it has run."""
        self.memory_at_kill: int | None = None
        """Bytes it had when it was killed for using too many."""

    @classmethod
    async def start(cls, setup: dict[str, Any]) -> Process:
        """A new child that is ready for its first task.  Raises ``ProcessDied``."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _CODE, str(theirs.fileno()), *sys.path,
                stdin=asyncio.subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        child = cls(process, reader, writer)
        try:
            child._write(setup)
            async with asyncio.timeout(_START_SECONDS):
                if await read(reader) is None:
                    raise ProcessDied(f"{await child._how_it_ended()} before it was ready; its log says why")
        except BaseException as error:
            child.kill()
            await child.ended()
            if isinstance(error, TimeoutError):
                raise ProcessDied(f"a child process was not ready within {_START_SECONDS:g} s") from None
            raise
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be given a task."""
        return self._process.returncode is None and not self._reader.at_eof()

    async def run(self, head: dict[str, Any], args: bytes, heard: Callable[[dict[str, Any]], None]) -> Frame:
        """Run one task; ``heard`` gets its log lines and progress.  Raises ``ProcessDied``."""
        self.tasks += 1
        self._write(head, args)
        while (frame := await read(self._reader)) is not None:
            if frame[0]["is"] == "done":
                return frame
            heard(frame[0])
        raise ProcessDied(await self._how_it_ended())

    def tell_to_stop(self, task_id: str, overdue: bool) -> None:
        """Ask the handler to end: a coroutine is cancelled, a plain function sees ``context().cancelled``."""
        self._write({"do": "stop", "task_id": task_id, "overdue": overdue})

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def memory(self) -> int | None:
        """Resident bytes; ``None`` where that cannot be told."""
        try:
            with open(f"/proc/{self.pid}/statm") as file:
                return int(file.read().split()[1]) * _PAGE
        except (OSError, IndexError, ValueError):
            return None

    async def close(self, patience: float) -> None:
        """Let it run its stop hooks and end, for so many seconds."""
        self._write({"do": "end"})
        try:
            async with asyncio.timeout(patience):
                await self._process.wait()
        except TimeoutError:
            self.kill()
        await self.ended()

    async def ended(self) -> int:
        """Wait for its end and free what is held for it; its exit code."""
        code = await self._process.wait()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
        return code

    async def _how_it_ended(self) -> str:
        try:
            # a kill now would take the exit code away from whoever waits for it: asyncio would say 255
            async with asyncio.timeout(_END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()  # it has only closed its end of the channel
        code = await self.ended()
        if self.memory_at_kill is not None:
            return f"the child process used {self.memory_at_kill >> 20} MB of memory, more than it may"
        if code >= 0:
            return f"the child process ended with exit code {code}"
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        return f"the child process was ended by {name}"

    def _write(self, head: dict[str, Any], body: bytes = b"") -> None:
        if not self._writer.is_closing():
            self._writer.write(packed(head, body))
