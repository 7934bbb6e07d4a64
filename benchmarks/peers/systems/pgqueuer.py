"""pgqueuer: PostgreSQL alone, SKIP LOCKED in batches, LISTEN/NOTIFY, asyncpg.  Run as a program it is the worker."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pgqueuer
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peers import tally
from benchmarks.peers.peer import DATABASE_URL, PAYLOAD, About

TUNING = "pgqueuer docs/guides/performance-tuning.md"
BATCH = 200


@asynccontextmanager
async def create() -> AsyncIterator[PgQueuer]:
    """The factory that ``pgq run`` is given."""
    connection = await asyncpg.connect(os.environ[DATABASE_URL])
    try:
        pgq = PgQueuer(AsyncpgDriver(connection))

        @pgq.entrypoint("noop")
        async def noop(job: Job) -> None:
            tally.count()

        @pgq.entrypoint("mark")
        async def mark(job: Job) -> None:
            assert job.payload is not None
            tally.note(int(job.payload.split(b" ", 1)[0]))

        yield pgq
    finally:
        await connection.close()


def _payload(number: int) -> bytes:
    return f"{number} {PAYLOAD}".encode()


class PgQueuerPeer:
    """asyncpg and uvloop, durable tables."""

    about = About(
        name="pgqueuer",
        packages=("pgqueuer", "asyncpg", "uvloop"),
        keeps="deletes the row; a log row per transition; no result",
        settings=(
            ("asyncpg, not psycopg: 1.7 times as fast", "pgqueuer docs/comparisons/benchmarks.md"),
            ("a single connection for the worker, a pool for producers", TUNING),
            (f"--batch-size {BATCH} (default 10): raise it for short jobs; best of 50, 200, 500 and 1000 here", TUNING),
            ("pgq autovac after installation", TUNING),
            ("durability: durable (default; the others lose jobs in a crash)", TUNING),
            ("pgqueuer.run, which is pgq run without the command line", "pgqueuer docs/guides/programmatic-run.md"),
            ("uvloop, which pgq run takes when it is installed", "pgqueuer/adapters/cli/cli.py"),
            ("bulk: enqueue with lists, 500 a call", "pgqueuer docs/getting-started/core-concepts.md"),
        ),
        left="SELECT count(*) FROM pgqueuer",
        atomic=True,
    )

    def processes(self, workers: int) -> list[list[str]]:
        """One worker each, as ``pgq run`` starts it; its command line itself fails with the typer of today."""
        return [["-m", __name__]] * workers

    async def setup(self) -> None:
        """``pgq install`` and ``pgq autovac``."""
        for command in ("install", "autovac"):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pgqueuer", "--pg-dsn", os.environ[DATABASE_URL], command,
                stdout=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            if await process.wait():
                raise SystemExit(f"pgq {command} failed")

    async def open(self, clients: int) -> None:
        """A pool with a connection for each client, and as many of the callers' own."""
        pool = await asyncpg.create_pool(os.environ[DATABASE_URL], min_size=clients, max_size=clients)
        self._queries = Queries(AsyncpgPoolDriver(pool))
        own = [await asyncpg.connect(os.environ[DATABASE_URL]) for _ in range(clients)]
        self._own = [(connection, Queries(AsyncpgDriver(connection))) for connection in own]

    async def one(self, number: int) -> None:
        """One job."""
        await self._queries.enqueue("noop", _payload(number))

    async def one_tx(self, number: int) -> None:
        """One job in a transaction of the caller."""
        connection, queries = self._own.pop()
        async with connection.transaction():
            await queries.enqueue("noop", _payload(number))
        self._own.append((connection, queries))

    async def mark(self, number: int) -> None:
        """One job that notes its start."""
        await self._queries.enqueue("mark", _payload(number))

    async def bulk(self, numbers: Sequence[int]) -> None:
        """One statement."""
        many = len(numbers)
        await self._queries.enqueue(["noop"] * many, [_payload(number) for number in numbers], [0] * many)


peer = PgQueuerPeer()

if __name__ == "__main__":
    uvloop.run(pgqueuer.run(create, batch_size=BATCH))
