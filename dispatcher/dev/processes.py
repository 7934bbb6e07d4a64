"""Named child processes with a log file each: started, killed on purpose, stopped in order.  By process object only."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from dispatcher.dev.child import how_it_ended, popen_options
from dispatcher.errors import DispatcherError

__all__ = ["AWAY", "Processes"]

AWAY = 5
"""The exit code of a process that a server was away for when it started: a supervisor starts it again."""


class Processes:
    """Every process of one demonstration or drill; what they say goes to ``logs``, which is their folder too."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._numbers: dict[str, int] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        """Those that should be running, by name."""

    def next_name(self, kind: str) -> str:
        """``worker-1``, ``worker-2`` …: a name is never used twice."""
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return f"{kind}-{self._numbers[kind]}"

    def start(self, name: str, argv: list[str], env: Mapping[str, str], *, told: bool = False) -> str:
        """Start one; ``told`` gives it a standard input to be told things through.  Returns the name."""
        with (self._logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                argv, stdin=subprocess.PIPE if told else subprocess.DEVNULL, stdout=log, stderr=log,
                env=dict(env), cwd=self._logs, **popen_options(),
            )  # fmt: skip
        return name

    def tell(self, name: str, line: bytes, *, last: bool = False) -> None:
        """Write a line to its standard input; one that is gone hears nothing, whoever looks at it next will say so."""
        stdin = self.running[name].stdin
        assert stdin is not None
        try:
            stdin.write(line)
            stdin.flush()
            if last:
                stdin.close()
        except (BrokenPipeError, ValueError):
            pass

    def kill(self, name: str) -> int:
        """End it with SIGKILL and be sure of it; returns its process id.  Raises if it ended otherwise."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        code = process.wait(10)
        if code != -signal.SIGKILL:
            raise self.wrong_end(name, code)
        return process.pid

    def stop(self, names: Iterable[str], patience: float = 30.0) -> None:
        """Ask them to leave, and wait.  Raises ``DispatcherError`` when one does not obey."""
        chosen = {name: self.running[name] for name in names}
        for process in chosen.values():
            process.terminate()
        for name, process in chosen.items():
            try:
                code = process.wait(patience)
            except subprocess.TimeoutExpired:
                raise DispatcherError(f"{name} did not leave in {patience:g} s; {self.last_words(name)}") from None
            del self.running[name]
            # one that was still starting up ends by the signal itself, or because a server was away
            if code not in (0, -signal.SIGTERM, AWAY):
                raise self.wrong_end(name, code)

    def close(self) -> None:
        """End whatever still runs."""
        for process in self.running.values():
            if process.stdin is not None and not process.stdin.closed:
                try:
                    process.stdin.close()
                except BrokenPipeError:
                    pass
            process.kill()
        for process in self.running.values():
            process.wait(10)
        self.running.clear()

    def wrong_end(self, name: str, code: int) -> DispatcherError:
        """The error that says how it ended."""
        return DispatcherError(f"{name} ended with {how_it_ended(code)}, unplanned; {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The last line of its log."""
        path = self._logs / f"{name}.log"
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return f"its last words: {lines[-1]}" if lines else "it said nothing"
