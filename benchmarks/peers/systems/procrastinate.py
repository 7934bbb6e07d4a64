"""procrastinate: PostgreSQL alone, a stored procedure per job, LISTEN/NOTIFY, psycopg."""

from __future__ import annotations

import os
from collections.abc import Sequence

import procrastinate
import psycopg

from benchmarks.peers import tally
from benchmarks.peers.peer import DATABASE_URL, PAYLOAD, About

CONCURRENCY, POOL = 20, 20

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=os.environ[DATABASE_URL], min_size=POOL, max_size=POOL)
)


@app.task(name="noop")
async def noop(number: int, text: str) -> None:
    """Count."""
    tally.count()


@app.task(name="mark")
async def mark(number: int, text: str) -> None:
    """Note the start."""
    tally.note(number)


class ProcrastinatePeer:
    """``procrastinate worker`` as the documentation starts it."""

    about = About(
        name="procrastinate",
        packages=("procrastinate", "psycopg", "psycopg-binary"),
        keeps="row with state, an event per transition; no result",
        settings=(
            (f"--concurrency {CONCURRENCY} (default 1)", "procrastinate docs: execute multiple jobs at the same time"),
            (f"a pool of {POOL} connections: not smaller than the concurrency", "procrastinate issue 241, pull 206"),
            ("psycopg with its C speed-ups (psycopg[binary])", "procrastinate docs/howto/basics/connector.md"),
            ("--delete-jobs never (default)", "procrastinate docs/howto/production/delete_finished_jobs.md"),
            ("bulk: batch_defer_async, 500 a call", "procrastinate docs/howto/basics/batch_defer.md"),
        ),
        left="SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')",
        atomic=True,
    )

    def processes(self, workers: int) -> list[list[str]]:
        """One ``procrastinate worker`` each."""
        common = ["-m", "procrastinate", "--log-level", "warning", "--app", f"{__name__}.app"]
        return [[*common, "worker", "--concurrency", str(CONCURRENCY)]] * workers

    async def setup(self) -> None:
        """``procrastinate schema --apply``."""
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    async def open(self, clients: int) -> None:
        """The pool of the app, and connections of the callers' own."""
        await app.open_async()
        url = os.environ[DATABASE_URL]
        self._own = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(clients)]

    async def one(self, number: int) -> None:
        """One job."""
        await noop.defer_async(number=number, text=PAYLOAD)

    async def one_tx(self, number: int) -> None:
        """One job in a transaction of the caller."""
        connection = self._own.pop()
        async with connection.transaction():
            await noop.configure(connection=connection).defer_async(number=number, text=PAYLOAD)
        self._own.append(connection)

    async def mark(self, number: int) -> None:
        """One job that notes its start."""
        await mark.defer_async(number=number, text=PAYLOAD)

    async def bulk(self, numbers: Sequence[int]) -> None:
        """One statement."""
        await noop.batch_defer_async(*({"number": number, "text": PAYLOAD} for number in numbers))


peer = ProcrastinatePeer()
