"""Relay, workers and producers as processes of their own, so that CPU can be attributed; they end with the bench."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from dispatcher.bench.errors import BenchError
from dispatcher.bench.ground import Ground
from dispatcher.bench.tasks import MARKS
from dispatcher.settings import Settings

__all__ = ["Child", "environment", "start"]

_ROOT = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1


def environment(settings: Settings, ground: Ground) -> dict[str, str]:
    """The variables of a child: the caller's without any setting of ours, and then exactly these."""
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    given = {
        "DISPATCHER_DATABASE_URL": settings.database_url or "",
        "DISPATCHER_NATS_URL": settings.nats_url or "",
        "DISPATCHER_DB_SCHEMA": settings.db_schema,
        "DISPATCHER_NAMESPACE": settings.namespace,
        "DISPATCHER_BACKSTOP": str(settings.backstop.total_seconds()),
        "DISPATCHER_LEASE": str(settings.lease.total_seconds()),
        "DISPATCHER_OUTBOX_LIMIT": str(settings.outbox_limit),
        "DISPATCHER_KEEP_SUCCEEDED": _duration(settings.keep_succeeded),
        MARKS: str(ground.folder),
    }
    if settings.streams_conf:
        given["DISPATCHER_STREAMS_CONF"] = str(settings.streams_conf)
    if settings.nats_creds:
        given["DISPATCHER_NATS_CREDS"] = str(settings.nats_creds)
    if _ROOT.name != "site-packages":  # run from a checkout
        given["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), foreign.get("PYTHONPATH"))))
    return foreign | given


def _duration(keep: timedelta | None) -> str:
    return "forever" if keep is None else f"{keep.total_seconds():.0f}s"


def _die_with_parent() -> None:
    """Linux: a bench that is killed with -9 leaves nobody behind."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """One process; what it says on stderr goes to a log file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name, self._process, self._log = name, process, log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise ``BenchError`` with its last words when it ended."""
        if self._process.returncode is not None:
            raise BenchError(f"the {self.name} ended with {self._process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def freeze(self) -> None:
        """Stop it where it is."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    async def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def hear(self, timeout: float) -> str:
        """The next line of its standard output.  Raises ``BenchError`` when it ends or stays silent."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise BenchError(f"the {self.name} said nothing for {timeout:g} s: {self.last_words()}") from None
        if not line:
            await self._process.wait()
            raise BenchError(f"the {self.name} ended: {self.last_words()}")
        return line.decode().strip()

    async def stop(self) -> None:
        """End it in order, by force if that takes too long."""
        for number in (signal.SIGCONT, signal.SIGTERM):
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def start(ground: Ground, name: str, variables: Mapping[str, str], *arguments: str) -> Child:
    """Start ``python -m <arguments>`` in the ground's folder; standard input and output are ours to talk through."""
    log = ground.folder / f"{name.replace(' ', '-')}.log"
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=out,
            env=dict(variables), cwd=ground.folder, limit=64 * 1024 * 1024,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )  # fmt: skip
    return Child(name, process, log)
