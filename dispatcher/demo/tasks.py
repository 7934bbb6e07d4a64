"""The application that the demo's workers run: ``dispatcher worker dispatcher.demo.tasks:app``.

Some handlers are coroutines, some plain functions; some fail at their first try on purpose, half of those after their
effect was applied, which is the hard case.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from dispatcher import Context, Dispatcher, Retry, TaskType, context
from dispatcher.demo.sink import Sink
from dispatcher.demo.work import do
from dispatcher.dev.ledger import Mark, Writer

__all__ = ["QUEUE", "TYPES", "StorageHiccup", "app"]

QUEUE = "files"
app = Dispatcher("demo")
# generous, because a worker that is killed consumes a try of everything it holds
_RETRY = Retry(max_attempts=20, backoff=0.3, max_delay=2)
_FAULTY = 25
"""One order in so many fails at its first try."""


class StorageHiccup(Exception):
    """The failure on purpose."""


class _Desk:
    """What a worker process works with, opened when its first task starts."""

    @cached_property
    def root(self) -> Path:
        return Path(os.environ["DISPATCHER_DEMO_DIR"])

    @cached_property
    def ledger(self) -> Writer:
        return Writer(self.root / "ledger", "worker")

    @cached_property
    def sink(self) -> Sink:
        return Sink(os.environ["DISPATCHER_DATABASE_URL"], os.environ["DISPATCHER_DEMO_SHOP"])

    def make(self, kind: str, file: str, task: Context) -> str:
        """Do the work, put the result where the application wants it, and return its digest."""
        made = do(kind, (self.root / "files" / file).read_bytes())
        target = self.root / "out" / f"{task.task_id}.{task.attempt}"
        target.write_bytes(made)
        target.rename(target.with_suffix(""))  # all or nothing; a second attempt writes the same
        return hashlib.sha256(made).hexdigest()


_desk = _Desk()


@contextmanager
def _noted(order_id: int) -> Iterator[Context]:
    """Start and end in the ledger; a failure on purpose before or after the effect."""
    task = context()
    _desk.ledger.write(Mark.START, task.task_id, task.attempt, order_id)
    faulty = task.tries == 1 and order_id % _FAULTY == 0
    if faulty and order_id % (2 * _FAULTY):
        _fail(task, order_id)
    yield task
    if faulty:
        _fail(task, order_id)
    _desk.ledger.write(Mark.END, task.task_id, task.attempt, order_id)


def _fail(task: Context, order_id: int) -> None:
    _desk.ledger.write(Mark.FAULT, task.task_id, task.attempt, order_id)
    raise StorageHiccup(f"order {order_id} fails at its first try, on purpose")


def _row(order_id: int, task: Context, digest: str) -> dict[str, Any]:
    return {"order": order_id, "task": task.task_id, "attempt": task.attempt, "digest": digest, "pid": os.getpid()}


def _applied(order_id: int, task: Context, applied: bool) -> None:
    _desk.ledger.write(Mark.EFFECT if applied else Mark.REPEAT, task.task_id, task.attempt, order_id)


def _plain(kind: str, order_id: int, file: str) -> str:
    with _noted(order_id) as task:
        digest = _desk.make(kind, file, task)
        _applied(order_id, task, _desk.sink.apply(**_row(order_id, task, digest)))
        return digest


async def _async(kind: str, order_id: int, file: str, remote: float) -> str:
    with _noted(order_id) as task:
        digest = _desk.make(kind, file, task)
        await asyncio.sleep(remote)  # stands for a call to somebody else's service
        _applied(order_id, task, await _desk.sink.apply_async(**_row(order_id, task, digest)))
        return digest


@app.task(name="checksum", queue=QUEUE, retry=_RETRY)
async def checksum(order_id: int, file: str) -> str:
    """SHA-256 of a file, reported to a service that answers after 5 ms."""
    return await _async("checksum", order_id, file, 0.005)


@app.task(name="compress", queue=QUEUE, retry=_RETRY)
def compress(order_id: int, file: str) -> str:
    """Deflate a file."""
    return _plain("compress", order_id, file)


@app.task(name="thumbnail", queue=QUEUE, retry=_RETRY)
def thumbnail(order_id: int, file: str) -> str:
    """Make a picture small."""
    return _plain("thumbnail", order_id, file)


@app.task(name="receipt", queue=QUEUE, retry=_RETRY, timeout=30)
async def receipt(order_id: int, file: str) -> str:
    """Count words, for a customer whose mail server takes 100 ms."""
    return await _async("receipt", order_id, file, 0.1)


TYPES: dict[str, TaskType[..., str, Any]] = {
    "checksum": checksum,
    "compress": compress,
    "thumbnail": thumbnail,
    "receipt": receipt,
}
