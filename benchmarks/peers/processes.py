"""The processes of one system: its producer, which we ask over a pipe, and its workers, which we may freeze."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from select import select
from typing import Any

from dispatcher.bench.errors import BenchError

__all__ = ["Producer", "Workers"]

_STOP_SECONDS = 10.0
_ASK_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


class Producer:
    """``benchmarks.peers.actor`` in the environment of the system."""

    def __init__(self, python: Path, system: str, variables: Mapping[str, str], folder: Path) -> None:
        self._log = folder / "producer.log"
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.peers.actor", system],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True,
                env=dict(variables), cwd=folder, preexec_fn=_die_with_parent,
            )  # fmt: skip

    def ask(self, do: str, deadline: float | None = None, **request: Any) -> dict[str, Any]:
        """Its answer, by ``deadline`` in monotonic seconds (within a minute).

        Raises ``BenchError``: with its last words when it ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        left = _ASK_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
        if not select([self._process.stdout], [], [], left)[0]:  # one line per request: nothing is in a buffer
            raise BenchError(f"its time was over: the producer was still at '{do}'")
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the producer ended at '{do}': {_last_words(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class Workers:
    """All processes that work; each leads a process group, so that children are stopped with it."""

    def __init__(self, python: Path, variables: Mapping[str, str], folder: Path) -> None:
        self._python, self._variables, self._folder = python, variables, folder
        self._running: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []

    @property
    def pids(self) -> list[int]:
        """Of the leaders."""
        return [process.pid for process in self._running]

    def grow(self, commands: Sequence[Sequence[str]]) -> None:
        """Start what these commands have beyond the processes that run already."""
        for number in range(len(self._running), len(commands)):
            log = self._folder / f"worker-{number}.log"
            with log.open("ab") as out:
                process = subprocess.Popen(
                    [self._python, *commands[number]],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                    env=dict(self._variables), cwd=self._folder, preexec_fn=_die_with_parent,
                )  # fmt: skip
            self._running.append(process)
            self._logs.append(log)

    def check(self) -> None:
        """Raise ``BenchError`` when one of them ended."""
        for process, log in zip(self._running, self._logs, strict=True):
            if process.poll() is not None:
                raise BenchError(f"{' '.join(map(str, process.args))} ended: {_last_words(log)}")  # type: ignore[union-attr]

    def freeze(self) -> None:
        """Stop all of them where they are."""
        self._signal(signal.SIGSTOP, self._running)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT, self._running)

    def shrink(self, processes: int) -> None:
        """End all but the first ones, in order; by force what remains after a while."""
        ending = self._running[processes:]
        for number in (signal.SIGCONT, signal.SIGTERM):
            self._signal(number, ending)
        for process in ending:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
        self._signal(signal.SIGKILL, ending)
        for process in ending:
            process.wait()
        del self._running[processes:], self._logs[processes:]

    def stop(self) -> None:
        """End all of them."""
        self.shrink(0)

    @staticmethod
    def _signal(number: signal.Signals, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
