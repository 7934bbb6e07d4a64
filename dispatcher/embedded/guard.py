"""The process between us and the servers: it starts them, reaps them, and stops them when we are gone.

Run as a script by path, with nothing but the standard library, so that it is up in 30 ms and needs no package path.
It reads JSON lines on standard input and answers each with one on standard output.  Three independent triggers end the
servers when the process that asked for them dies, even by SIGKILL and even under an init that reaps nothing: end of
file on standard input, the parent's pidfd (a zombie counts as dead there), and, should the guard itself be killed,
the kernel's parent-death signal in each server.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
EXIT_LOST_PARENT = 111


def _libc_prctl() -> Callable[[int, int], int] | None:
    """``prctl`` where there is one; loaded before any fork, because a child may not load libraries."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def call(option: int, value: int) -> int:
        return int(prctl(option, value, 0, 0, 0))

    return call


def delete(path: str) -> None:
    """Remove a file or a whole folder, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


class Child:
    """One server process and how to stop it: signals in rising order of force, each with its patience in seconds."""

    def __init__(self, process: subprocess.Popen[bytes], stop: list[tuple[int, float]]) -> None:
        self.process = process
        self.stop = stop
        self.code: int | None = None
        self.step = -1
        self.deadline = 0.0

    def signal(self, number: int) -> None:
        """Send a signal; a frozen process is woken, so that it can obey."""
        if self.code is None:
            os.kill(self.process.pid, number)
            os.kill(self.process.pid, signal.SIGCONT)

    def push(self, now: float) -> None:
        """Go on to the next, stronger signal when the patience with the last one has ended."""
        if self.code is None and now >= self.deadline and self.step + 1 < len(self.stop):
            self.step += 1
            number, patience = self.stop[self.step]
            self.deadline = now + patience
            self.signal(number)


class Guard:
    """Single-threaded: one select over the pipe, the parent's pidfd and SIGCHLD."""

    def __init__(self, parent: int) -> None:
        self.children: dict[str, Child] = {}
        self.remove: list[str] = []
        self.ended = False
        self.prctl = _libc_prctl()
        self.inbox = b""
        self.wake_read, wake_write = os.pipe()
        for fd in (self.wake_read, wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        if self.prctl is not None:
            # PostgreSQL's backends become ours when their postmaster is killed, so that no zombie of them stays
            self.prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.parent_fd = self._watch(parent)

    def _end(self, *_: object) -> None:
        self.ended = True

    def _watch(self, parent: int) -> int | None:
        if os.getppid() != parent:
            self.ended = True
            return None
        try:
            return os.pidfd_open(parent)
        except (AttributeError, OSError):  # not Linux, or a kernel before 5.3: the pipe alone must do
            return None

    def run(self) -> None:
        """Serve until the parent is gone or says so, then stop everything."""
        while not self.ended:
            self.wait(None)
        self.stop(list(self.children))
        for path in self.remove:
            delete(path)

    def wait(self, timeout: float | None) -> None:
        """One look at everything that can happen."""
        fds = [self.wake_read]
        if timeout is None:  # while something is being stopped, requests and the parent's end can wait
            fds += [0] if self.parent_fd is None else [0, self.parent_fd]
        ready = select.select(fds, [], [], timeout)[0]
        if self.wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self.wake_read, 4096)
            self.reap()
        if self.parent_fd in ready:
            self.ended = True
        if 0 in ready:
            self.read()

    def read(self) -> None:
        """Take requests from the pipe; its end means that the parent is gone."""
        data = os.read(0, 65536)
        if not data:
            self.ended = True
            return
        *lines, self.inbox = (self.inbox + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            try:
                answer = getattr(self, "do_" + request.pop("do"))(**request)
            except OSError as error:
                answer = {"error": f"{error.strerror}: {error.filename}" if error.filename else str(error)}
            except subprocess.SubprocessError as error:
                answer = {"error": str(error)}
            try:
                os.write(1, json.dumps(answer).encode() + b"\n")
            except OSError:
                self.ended = True

    def reap(self) -> None:
        """Collect every child that ended, adopted ones too."""
        by_pid = {child.process.pid: child for child in self.children.values()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = by_pid.get(pid)
            if child is not None:
                child.code = child.process.returncode = os.waitstatus_to_exitcode(status)

    def stop(self, names: list[str]) -> None:
        """Stop some servers side by side, with growing force, until they are gone."""
        chosen = [self.children[name] for name in names if name in self.children]
        for child in chosen:
            child.step, child.deadline = -1, 0.0
        while any(child.code is None for child in chosen):
            now = time.monotonic()
            for child in chosen:
                child.push(now)
            # also a look every 0.2 s: a wake-up that came between reap and select is already in the pipe
            self.wait(0.2)

    def do_start(
        self, name: str, argv: list[str], env: dict[str, str], cwd: str, log: str, stop: list[tuple[int, float]],
        ids: tuple[int, int] | None, death_signal: int,
    ) -> dict[str, Any]:  # fmt: skip
        """Start a server; as another user if ``ids`` (uid, gid) says so."""
        me, prctl = os.getpid(), self.prctl

        def before_exec() -> None:
            os.setsid()
            if ids is not None:
                os.setgroups([])
                os.setgid(ids[1])
                os.setuid(ids[0])
            if prctl is not None:
                # after setuid: a change of user clears the parent-death signal
                prctl(PR_SET_PDEATHSIG, death_signal)
                if os.getppid() != me:
                    os._exit(EXIT_LOST_PARENT)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)

        with open(log, "ab") as out:
            process = subprocess.Popen(
                argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=before_exec
            )
        self.children[name] = Child(process, stop)
        return {"pid": process.pid}

    def do_poll(self, name: str) -> dict[str, Any]:
        """Whether a server runs: its exit code, or None."""
        self.reap()
        return {"code": self.children[name].code if name in self.children else 0}

    def do_stop(self, name: str) -> dict[str, Any]:
        """Stop one server and wait for its end."""
        self.stop([name])
        return self.do_poll(name)

    def do_kill(self, name: str) -> dict[str, Any]:
        """SIGKILL one server and wait for its end."""
        if name in self.children:
            child = self.children[name]
            child.signal(signal.SIGKILL)
            while child.code is None:
                self.wait(0.2)
        return self.do_poll(name)

    def do_remove(self, paths: list[str]) -> dict[str, Any]:
        """Files and folders to delete after the servers ended, however the parent ends."""
        self.remove = paths
        return {}

    def do_end(self) -> dict[str, Any]:
        """Stop everything, answer when it is done; the guard leaves when the pipe closes."""
        self.stop(list(self.children))
        return {}


if __name__ == "__main__":
    Guard(int(sys.argv[1])).run()
