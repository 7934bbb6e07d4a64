"""The demo's processes: a service, relays and workers on one place."""

from __future__ import annotations

import sys

from dispatcher.demo.place import Place
from dispatcher.demo.tasks import QUEUE
from dispatcher.dev.child import command_line, environment
from dispatcher.dev.processes import Processes

__all__ = ["Fleet"]

_SLOTS = 16


class Fleet:
    """Every process of one demonstration."""

    def __init__(self, place: Place) -> None:
        extra = {"DISPATCHER_DEMO_DIR": str(place.root.absolute()), "DISPATCHER_DEMO_SHOP": place.plan.shop}
        self._env = environment(place.settings, extra)
        self._root = str(place.root.absolute())
        self._processes = Processes(place.folder("logs"))

    def start_relay(self) -> str:
        """Another relay; returns its name."""
        name = self._processes.next_name("relay")
        return self._processes.start(name, command_line("relay", "--log-format", "json"), self._env)

    def start_worker(self) -> str:
        """Another worker; returns its name, which its sessions bear too."""
        name = self._processes.next_name("worker")
        return self._processes.start(name, command_line(
            "worker", "dispatcher.demo.tasks:app", "-q", QUEUE, "-c", str(_SLOTS), "--name", name,
            "--log-format", "json",
        ), self._env)  # fmt: skip

    def start_service(self) -> str:
        """The service that publishes."""
        argv = [sys.executable, "-m", "dispatcher.demo.service", self._root]
        return self._processes.start("service", argv, self._env, told=True)

    def let_service_finish(self) -> None:
        """Let it write its last tenth."""
        self._processes.tell("service", b"go on\n", last=True)

    def kill(self, name: str) -> int:
        """End a process with SIGKILL and be sure of it; returns its process id.  Raises if it ended otherwise."""
        return self._processes.kill(name)

    def check(self) -> None:
        """Raise ``DispatcherError`` when a process ended that should not have."""
        for name, process in self._processes.running.items():
            code = process.poll()
            if code is not None and not (name.startswith("service") and code == 0):
                raise self._processes.wrong_end(name, code)

    @property
    def published(self) -> bool:
        """Whether the service has done its work."""
        return self._processes.running["service"].poll() == 0

    def drain(self) -> None:
        """Stop workers, then relays, in order.  Raises ``DispatcherError`` when one does not obey."""
        for kind in ("worker", "relay"):
            self._processes.stop([name for name in self._processes.running if name.startswith(kind)])

    def close(self) -> None:
        """End whatever still runs."""
        self._processes.close()
