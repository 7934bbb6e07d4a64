"""What a careless service does: it forgets an ``await``, and it creates by SQL what the handler cannot take."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from dispatcher import Call, NotAwaited, Task
from dispatcher.drill.tasks import CANARY, QUEUE

__all__ = ["Unfit", "enqueue_unfit", "forget_await"]


class Unfit(NamedTuple):
    """A task whose stored arguments do not fit its type."""

    id: UUID


async def forget_await(database_url: str, kept: Call[Any], lost: Call[Any], tried: Callable[[Task[Any]], None]) -> None:
    """Enqueue both in one transaction and await one only: the commit has to raise, and neither task may exist.

    ``tried`` is told the task that was awaited, before the commit.
    """
    with suppress(NotAwaited):
        async with await psycopg.AsyncConnection.connect(
            database_url, application_name="drill client", connect_timeout=5
        ) as connection:
            tried(await kept.enqueue(connection))
            forgotten = lost.enqueue(connection)
    forgotten.close()  # or Python would say in the log what is meant to happen here


def enqueue_unfit(connection: psycopg.Connection[Any], schema: str, order: int) -> Unfit:
    """A task of the type ``work`` that does not fit, its secret argument included: no error may show it."""
    arguments = json.dumps({"order": order, "seconds": "soon", "canary": [CANARY]})
    create = f"SELECT id FROM {schema}.enqueue('work', %s, queue => %s)".encode()
    row = connection.execute(create, (arguments, QUEUE)).fetchone()
    assert row is not None
    return Unfit(row[0])
