"""The producers, as a process of their own: ``python -m dispatcher.bench.produce KIND FIRST SECOND``.

Prints ``ready``, waits for one line, works, prints one JSON object.  Everything goes through the public
API or the SQL function ``enqueue``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg

from dispatcher.bench.tasks import app, mark, noop
from dispatcher.loop import run
from state.sql import DEFAULT_SCHEMA, check_schema

__all__ = ["STEADY", "bulk", "paced", "single", "steady"]

STEADY = 100
"""Tasks per transaction of the steady producer."""


def _go() -> None:
    print("ready", flush=True)
    if not sys.stdin.readline():
        raise SystemExit("the bench is gone")


def bulk(url: str, tasks: int, per_transaction: int) -> dict[str, Any]:
    """Create ``tasks`` tasks, so many per transaction; when the first commit was sent and the last one returned."""
    with psycopg.connect(url) as connection:
        app.enqueue_many(connection, [noop.call(0)])
        connection.rollback()  # everything is imported and prepared now, and nothing was created
        _go()
        used, first = time.process_time(), 0
        for start in range(0, tasks, per_transaction):
            calls = [noop.call(number) for number in range(start, min(tasks, start + per_transaction))]
            app.enqueue_many(connection, calls)
            first = first or time.monotonic_ns()
            connection.commit()
        return {"first": first, "last": time.monotonic_ns(), "cpu": time.process_time() - used}


async def single(url: str, tasks: int, clients: int) -> dict[str, Any]:
    """Create ``tasks`` tasks, one explicit transaction each, over ``clients`` connections at a time."""
    left = iter(range(tasks))
    first = 0

    async def client(connection: psycopg.AsyncConnection[Any]) -> None:
        nonlocal first
        for number in left:
            async with connection.transaction():
                await noop.enqueue(connection, number)
                first = first or time.monotonic_ns()

    connections = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(clients)]
    for connection in connections:
        async with connection.transaction(force_rollback=True):
            await noop.enqueue(connection, 0)
    await asyncio.to_thread(_go)
    used = time.process_time()
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(client(connection))
    done = {"first": first, "last": time.monotonic_ns(), "cpu": time.process_time() - used}
    for connection in connections:
        await connection.close()
    return done


def steady(url: str, rate: float, seconds: float) -> dict[str, Any]:
    """Create ``rate`` tasks a second in bulk, a hundred per transaction; how many that were and how fast they came.

    A commit that comes late is made up for: the rate is kept unless the database cannot.
    """
    with psycopg.connect(url) as connection:
        app.enqueue_many(connection, [noop.call(0)])
        connection.rollback()
        _go()
        size = max(1, min(STEADY, round(rate)))
        total = max(1, round(rate * seconds / size))
        begun = time.monotonic()
        for number in range(total):
            time.sleep(max(0.0, begun + number * size / rate - time.monotonic()))
            app.enqueue_many(connection, [noop.call(number) for number in range(size)])
            connection.commit()
        return {"created": total * size, "per_s": round(total * size / (time.monotonic() - begun), 1)}


def paced(url: str, rate: float, seconds: float, create: Callable[[psycopg.Connection[Any]], str]) -> dict[str, Any]:
    """Create one task per transaction at ``rate`` a second; when the commit of each one returned.

    The gaps vary between half and one and a half of the mean, so that no timer of anybody falls in step with them.
    """
    commits: dict[str, int] = {}
    with psycopg.connect(url) as connection:
        create(connection)
        connection.rollback()
        _go()
        due = time.monotonic()
        for _ in range(max(1, round(rate * seconds))):
            due += random.uniform(0.5, 1.5) / rate
            time.sleep(max(0.0, due - time.monotonic()))
            task = create(connection)
            connection.commit()
            commits[task] = time.monotonic_ns()
    return {"commits": commits}


def _by_python(connection: psycopg.Connection[Any]) -> str:
    return str(mark.enqueue(connection).id)


def _by_sql(connection: psycopg.Connection[Any]) -> str:
    """As another language would do it."""
    schema = os.environ.get("DISPATCHER_DB_SCHEMA", DEFAULT_SCHEMA)
    row = connection.execute(f"SELECT id FROM {check_schema(schema)}.enqueue(%s)".encode(), [mark.name]).fetchone()
    assert row is not None
    return str(row[0])


def main(arguments: list[str]) -> None:
    """Run the producer that the first argument names; the others are its numbers."""
    url = os.environ["DISPATCHER_DATABASE_URL"]
    kind, first, second = arguments
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "bulk": lambda: bulk(url, int(first), int(second)),
        "single": lambda: run(single(url, int(first), int(second))),
        "steady": lambda: steady(url, float(first), float(second)),
        "paced": lambda: paced(url, float(first), float(second), _by_python),
        "paced-sql": lambda: paced(url, float(first), float(second), _by_sql),
    }
    print(json.dumps(kinds[kind]()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
