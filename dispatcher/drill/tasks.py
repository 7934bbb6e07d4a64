"""The application that a drill's workers run: ``dispatcher worker dispatcher.drill.tasks:app``.

Every handler writes its start, its effect and its end into the ledger of its own process, and offers its effect to the
fenced sink.  Coroutines and plain functions, some that fail, snooze or take long enough to be cancelled.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from dispatcher import Context, Dispatcher, Retry, RetryIn, Secret, Snooze, TaskType, context
from dispatcher.dev.ledger import Mark, Writer
from dispatcher.drill.sink import Sink
from dispatcher.failpoints import armed

__all__ = ["BACK_OFF", "CANARY", "FOLDER", "QUEUE", "RETRY", "SINK_URL", "TYPES", "app", "note", "noted", "result_of"]

QUEUE = "drill"
CANARY = "canary-2f7c-never-shown"
"""The secret argument of every task: it must appear nowhere but in the arguments."""
SINK_URL = "DISPATCHER_DRILL_SINK_URL"
FOLDER = "DISPATCHER_DRILL_DIR"
BACK_OFF = 0.3
"""Seconds that a failing task asks to wait."""
app = Dispatcher("drill")
# generous: a worker that is killed consumes a try of everything it holds, and nothing here may end by bad luck
RETRY = Retry(max_attempts=40, backoff=0.2, max_delay=1)
_before_effect, _after_effect = armed("handler.before_effect"), armed("handler.after_effect")


class _Desk:
    """What a worker process works with, opened when its first task starts."""

    @cached_property
    def ledger(self) -> Writer:
        return Writer(Path(os.environ[FOLDER]) / "ledger", "worker")

    @cached_property
    def sink(self) -> Sink:
        return Sink(os.environ[SINK_URL])


_desk = _Desk()


def result_of(order: int) -> int:
    """What the task of an order returns."""
    return order * 7 + 1


def note(mark: str, order: int) -> None:
    """A line in the ledger of this process about the attempt that runs."""
    task = context()
    _desk.ledger.write(mark, task.task_id, task.attempt, order)


@contextmanager
def noted(order: int) -> Iterator[Context]:
    """The start of the attempt that runs, and its end unless it raises."""
    task = context()
    note(Mark.START, order)
    yield task
    note(Mark.END, order)


def _row(task: Context) -> dict[str, Any]:
    if _before_effect:
        _before_effect()
    return {"task": task.task_id, "attempt": task.attempt, "pid": os.getpid()}


def _offered(order: int, accepted: bool) -> int:
    note(Mark.EFFECT if accepted else Mark.REFUSED, order)
    if _after_effect:
        _after_effect()
    return result_of(order)


async def _work(order: int, seconds: float, task: Context) -> int:
    await asyncio.sleep(seconds)
    return _offered(order, await _desk.sink.offer_async(**_row(task)))


@app.task(name="work", queue=QUEUE, retry=RETRY)
async def work(order: int, seconds: float, canary: Annotated[str, Secret]) -> int:
    """A coroutine."""
    with noted(order) as task:
        return await _work(order, seconds, task)


@app.task(name="plain", queue=QUEUE, retry=RETRY)
def plain(order: int, seconds: float, canary: Annotated[str, Secret]) -> int:
    """A plain function, in a thread."""
    with noted(order) as task:
        time.sleep(seconds)
        return _offered(order, _desk.sink.offer(**_row(task)))


@app.task(name="flaky", queue=QUEUE, retry=RETRY)
async def flaky(order: int, seconds: float, canary: Annotated[str, Secret]) -> int:
    """Fails at its first try, after the effect or before it, and asks for a pause."""
    with noted(order) as task:
        if task.tries == 1 and order % 2:
            raise RetryIn(BACK_OFF, f"fails first, and would say {canary}")
        result = await _work(order, seconds, task)
        if task.tries == 1:
            raise RetryIn(BACK_OFF)
        return result


@app.task(name="sleepy", queue=QUEUE, retry=RETRY)
async def sleepy(order: int, seconds: float, canary: Annotated[str, Secret]) -> int:
    """Snoozes at its first attempt."""
    with noted(order) as task:
        if task.attempt == 1:
            raise Snooze(BACK_OFF)
        return await _work(order, seconds, task)


@app.task(name="long", queue=QUEUE, retry=RETRY)
async def long(order: int, seconds: float, canary: Annotated[str, Secret]) -> int:
    """Takes long enough to be cancelled while it runs."""
    with noted(order) as task:
        return await _work(order, 1.0 + seconds, task)


TYPES: dict[str, TaskType[..., int, Any]] = {
    "work": work,
    "plain": plain,
    "flaky": flaky,
    "sleepy": sleepy,
    "long": long,
}
