"""What every handler of the comparison does, and nothing else: count its run, or note when it started.

Only the standard library: workers of all systems import it, each in its own environment.  A process has a file of its
own of eight bytes that is mapped into memory, so that counting costs an addition and no system call.
"""

from __future__ import annotations

import mmap
import os
import time
from functools import cache
from pathlib import Path
from typing import BinaryIO

__all__ = ["FOLDER", "count", "note", "runs", "starts"]

FOLDER = "PEERS_FOLDER"
"""The environment variable that names the folder of the tallies."""
_BYTES = 8


@cache
def _counter(pid: int) -> memoryview:
    with (Path(os.environ[FOLDER]) / f"{pid}.tally").open("w+b") as file:
        file.truncate(_BYTES)
        return memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("Q")


@cache
def _notes(pid: int) -> BinaryIO:
    return (Path(os.environ[FOLDER]) / f"{pid}.starts").open("ab", buffering=0)


def count() -> None:
    """One more run in this process."""
    _counter(os.getpid())[0] += 1


def note(number: int) -> None:
    """A run of this task started now, by the clock that all processes of a machine share."""
    now = time.monotonic_ns()
    _notes(os.getpid()).write(b"%d %d\n" % (number, now))
    count()


def runs(folder: Path) -> int:
    """Runs of all processes so far, those that have ended included."""
    return sum(int.from_bytes(file.read_bytes(), "little") for file in folder.glob("*.tally"))


def starts(folder: Path) -> dict[int, int]:
    """The first start of each noted task, in nanoseconds."""
    found: dict[int, int] = {}
    for file in folder.glob("*.starts"):
        for line in file.read_text().splitlines():
            number, _, at = line.partition(" ")
            found[int(number)] = min(int(at), found.get(int(number), int(at)))
    return found
