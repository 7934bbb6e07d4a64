"""SAQ on PostgreSQL: psycopg, LISTEN/NOTIFY, the job as one blob that is rewritten at every step."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import orjson
from saq.queue.postgres import PostgresQueue

from benchmarks.peers import tally
from benchmarks.peers.peer import DATABASE_URL, PAYLOAD, About

CONCURRENCY, POOL = 10, 20


async def noop(ctx: dict[str, Any], *, number: int, text: str) -> None:
    """Count."""
    tally.count()


async def mark(ctx: dict[str, Any], *, number: int, text: str) -> None:
    """Note the start."""
    tally.note(number)


queue = PostgresQueue.from_url(
    os.environ[DATABASE_URL], min_size=4, max_size=POOL, dump=orjson.dumps, load=orjson.loads
)
settings = {"queue": queue, "functions": [noop, mark], "concurrency": CONCURRENCY}


class SaqPeer:
    """``saq module.settings``."""

    about = About(
        name="saq",
        packages=("saq", "psycopg", "psycopg-binary", "orjson"),
        keeps="row with state and result for 10 minutes; no events",
        settings=(
            (f"concurrency {CONCURRENCY} (default); 20 was slower here", "saq README, saq/worker.py"),
            (f"a pool of {POOL} connections (default)", "saq/queue/postgres.py"),
            ("dump and load with orjson", "saq/queue/postgres.py: dump, load"),
            ("bulk: there is none; 20 enqueues at a time, as its own benchmark does", "saq benchmarks/simple.py"),
        ),
        left="SELECT count(*) FROM saq_jobs WHERE status NOT IN ('complete', 'failed', 'aborted')",
        atomic=False,
    )

    def processes(self, workers: int) -> list[list[str]]:
        """One ``saq`` each."""
        return [["-m", "saq", f"{__name__}.settings"]] * workers

    async def setup(self) -> None:
        """Connecting creates the tables."""
        await queue.connect()

    async def open(self, clients: int) -> None:
        """The pool of the queue is open already."""

    async def one(self, number: int) -> None:
        """One job."""
        await queue.enqueue("noop", number=number, text=PAYLOAD)

    async def one_tx(self, number: int) -> None:
        """It cannot."""
        raise NotImplementedError

    async def mark(self, number: int) -> None:
        """One job that notes its start."""
        await queue.enqueue("mark", number=number, text=PAYLOAD)

    async def bulk(self, numbers: Sequence[int]) -> None:
        """Twenty at a time."""
        left = iter(numbers)

        async def client() -> None:
            for number in left:
                await self.one(number)

        await asyncio.gather(*(client() for _ in range(20)))


peer = SaqPeer()
