"""Status on every kind of session: SQLAlchemy on three drivers, psycopg itself, synchronous and asynchronous."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from dispatcher import status
from dispatcher.errors import TaskNotFound
from dispatcher.task_info import Page
from state.ids import new_id
from tests.integration.made_tasks import Made, invariants


@pytest.fixture
def made(database_url: str) -> Iterator[Made]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Made(connection)
        invariants(connection)


def ids(page: Page) -> list[UUID]:
    return [task.id for task in page.tasks]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_on_sqlalchemy(made: Made, database_url: str, driver: str) -> None:
    task = made.failed(tags=("x",), key="k")
    engine = create_engine(database_url.replace("postgresql://", f"postgresql+{driver}://"))
    for open_ in (lambda: Session(engine), engine.connect):
        with open_() as tx:
            assert status.get(tx, task) == status.get(made.connection, task)
            assert ids(status.list_(tx, state=["failed", "queued"], tag="x", created_before=datetime.now(UTC))) == [
                task
            ]
            assert status.history(tx, task) == status.history(made.connection, task)
            assert status.counts(tx) == {"q": {"failed": 1}}
            assert status.retry(tx, [task])[0].outcome == "queued"
            assert status.cancel(tx, [task])[0].outcome == "cancelled"
            assert status.pause(tx, "q") and status.resume(tx, "q")
            tx.rollback()
    engine.dispose()


@asynccontextmanager
async def _async_tx(database_url: str, kind: str) -> AsyncIterator[Any]:
    if kind == "psycopg-connection":
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            yield connection
            await connection.rollback()
        return
    engine = create_async_engine(database_url.replace("postgresql://", f"postgresql+{kind}://"))
    async with AsyncSession(engine) as session:
        yield session
        await session.rollback()
    await engine.dispose()


@pytest.mark.parametrize("kind", ["psycopg-connection", "psycopg", "asyncpg"])
async def test_on_asynchronous_sessions(made: Made, database_url: str, kind: str) -> None:
    task = made.failed(tags=("x",))
    expected = status.get(made.connection, task)
    async with _async_tx(database_url, kind) as tx:
        assert await status.get(tx, task) == expected
        assert ids(await status.list_(tx, state="failed", tag="x")) == [task]
        assert [event.seq for event in await status.history(tx, task)] == [1, 2, 3]
        assert await status.counts(tx) == {"q": {"failed": 1}}
        assert (await status.queues(tx))[0].name == "q"
        assert (await status.retry(tx, [task]))[0].outcome == "queued"
        assert (await status.cancel(tx, task, actor="me"))[0].outcome == "cancelled"
        assert await status.pause(tx, "q", actor="me")
        assert await status.resume(tx, "q")
        with pytest.raises(TaskNotFound):
            await status.get(tx, new_id())
