"""taskiq on NATS JetStream (taskiq-nats) with results in PostgreSQL (taskiq-postgres)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from taskiq import AsyncBroker
from taskiq_nats import PullBasedJetStreamBroker, PushBasedJetStreamBroker
from taskiq_pg.asyncpg import AsyncpgResultBackend

from benchmarks.peers import tally
from benchmarks.peers.peer import DATABASE_URL, NATS_URL, PAYLOAD, About

QUEUE = "taskiq_consumer"
"""The name that the broker gives its consumer: under another one a second worker would try to make it anew."""


async def _noop(number: int, text: str) -> None:
    """Count."""
    tally.count()


async def _mark(number: int, text: str) -> None:
    """Note the start."""
    tally.note(number)


def _with_tasks(made: AsyncBroker) -> AsyncBroker:
    made.register_task(_noop, task_name="noop")
    made.register_task(_mark, task_name="mark")
    return made.with_result_backend(AsyncpgResultBackend(dsn=os.environ[DATABASE_URL]))


broker = _with_tasks(PushBasedJetStreamBroker(os.environ[NATS_URL], queue=QUEUE))
sender = _with_tasks(PullBasedJetStreamBroker(os.environ[NATS_URL], durable="sender"))
noop, mark = sender.find_task("noop"), sender.find_task("mark")


class TaskiqPeer:
    """``taskiq worker``."""

    about = About(
        name="taskiq",
        packages=("taskiq", "taskiq-nats", "taskiq-postgres", "nats-py", "asyncpg", "uvloop"),
        keeps="row with the result only; a waiting task is a message, not a row",
        settings=(
            ("push-based JetStream broker with a queue", "taskiq-nats README"),
            (
                "a pull-based one sends: a push-based one would join the queue and swallow tasks",
                "taskiq-nats broker.py",
            ),
            ("--max-async-tasks 100 (default), --max-prefetch 100", "taskiq docs/guide/cli.md"),
            ("--ack-type when_saved (default): the result is stored before the message is confirmed", "the same"),
            ("--no-parse: arguments are not checked", "the same"),
            ("uvloop, which the worker takes when it is installed", "taskiq/cli/worker/run.py"),
            ("results with asyncpg, a pool of 10 (default)", "taskiq-postgres docs/tutorial/result_backend"),
            ("bulk: there is none; 100 publications at a time", "taskiq docs/guide"),
        ),
        left="SELECT %(total)s - count(*) FROM taskiq_results",
        atomic=False,
    )

    def processes(self, workers: int) -> list[list[str]]:
        """One ``taskiq worker --workers 1`` each."""
        flags = ["--workers", "1", "--max-prefetch", "100", "--no-parse", "--log-level", "WARNING"]
        return [["-m", "taskiq", "worker", f"{__name__}:broker", *flags]] * workers

    async def setup(self) -> None:
        """Starting a broker creates table and stream."""
        await sender.startup()

    async def open(self, clients: int) -> None:
        """One connection to NATS is open already."""

    async def one(self, number: int) -> None:
        """One message; returns with the server's confirmation."""
        await noop.kiq(number, PAYLOAD)

    async def one_tx(self, number: int) -> None:
        """It cannot."""
        raise NotImplementedError

    async def mark(self, number: int) -> None:
        """One message of the task that notes its start."""
        await mark.kiq(number, PAYLOAD)

    async def bulk(self, numbers: Sequence[int]) -> None:
        """A hundred at a time."""
        left = iter(numbers)

        async def client() -> None:
            for number in left:
                await self.one(number)

        await asyncio.gather(*(client() for _ in range(100)))


peer = TaskiqPeer()
