"""A drill's processes: two relays, some workers and a client; killed, frozen and replaced, never by name."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dispatcher.bus import Bus
from dispatcher.dev.child import command_line, environment, how_it_ended
from dispatcher.dev.ledger import Line
from dispatcher.dev.processes import AWAY, Processes
from dispatcher.drill.place import Place
from dispatcher.drill.plants import write_hook
from dispatcher.drill.tasks import FOLDER, QUEUE, SINK_URL
from dispatcher.drill.work import Work
from dispatcher.errors import DispatcherError
from dispatcher.failpoints import TESTING, VARIABLE
from dispatcher.subjects import Subjects

__all__ = ["RELAYS", "Dead", "Fleet", "Gone", "is_stopped"]

RELAYS = 2
_FENCED = 70
"""The exit code of a worker that left at the end of its lease."""
_READY_SECONDS = 60.0


class Gone(DispatcherError):
    """A process that was to be killed is not there any more."""


class Dead(NamedTuple):
    """A process that a task has ended, as that task was to do."""

    name: str
    line: Line
    """What the attempt wrote down before it did."""
    replaced_by: str


class Fleet:
    """Every process of one drill."""

    def __init__(self, place: Place, work: Work) -> None:
        self._place, self._work = place, work
        sink = place.direct.database_url or ""
        extra = {FOLDER: str(place.root.absolute()), SINK_URL: sink}
        if place.plan.plant:
            extra |= write_hook(place.root.absolute(), place.plan.plant)
        self._env = environment(place.settings, extra)
        self.processes = Processes(place.folder("logs"))
        self.frozen: set[str] = set()
        self.fenced: list[str] = []
        """Workers that left by themselves because their lease could not be renewed: as they should."""
        self.wrong_ends: list[str] = []
        """Processes that ended although nobody asked them to."""
        self.dead: deque[Dead] = deque()
        """Processes that tasks have ended, until the drill notes them as faults."""
        self.started = 0
        self._allowed = 0

    def start_all(self) -> None:
        """Relays, workers, and then the client; returns when every worker receives."""
        for _ in range(RELAYS):
            self.start_relay()
        self.start_workers()
        self.start_client()

    def start_workers(self) -> None:
        """As many as this work wants; returns when all of them receive."""
        self.wait_ready([self.start_worker() for _ in range(self._work.workers)])

    def start_relay(self, failpoint: str | None = None) -> str:
        """Another relay; returns its name."""
        name = self.processes.next_name("relay")
        return self._start(name, command_line("relay", "--log-format", "json"), failpoint)

    def start_worker(self, failpoint: str | None = None) -> str:
        """Another worker; returns its name, which its sessions bear too."""
        name = self.processes.next_name("worker")
        return self._start(name, command_line(
            "worker", self._work.app, "-q", QUEUE, "-c", str(self._work.slots), "--name", name,
            "--log-format", "json",
        ), failpoint)  # fmt: skip

    def start_client(self) -> str:
        """A client that goes on where the one before it ended."""
        name = self.processes.next_name("client")
        argv = [sys.executable, "-m", self._work.client, str(self._place.root.absolute())]
        self._start(name, argv, None)
        self.processes.tell(name, b"%d\n" % self._allowed)
        return name

    def _start(self, name: str, argv: list[str], failpoint: str | None) -> str:
        self.started += 1
        armed: Mapping[str, str] = {} if failpoint is None else {VARIABLE: failpoint, TESTING: "1"}
        return self.processes.start(name, argv, {**self._env, **armed}, told=name.startswith("client"))

    def names(self, kind: str) -> list[str]:
        """Those of a kind that run and are not frozen, oldest first."""
        return [name for name in self.processes.running if name.startswith(kind) and name not in self.frozen]

    def pid(self, name: str) -> int:
        """Its process id."""
        return self.processes.running[name].pid

    def kill(self, name: str) -> int:
        """End it with SIGKILL and be sure of it; returns its process id.  Raises ``Gone``."""
        if self.processes.running[name].poll() is not None:
            raise Gone(f"{name} has ended by itself")  # and is replaced like any other
        return self.processes.kill(name)

    def replace(self, name: str) -> str:
        """Start another one of the same kind."""
        kind = name.partition("-")[0]
        start = {"relay": self.start_relay, "worker": self.start_worker, "client": self.start_client}[kind]
        return start()

    def freeze(self, name: str) -> bool:
        """Stop it where it is; returns whether the kernel says so."""
        self.processes.running[name].send_signal(signal.SIGSTOP)
        self.frozen.add(name)
        return is_stopped(self.pid(name))

    def thaw(self, name: str) -> None:
        """Let it go on, if it is still there."""
        self.frozen.discard(name)
        if name in self.processes.running:
            self.processes.running[name].send_signal(signal.SIGCONT)

    def tell_client(self, tasks: int) -> None:
        """Let the client, and whoever takes its place, make so many tasks in all."""
        self._allowed = tasks
        for name in self.names("client"):
            self.processes.tell(name, b"%d\n" % tasks)

    @property
    def published(self) -> bool:
        """Whether the client has done its work."""
        return not self.names("client")

    def tend(self) -> None:
        """Replace what ended by itself, as a supervisor would; a client that ended well is done."""
        for name, process in list(self.processes.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.processes.running[name]
            self.frozen.discard(name)
            if name.startswith("client") and code == 0:
                continue
            line = self._work.ended_by(self._place.root, process.pid, code)
            if line is not None:
                self.dead.append(Dead(name, line, self.replace(name)))
                continue
            if code == _FENCED:
                self.fenced.append(name)
            elif code != AWAY:
                said = self.processes.last_words(name)
                self.wrong_ends.append(f"{name} ended with {how_it_ended(code)}; {said[:300]}")
                if len(self.wrong_ends) > 10:
                    raise DispatcherError(f"processes end again and again: {self.wrong_ends[-1]}")
            self.replace(name)

    def wait_for_death(self, name: str, seconds: float) -> bool:
        """Whether it ended by SIGKILL within ``seconds``: its failpoint was reached."""
        process = self.processes.running[name]
        until = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        if process.poll() != -signal.SIGKILL:
            return False
        del self.processes.running[name]
        return True

    def answering(self) -> set[str]:
        """The workers that are there and receive."""

        async def present() -> set[str]:
            bus = await Bus.connect(self._place.direct, name="drill ready?", timeout=10.0)
            try:
                answers = await bus.request_many(Subjects(self._place.plan.namespace).workers, b"", wait=0.2)
                return {json.loads(answer)["worker"] for answer in answers}
            finally:
                await bus.close()

        return self._place.thread.run(present())

    def wait_ready(self, names: list[str]) -> None:
        """Until these workers answer.  Raises ``DispatcherError``."""
        until = time.monotonic() + _READY_SECONDS
        while missing := set(names) - self.answering():
            for name in missing:
                code = self.processes.running[name].poll()
                if code == AWAY:
                    del self.processes.running[name]
                    names = [*(other for other in names if other != name), self.replace(name)]
                elif code is not None:
                    raise self.processes.wrong_end(name, code)
            if time.monotonic() > until:
                raise DispatcherError(f"not ready in {_READY_SECONDS:g} s: {', '.join(sorted(missing))}")

    def drain(self) -> None:
        """Stop workers, then relays, in order.  Raises ``DispatcherError`` when one does not obey."""
        for kind in ("worker", "relay"):
            self.processes.stop(self.names(kind))

    def close(self) -> None:
        """End whatever still runs."""
        self.processes.close()


def is_stopped(pid: int) -> bool:
    """What /proc says; where there is none the signal has to be believed."""
    stat = Path(f"/proc/{pid}/stat")
    until = time.monotonic() + 1.0
    while os.path.exists(stat) and time.monotonic() < until:
        if stat.read_text().rpartition(")")[2].split()[0] == "T":
            return True
        time.sleep(0.005)
    return not stat.exists()
