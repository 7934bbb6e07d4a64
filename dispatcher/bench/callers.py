"""What enqueueing costs a caller, kind by kind, in a process of its own: ``python -m dispatcher.bench.callers CALLS``.

For each kind of session blocks of transactions take turns: one bare ``INSERT`` each, one task each.  Prints ``ready``,
waits for one line, prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from dispatcher.bench.cpu import cpu_of_tree
from dispatcher.bench.tasks import app, noop
from dispatcher.settings import Settings
from state.ids import new_id
from state.sql import check_schema

__all__ = ["BARE", "POSTGRES", "main"]

BARE = "bench_bare"
"""The table of the bare INSERT: an id and the same arguments, and nothing else."""
POSTGRES = "DISPATCHER_BENCH_POSTGRES_PID"
"""The environment variable with the server's process id, if it is ours."""
_BLOCKS = 8

Block = Callable[[int, bool], Awaitable[None]]
"""So many transactions, each with a task (``True``) or with a bare INSERT."""


class Callers:
    """The kinds of sessions, each with its blocks."""

    def __init__(self, url: str, schema: str) -> None:
        self._url, self._sql = url, f"INSERT INTO {check_schema(schema)}.{BARE} (id, args) VALUES "
        self._args = noop.call(0).args
        self._alchemy = url.replace("postgresql://", "postgresql+psycopg://", 1)

    def _bare(self) -> dict[str, Any]:
        return {"id": new_id(), "args": self._args}

    async def psycopg(self, count: int, tasks: bool) -> None:
        with psycopg.connect(self._url) as connection:
            for number in range(count):
                if tasks:
                    noop.enqueue(connection, number)
                else:
                    connection.execute((self._sql + "(%(id)s, %(args)s)").encode(), self._bare())
                connection.commit()

    async def psycopg_async(self, count: int, tasks: bool) -> None:
        async with await psycopg.AsyncConnection.connect(self._url) as connection:
            for number in range(count):
                if tasks:
                    await noop.enqueue(connection, number)
                else:
                    await connection.execute((self._sql + "(%(id)s, %(args)s)").encode(), self._bare())
                await connection.commit()

    async def statement(self, count: int, tasks: bool) -> None:
        """``Call.statement()`` for a driver we do not know, here by psycopg."""
        with psycopg.connect(self._url) as connection:
            for number in range(count):
                if tasks:
                    sql, params = noop.call(number).statement(style="format")
                    connection.execute(sql.encode(), params)
                else:
                    connection.execute((self._sql + "(%(id)s, %(args)s)").encode(), self._bare())
                connection.commit()

    async def session(self, count: int, tasks: bool) -> None:
        engine, bare = create_engine(self._alchemy), text(self._sql + "(:id, :args)")
        for number in range(count):
            with Session(engine) as session, session.begin():
                if tasks:
                    noop.enqueue(session, number)
                else:
                    session.execute(bare, self._bare())
        engine.dispose()

    async def connection(self, count: int, tasks: bool) -> None:
        engine, bare = create_engine(self._alchemy), text(self._sql + "(:id, :args)")
        for number in range(count):
            with engine.begin() as connection:
                if tasks:
                    noop.enqueue(connection, number)
                else:
                    connection.execute(bare, self._bare())
        engine.dispose()

    async def async_session(self, count: int, tasks: bool) -> None:
        engine, bare = create_async_engine(self._alchemy), text(self._sql + "(:id, :args)")
        for number in range(count):
            async with AsyncSession(engine) as session, session.begin():
                if tasks:
                    await noop.enqueue(session, number)
                else:
                    await session.execute(bare, self._bare())
        await engine.dispose()

    async def async_connection(self, count: int, tasks: bool) -> None:
        engine, bare = create_async_engine(self._alchemy), text(self._sql + "(:id, :args)")
        for number in range(count):
            async with engine.begin() as connection:
                if tasks:
                    await noop.enqueue(connection, number)
                else:
                    await connection.execute(bare, self._bare())
        await engine.dispose()

    @property
    def kinds(self) -> dict[str, Block]:
        """By the name that a person would use."""
        return {
            "psycopg": self.psycopg,
            "psycopg async": self.psycopg_async,
            "Call.statement()": self.statement,
            "Connection": self.connection,
            "Session": self.session,
            "AsyncConnection": self.async_connection,
            "AsyncSession": self.async_session,
        }


def _server_cpu(postgres: int | None) -> float:
    """Seconds of the server, once the backend of the last block has ended: while it does it is counted nowhere."""
    if postgres is None:
        return 0.0
    before = -1.0
    while (now := cpu_of_tree(postgres)) != before:
        before = now
        time.sleep(0.03)
    return now


async def _measure(block: Block, count: int, postgres: int | None) -> dict[str, float | None]:
    """Microseconds per transaction: of the clock, of this process, of the server; medians of blocks in turn."""
    seen: dict[str, list[float]] = {}
    await block(20, True)
    await block(20, False)
    for number in range(_BLOCKS * 2):
        tasks = number % 2 == 1
        server = _server_cpu(postgres)
        wall, cpu = time.perf_counter(), time.process_time()
        await block(count, tasks)
        spent = {"wall_us": time.perf_counter() - wall, "cpu_us": time.process_time() - cpu}
        spent["server_us"] = _server_cpu(postgres) - server
        for name, seconds in spent.items():
            seen.setdefault(name if tasks else f"bare_{name}", []).append(seconds / count * 1e6)
    result: dict[str, float | None] = {}
    for name in ("wall_us", "cpu_us", "server_us"):
        known = name != "server_us" or postgres is not None
        for key in (f"bare_{name}", name):
            result[key] = round(median(seen[key]), 1) if known else None
    return result


async def _all(callers: Callers, count: int, postgres: int | None) -> dict[str, dict[str, float | None]]:
    return {name: await _measure(block, count, postgres) for name, block in callers.kinds.items()}


def main(arguments: list[str]) -> None:
    """Measure every kind."""
    settings = Settings()
    app.configure(settings)
    pid = os.environ.get(POSTGRES)
    callers = Callers(settings.database_url or "", settings.db_schema)
    print("ready", flush=True)
    if not sys.stdin.readline():
        raise SystemExit("the bench is gone")
    print(json.dumps(asyncio.run(_all(callers, int(arguments[0]) // _BLOCKS, int(pid) if pid else None))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
