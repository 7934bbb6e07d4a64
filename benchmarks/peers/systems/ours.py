"""This project: relay and workers, psycopg, everything as installed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import psycopg

from benchmarks.peers import tally
from benchmarks.peers.peer import DATABASE_URL, PAYLOAD, About
from dispatcher.app import Dispatcher
from state.migrate import upgrade

app = Dispatcher("peers")


@app.task(name="peers.noop")
async def noop(number: int, text: str) -> None:
    """Count."""
    tally.count()


@app.task(name="peers.mark")
async def mark(number: int, text: str) -> None:
    """Note the start."""
    tally.note(number)


class Ours:
    """The same public interface that an application uses."""

    about = About(
        name="dispatcher",
        packages=("jetstream-dispatcher", "psycopg", "nats-py", "uvloop"),
        keeps="row with state and result, an event per transition, counters",
        settings=(
            ("dispatcher relay, dispatcher worker -c 100", "README.md"),
            ("uvloop, the extra speed, which relay and worker take when it is installed", "docs/operating.md"),
            ("bulk: enqueue_many, 500 a call", "docs/architecture.md"),
        ),
        left="SELECT (SELECT count(*) FROM dispatcher.outbox)"
        " + (SELECT coalesce(sum(n), 0) FROM dispatcher.task_counts WHERE state <> 6)",
        atomic=True,
    )

    def __init__(self) -> None:
        self._free: list[psycopg.AsyncConnection[Any]] = []

    def processes(self, workers: int) -> list[list[str]]:
        """One relay whatever the number of workers."""
        worker = ["-m", "dispatcher", "worker", "benchmarks.peers.systems.ours:app", "-c", "100"]
        return [["-m", "dispatcher", "relay"], *[worker] * workers]

    async def setup(self) -> None:
        """Migrations."""
        await asyncio.to_thread(upgrade, os.environ[DATABASE_URL], "dispatcher")

    async def open(self, clients: int) -> None:
        """A connection for each client."""
        url = os.environ[DATABASE_URL]
        self._free = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(clients)]

    async def one(self, number: int) -> None:
        """One statement on a connection in autocommit."""
        connection = self._free.pop()
        await noop.enqueue(connection, number, PAYLOAD)
        self._free.append(connection)

    async def one_tx(self, number: int) -> None:
        """With the caller's BEGIN and COMMIT around it."""
        connection = self._free.pop()
        async with connection.transaction():
            await noop.enqueue(connection, number, PAYLOAD)
        self._free.append(connection)

    async def mark(self, number: int) -> None:
        """One statement that creates a task that notes its start."""
        connection = self._free.pop()
        await mark.enqueue(connection, number, PAYLOAD)
        self._free.append(connection)

    async def bulk(self, numbers: Sequence[int]) -> None:
        """One statement."""
        await app.enqueue_many(self._free[-1], [noop.call(number, PAYLOAD) for number in numbers])


peer = Ours()
