"""``dispatcher worker --reload``: a parent that runs the worker as a child and starts it again when the code changes.

For development only: it looks at the modification times of the Python files below the current folder twice a second.
The old worker drains before the new one starts, so that a task never meets half of each.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dispatcher.cli.output import note
from dispatcher.dev.child import command_line, popen_options

__all__ = ["Reloader", "changed_files", "modification_times", "worker_command"]

_LOOK_SECONDS = 0.5
_SKIPPED = {"__pycache__", "node_modules", "site-packages", "build", "dist", "venv"}


def worker_command() -> list[str]:
    """This very command without ``--reload``."""
    return command_line(*(argument for argument in sys.argv[1:] if argument != "--reload"))


def modification_times(folder: Path) -> dict[Path, int]:
    """Every Python file below ``folder``; hidden folders and installed packages are left out."""
    found: dict[Path, int] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".")]
        for name in files:
            if name.endswith(".py"):
                path = Path(place, name)
                with suppress(OSError):  # deleted meanwhile
                    found[path] = path.stat().st_mtime_ns
    return found


def changed_files(before: dict[Path, int], after: dict[Path, int]) -> list[Path]:
    """Files that are new, gone or changed."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


class Reloader:
    """``await run()`` until the first SIGTERM or SIGINT; the second one ends the worker at once."""

    def __init__(self, command: Sequence[str], folder: Path | None = None) -> None:
        self._command, self._folder = list(command), folder or Path.cwd()
        self._stop = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> int:
        """The exit code of the last worker."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        seen = modification_times(self._folder)
        note(f"watching {self._folder} ({len(seen)} files)")
        while True:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=subprocess.DEVNULL, **popen_options()
            )
            seen, changed = await self._watch(seen)
            code = await self._ended()
            if self._stop.is_set():
                return code
            note(f"{_names(changed, self._folder)} changed; starting the worker again")

    async def _watch(self, seen: dict[Path, int]) -> tuple[dict[Path, int], list[Path]]:
        """Until something changed or a signal came.  A worker that ended by itself waits for the next change."""
        assert self._process is not None
        ended = asyncio.ensure_future(self._process.wait())
        told = False
        while not self._stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._stop.wait()
            now = modification_times(self._folder)
            changed = changed_files(seen, now)
            if changed:
                return now, changed
            if ended.done() and not told:
                told = True
                note(f"the worker ended with code {ended.result()}; waiting for a change")
        return seen, []

    async def _ended(self) -> int:
        """Let the worker drain, and wait for it."""
        assert self._process is not None
        self._send(signal.SIGTERM)
        return await self._process.wait()

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._send(signal.SIGTERM)  # the worker's second signal: it leaves at once
        self._stop.set()

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def _names(changed: list[Path], folder: Path) -> str:
    names = [str(path.relative_to(folder)) for path in changed]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
