"""Our end of the guard: starts it and talks to it, one request and one answer at a time."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dispatcher.embedded.errors import EmbeddedError

__all__ = ["GuardClient", "Launch"]

_SCRIPT = Path(__file__).with_name("guard.py")
_ANSWER_SECONDS = 90.0
"""Longer than the longest stop plan."""


@dataclass(frozen=True)
class Launch:
    """How to start one server and how to stop it: signals in rising force, each with its patience in seconds."""

    name: str
    argv: list[str]
    cwd: Path
    log: Path
    stop: tuple[tuple[signal.Signals, float], ...]
    ids: tuple[int, int] | None = None


class GuardClient:
    """A guard process of our own.  It lives in its own session, so that Ctrl-C reaches us and not the servers.

    ``lock_fd`` is handed down: the data folder stays locked as long as the guard lives, even when we are killed.
    """

    def __init__(self, log: Path, lock_fd: int) -> None:
        self._lock = threading.Lock()
        self._inbox = b""
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SCRIPT), str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, cwd="/",
                start_new_session=True, pass_fds=(lock_fd,), umask=0o077,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The guard's process id."""
        return self._process.pid

    def start(self, launch: Launch) -> int:
        """Start a server and return its process id; raises EmbeddedError when it cannot be executed."""
        answer = self._ask(
            {
                "do": "start", "name": launch.name, "argv": launch.argv, "env": plain_environment(),
                "cwd": str(launch.cwd), "log": str(launch.log), "ids": launch.ids,
                "stop": [[int(number), patience] for number, patience in launch.stop],
                "death_signal": int(launch.stop[0][0]),
            }
        )  # fmt: skip
        return int(answer["pid"])

    def exit_code(self, name: str) -> int | None:
        """None while the server runs, otherwise how it ended (negative: by that signal)."""
        code = self._ask({"do": "poll", "name": name})["code"]
        return None if code is None else int(code)

    def stop(self, name: str) -> None:
        """Stop a server in order, with growing force; returns when it is gone."""
        self._ask({"do": "stop", "name": name})

    def kill(self, name: str) -> None:
        """End a server with SIGKILL, as a crash would; returns when it is gone."""
        self._ask({"do": "kill", "name": name})

    def remove_at_end(self, paths: list[Path]) -> None:
        """Delete these folders after the servers ended, also when we are killed."""
        self._ask({"do": "remove", "paths": [str(path) for path in paths]})

    def close(self) -> None:
        """Stop every server and the guard; returns when all are gone."""
        try:
            self._ask({"do": "end"})
        except EmbeddedError:
            pass  # a guard that died took its servers with it by their death signal
        self._close_pipes()
        self._process.wait(30)

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            stdin = self._process.stdin
            assert stdin is not None
            try:
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
            except (BrokenPipeError, ValueError) as error:
                raise EmbeddedError("the guard of the embedded servers is gone; start them again") from error
            answer: dict[str, Any] = json.loads(self._line())
        if "error" in answer:
            raise EmbeddedError(f"cannot {request['do']} {request.get('name', 'servers')}: {answer['error']}")
        return answer

    def _line(self) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + _ANSWER_SECONDS
        while b"\n" not in self._inbox:
            ready = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = os.read(stdout.fileno(), 65536) if ready else b""
            if not data:
                raise EmbeddedError("the guard of the embedded servers does not answer; see guard.log in their folder")
            self._inbox += data
        line, self._inbox = self._inbox.split(b"\n", 1)
        return line


def plain_environment() -> dict[str, str]:
    """What the servers see of our environment: no secrets, no PG* variables, no locale."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": "/", "TZ": "UTC"}
