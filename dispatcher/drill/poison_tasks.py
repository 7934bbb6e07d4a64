"""The application of the drill ``poison``: ordinary tasks, and one type that ends every process that runs it.

It writes down that it is about to do so, and how; by that the drill tells these ends from all others.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

from dispatcher import Retry, Secret
from dispatcher.dev.ledger import Line, Mark, read
from dispatcher.drill.tasks import QUEUE, app, note, noted

__all__ = ["NAME", "TRIES", "app", "ended_by", "poison", "way_of"]

NAME = "poison"
"""Of the task type."""
TRIES = 3
_EXIT_CODE = 86
"""One that nothing else here ends with."""


class Way(NamedTuple):
    """One way to end the process one is in."""

    text: str
    code: int
    """What its parent is told."""
    go: Callable[[], object]


def _segfault() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


_WAYS = (
    Way("SIGKILL", -signal.SIGKILL, lambda: os.kill(os.getpid(), signal.SIGKILL)),
    Way("os._exit", _EXIT_CODE, lambda: os._exit(_EXIT_CODE)),
    Way("a segmentation fault", -signal.SIGSEGV, _segfault),
)


def way_of(order: int, attempt: int) -> Way:
    """How an attempt ends its process: each of three attempts in another way."""
    return _WAYS[(order + attempt) % len(_WAYS)]


@app.task(name=NAME, queue=QUEUE, retry=Retry(max_attempts=TRIES))
def poison(order: int, seconds: float, canary: Annotated[str, Secret]) -> None:
    """Takes the whole process with it, from a thread, after so many seconds."""
    with noted(order) as task:
        time.sleep(seconds)
        note(Mark.FAULT, order)
        way_of(order, task.attempt).go()


def ended_by(root: Path, pid: int, code: int) -> Line | None:
    """The attempt that ended a process on purpose, in just that way; ``None`` when it ended for another reason."""
    said = (line for line in read(root / "ledger", "worker") if line.pid == pid and line.mark == Mark.FAULT)
    return next((line for line in said if way_of(line.order, line.attempt).code == code), None)
