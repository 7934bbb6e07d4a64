"""CPU time of processes and of the whole machine, from /proc."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Meter", "busy_of_machine", "cpu_of_tree"]

_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PROC = Path("/proc")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name, which may hold blanks; empty when the process is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _cpu(fields: Sequence[str]) -> float:
    # user, system, and both of the children that ended and were waited for
    return sum(map(int, fields[11:15])) / _TICK


def cpu_of_tree(pid: int) -> float:
    """Seconds used so far by a process, by its children and by the children it has already buried.

    Children that end between two readings move from one term to the other: nothing is lost or counted twice.
    """
    total = _cpu(_stat(pid) or ["0"] * 15)
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            fields = _stat(int(entry.name))
            if fields and int(fields[1]) == pid:
                total += _cpu(fields)
    return total


def busy_of_machine() -> float:
    """Seconds that all cores together were busy since the machine started."""
    try:
        fields = [int(field) for field in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return 0.0
    return (sum(fields[:3]) + sum(fields[5:8])) / _TICK


class Meter:
    """Seconds of CPU per component since :meth:`start`; a component without process ids has ``None``."""

    def __init__(self, components: Mapping[str, Sequence[int | None]]) -> None:
        self._components = components
        self._before: dict[str, float | None] = {}
        self._machine = 0.0

    def _read(self) -> dict[str, float | None]:
        return {
            name: None if not pids or None in pids else sum(cpu_of_tree(pid) for pid in pids if pid is not None)
            for name, pids in self._components.items()
        }

    def start(self) -> None:
        """Count from now on."""
        self._before, self._machine = self._read(), busy_of_machine()

    def stop(self) -> dict[str, float | None]:
        """Seconds per component, and under ``machine`` those of everything that ran here, strangers included."""
        spent: dict[str, float | None] = {}
        for name, after in self._read().items():
            before = self._before[name]
            spent[name] = None if after is None or before is None else after - before
        return spent | {"machine": busy_of_machine() - self._machine}
