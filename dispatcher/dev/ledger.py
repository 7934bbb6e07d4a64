"""What a process itself saw, one line per event, appended at once: a kill -9 loses nothing that was written.

Each line: mark, task id (or ``-``), attempt, order id, monotonic nanoseconds (one clock for the whole machine), pid.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Line", "Mark", "Writer", "read"]


class Mark:
    """The kinds of lines."""

    START = "start"
    EFFECT = "effect"
    """The effect was applied by this attempt."""
    REPEAT = "repeat"
    """The effect was there already; nothing was applied."""
    FAULT = "fault"
    """Failed on purpose."""
    END = "end"
    COMMITTED = "committed"
    PACED = "paced"
    """Committed in the measured, unloaded phase."""
    ROLLED_BACK = "rolled_back"
    SAME_KEY = "same_key"
    """Enqueued a second time with the same key: must have given the same task."""
    OTHER_TASK = "other_task"
    """... but gave another one."""
    TRY = "try"
    """About to commit; without a later line about it, whoever wrote this died before it knew the outcome."""
    UNKNOWN = "unknown"
    """The commit's answer was lost: the task exists or it does not."""
    FAILED = "failed"
    """Certainly not committed."""
    UNFIT = "unfit"
    """The task of this order has arguments that its handler cannot take."""
    REFUSED = "refused"
    """The effect was refused: a later attempt's was accepted before."""
    CANCELLED = "cancelled"
    """A cancel was committed and the answer was "cancelled"."""
    CANCEL_ASKED = "cancel_asked"
    """A cancel was committed and the answer was that the running attempt is asked to stop."""


class Line(NamedTuple):
    """One event."""

    mark: str
    task: str
    attempt: int
    order: int
    ns: int
    pid: int


class Writer:
    """Appends to the ledger of this process."""

    def __init__(self, folder: Path, name: str) -> None:
        path = folder / f"{name}-{os.getpid()}.log"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._pid = os.getpid()

    def write(self, mark: str, task: object, attempt: int, order: int, ns: int | None = None) -> None:
        """One line in one system call."""
        at = time.monotonic_ns() if ns is None else ns
        os.write(self._fd, f"{mark} {task or '-'} {attempt} {order} {at} {self._pid}\n".encode())


def read(folder: Path, name: str) -> Iterator[Line]:
    """Every line that processes of that name wrote."""
    for path in sorted(folder.glob(f"{name}-*.log")):
        for text in path.read_text().splitlines():
            mark, task, attempt, order, ns, pid = text.split(" ")
            yield Line(mark, task, int(attempt), int(order), int(ns), int(pid))
