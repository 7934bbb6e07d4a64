"""The app that the bench's workers run: a task that does nothing and one that notes when it started."""

from __future__ import annotations

import asyncio
import os
import time
from functools import cache
from pathlib import Path
from typing import BinaryIO

from dispatcher.app import Dispatcher
from dispatcher.context import context

__all__ = ["MARKS", "SLOW", "app", "count", "mark", "nap", "noop", "step"]

MARKS = "DISPATCHER_BENCH_MARKS"
"""The environment variable that names the folder where handlers note their start."""

SLOW = "DISPATCHER_BENCH_SLOW"
"""The environment variable that makes a worker so many times slower."""

app = Dispatcher("bench")


@app.task(name="bench.noop")
async def noop(number: int, text: str = "an order of ordinary size, about 60 B") -> None:
    """Do nothing: what is left is the dispatcher's own cost."""


@app.task(name="bench.count")
async def count(results: list[None]) -> int:
    """What comes after a group."""
    return len(results)


@app.task(name="bench.step")
async def step(number: int) -> int:
    """One link of a chain."""
    return number + 1


@app.task(name="bench.nap")
async def nap(seconds: float) -> None:
    """Wait, as for somebody else's server."""
    await asyncio.sleep(seconds * float(os.environ.get(SLOW, "1")))


@app.task(name="bench.mark")
async def mark() -> None:
    """Note the moment of the first line by the clock that all processes of a machine share."""
    now = time.monotonic_ns()
    _file().write(b"%s %d\n" % (str(context().task_id).encode(), now))


@cache
def _file() -> BinaryIO:
    folder = Path(os.environ[MARKS])
    return (folder / f"{os.getpid()}.marks").open("ab", buffering=0)
