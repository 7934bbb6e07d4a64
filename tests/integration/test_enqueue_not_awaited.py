"""A forgotten ``await`` is loud: the commit raises, nothing is committed, and the session goes on after a rollback."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine

from dispatcher import NotAwaited
from tests.integration import session_kinds as kinds
from tests.integration.shop import app, charge, tasks

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


@pytest.fixture(params=["psycopg", "asyncpg"])
async def engine(request: pytest.FixtureRequest, database_url: str) -> Any:
    engine = create_async_engine(database_url.replace("postgresql://", f"postgresql+{request.param}://"))
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("kind", kinds.ASYNC_TRANSACTIONAL)
async def test_the_commit_raises_and_nothing_is_committed(database_url: str, kind: str) -> None:
    with pytest.raises(NotAwaited, match="enqueue of 'charge': not awaited, so it was not done") as caught:
        async with kinds.ASYNC_TRANSACTIONAL[kind](database_url) as tx:
            await charge.enqueue(tx, 1)
            charge.enqueue(tx, 2)  # type: ignore[unused-coroutine]
    assert caught.value.calls == ["enqueue of 'charge'"]
    assert tasks(database_url) == []


@pytest.mark.parametrize("kind", kinds.ASYNC_TRANSACTIONAL)
async def test_also_when_it_is_the_only_call(database_url: str, kind: str) -> None:
    with pytest.raises(NotAwaited):
        async with kinds.ASYNC_TRANSACTIONAL[kind](database_url) as tx:
            app.enqueue_many(tx, [charge.call(1)])  # type: ignore[unused-coroutine]


@pytest.mark.parametrize("kind", kinds.ASYNC_TRANSACTIONAL)
async def test_awaited_later_or_together_is_fine(database_url: str, kind: str) -> None:
    async with kinds.ASYNC_TRANSACTIONAL[kind](database_url) as tx:
        later = charge.enqueue(tx, 1)
        await charge.enqueue(tx, 2)
        await later
        await asyncio.create_task(charge.enqueue(tx, 3))
    assert len(tasks(database_url)) == 3


async def test_a_session_goes_on_after_its_rollback(database_url: str, engine: Any) -> None:
    async with AsyncSession(engine) as session:
        charge.enqueue(session, 1)  # type: ignore[unused-coroutine]
        with pytest.raises(NotAwaited):
            await session.commit()
        await session.rollback()
        await charge.enqueue(session, 2)
        await session.commit()
        charge.enqueue(session, 3)  # type: ignore[unused-coroutine]
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("SELECT 1"))
    assert len(tasks(database_url)) == 1


async def test_other_sessions_are_not_affected(database_url: str, engine: Any) -> None:
    async with AsyncSession(engine) as one, AsyncSession(engine) as two:
        charge.enqueue(one, 1)  # type: ignore[unused-coroutine]
        await charge.enqueue(two, 2)
        await two.commit()
    assert len(tasks(database_url)) == 1


async def test_the_end_of_a_savepoint_does_not_raise_yet(database_url: str, engine: Any) -> None:
    async with AsyncSession(engine) as session, session.begin():
        later = charge.enqueue(session, 1)
        async with session.begin_nested():
            await charge.enqueue(session, 2)
        await later
    assert len(tasks(database_url)) == 2


async def test_sessions_of_the_users_own_class(database_url: str, engine: Any) -> None:
    class Own(AsyncSession): ...

    with pytest.raises(NotAwaited):
        async with async_sessionmaker(engine, class_=Own).begin() as session:
            charge.enqueue(session, 1)  # type: ignore[unused-coroutine]
    scoped = async_scoped_session(async_sessionmaker(engine, class_=Own), scopefunc=asyncio.current_task)
    charge.enqueue(scoped, 1)  # type: ignore[unused-coroutine]
    with pytest.raises(NotAwaited):
        await scoped.commit()
    await scoped.remove()


async def test_a_connection_does_not_commit_the_rest_later(database_url: str, engine: Any) -> None:
    async with engine.connect() as connection:
        await charge.enqueue(connection, 1)
        charge.enqueue(connection, 2)
        with pytest.raises(NotAwaited):
            await connection.commit()
        await connection.rollback()
        await charge.enqueue(connection, 3)
        await connection.commit()
    (task,) = tasks(database_url)
    assert task["args"] == b'{"order_id":3}'


async def test_a_connection_of_psycopg_goes_on_after_its_rollback(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        charge.enqueue(connection, 1)  # type: ignore[unused-coroutine]
        await connection.rollback()
        await charge.enqueue(connection, 2)
        await connection.commit()
        charge.enqueue(connection, 3)  # type: ignore[unused-coroutine]
        with pytest.raises(NotAwaited):
            await connection.commit()
        await connection.commit()
    assert len(tasks(database_url)) == 1


async def test_a_pool_of_psycopg(database_url: str) -> None:
    async with AsyncConnectionPool(database_url, min_size=1, max_size=1) as pool:
        with pytest.raises(NotAwaited):
            async with pool.connection() as connection:
                charge.enqueue(connection, 1)  # type: ignore[unused-coroutine]
        # the end of the block of a transaction is not covered, but going back to the pool is
        with pytest.raises(NotAwaited):
            async with pool.connection() as connection, connection.transaction():
                charge.enqueue(connection, 1)  # type: ignore[unused-coroutine]
        async with pool.connection() as connection:
            await charge.enqueue(connection, 2)
    assert len(tasks(database_url)) == 1


async def test_changes_through_the_app_are_guarded_too(database_url: str, engine: Any) -> None:
    async with AsyncSession(engine) as session, session.begin():
        task = await charge.enqueue(session, 1)
    with pytest.raises(NotAwaited, match="cancel: not awaited"):
        async with AsyncSession(engine) as session, session.begin():
            app.cancel(session, task.id)  # type: ignore[unused-coroutine]
