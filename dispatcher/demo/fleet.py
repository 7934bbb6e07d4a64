"""The demo's processes: started, watched, killed on purpose and replaced, stopped in order.  By process object only."""

from __future__ import annotations

import signal
import subprocess
import sys

from dispatcher.demo.place import Place
from dispatcher.demo.tasks import QUEUE
from dispatcher.dev.child import command_line, environment, how_it_ended, popen_options
from dispatcher.errors import DispatcherError

__all__ = ["Fleet"]

_SLOTS = 16


class Fleet:
    """Every process of one demonstration."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._numbers: dict[str, int] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        """Those that should be running, by name."""

    def start_relay(self) -> str:
        """Another relay; returns its name."""
        return self._start("relay", command_line("relay", "--log-format", "json"))

    def start_worker(self) -> str:
        """Another worker; returns its name, which its sessions bear too."""
        name = self._next("worker")
        return self._run(name, command_line(
            "worker", "dispatcher.demo.tasks:app", "-q", QUEUE, "-c", str(_SLOTS), "--name", name,
            "--log-format", "json",
        ))  # fmt: skip

    def start_service(self) -> str:
        """The service that publishes."""
        return self._start(
            "service", [sys.executable, "-m", "dispatcher.demo.service", str(self._place.root.absolute())]
        )

    def let_service_finish(self) -> None:
        """Let it write its last tenth."""
        stdin = self.processes["service"].stdin
        assert stdin is not None
        try:
            stdin.write(b"go on\n")
            stdin.close()
        except BrokenPipeError:
            pass  # it is gone: whoever looks at it next will say so

    def kill(self, name: str) -> int:
        """End a process with SIGKILL and be sure of it; returns its process id.  Raises if it ended otherwise."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        code = process.wait(10)
        if code != -signal.SIGKILL:
            raise self._wrong_end(name, code)
        return process.pid

    def check(self) -> None:
        """Raise ``DispatcherError`` when a process ended that should not have."""
        for name, process in self.processes.items():
            code = process.poll()
            if code is not None and not (name.startswith("service") and code == 0):
                raise self._wrong_end(name, code)

    @property
    def published(self) -> bool:
        """Whether the service has done its work."""
        return self.processes["service"].poll() == 0

    def drain(self) -> None:
        """Stop workers, then relays, in order.  Raises ``DispatcherError`` when one does not obey."""
        for kind in ("worker", "relay"):
            chosen = {name: process for name, process in self.processes.items() if name.startswith(kind)}
            for process in chosen.values():
                process.terminate()
            for name, process in chosen.items():
                code = process.wait(30)
                del self.processes[name]
                if code != 0:
                    raise self._wrong_end(name, code)

    def close(self) -> None:
        """End whatever still runs."""
        for process in self.processes.values():
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()
            process.kill()
        for process in self.processes.values():
            process.wait(10)
        self.processes.clear()

    def _start(self, kind: str, argv: list[str]) -> str:
        return self._run(kind if kind == "service" else self._next(kind), argv)

    def _next(self, kind: str) -> str:
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return f"{kind}-{self._numbers[kind]}"

    def _run(self, name: str, argv: list[str]) -> str:
        extra = {"DISPATCHER_DEMO_DIR": str(self._place.root.absolute()), "DISPATCHER_DEMO_SHOP": self._place.plan.shop}
        with (self._place.folder("logs") / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                argv, stdin=subprocess.PIPE if name == "service" else subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment(self._place.settings, extra), cwd=self._place.folder("logs"), **popen_options(),
            )  # fmt: skip
        return name

    def _wrong_end(self, name: str, code: int) -> DispatcherError:
        return DispatcherError(f"{name} ended with {how_it_ended(code)}, unplanned; {self._last_words(name)}")

    def _last_words(self, name: str) -> str:
        path = self._place.root / "logs" / f"{name}.log"
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return f"its last words: {lines[-1]}" if lines else "it said nothing"
