"""A handler's own transaction: what it wrote, the task's end and what it enqueued are one commit, or nothing is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from dispatcher.effects import Step, Transaction, Work
from dispatcher.errors import ResultUnserialisable, StaleAttempt
from dispatcher.handle import Task
from tests.fixtures import flow_apps
from tests.fixtures.fleet import Fleet, until
from tests.fixtures.flow_apps import ACCOUNTS, app, balances
from tests.fixtures.patience import PATIENCE
from tests.integration.protocol_steps import Protocol


@pytest.fixture
async def bank(fleet: Fleet) -> AsyncIterator[Fleet]:
    fleet.connection.execute(ACCOUNTS)
    app.configure(fleet.settings)
    yield fleet
    await app.close()


def running(fleet: Fleet, task: Task[Any]) -> Work:
    """The work of an attempt that was claimed by hand."""
    with psycopg.connect(fleet.settings.database_url or "", autocommit=True) as connection:
        steps = Protocol(connection)
        session = steps.open()
        assert steps.claim(session, task.id) == [task.id]
    return Work(flow_apps.transfer.home, flow_apps.transfer.payload, task.id, fleet.row(task)["attempt"], session)


@pytest.mark.parametrize("kind", [flow_apps.transfer, flow_apps.transfer_plain])
async def test_effect_end_and_follow_up_are_one_commit(bank: Fleet, kind: Any) -> None:
    await bank.relay()
    await bank.worker(app)
    task = bank.enqueue(kind.call(5))
    assert await task.wait(PATIENCE) == 5
    assert balances(bank.connection) == (-5, 5)
    logs = await until(lambda: app.logs(bank.connection, task.id))
    assert [line.message for line in logs[0].lines] == ["moved 5"]
    await bank.all_finish(2)
    assert [row["transfer"] for row in bank.rows("SELECT transfer FROM receipts")] == [task.id]
    assert bank.count("task_events", "to_state = 6") == 2


async def test_in_a_child_process_too(bank: Fleet) -> None:
    await bank.relay()
    await bank.worker(app)
    task = bank.enqueue(flow_apps.transfer_in_process.call(2))
    assert await task.wait(PATIENCE) == 6
    assert balances(bank.connection) == (-6, 6)
    assert [(row["step"], row["attempt"]) for row in bank.rows("SELECT * FROM transfers")] == [("note", 1)]
    await until(lambda: [row["transfer"] for row in bank.rows("SELECT transfer FROM receipts")] == [task.id])
    assert bank.row(task)["tries"] == 2  # the child died once; waiting for a task consumes none
    logs = await until(lambda: app.logs(bank.connection, task.id))
    assert [line.message for line in logs[-1].lines] == ["moved 6"]


async def test_every_kind_of_session_commits_with_the_task(bank: Fleet) -> None:
    url = bank.settings.database_url or ""
    alchemy = "postgresql+psycopg" + url[url.index("://") :]
    write = "INSERT INTO transfers VALUES ('{}', 'x', 1, 1)"
    async_engine, engine = create_async_engine(alchemy), create_engine(alchemy)
    asyncpg = create_async_engine("postgresql+asyncpg" + url[url.index("://") :])
    async with AsyncConnectionPool(url, min_size=1, open=False) as pool:
        for database in (None, async_engine, async_sessionmaker(async_engine), asyncpg, pool):
            work = running(bank, task := bank.enqueue(flow_apps.transfer.call(1)))
            work.result = 7
            async with Transaction[Any](work, database) as session:
                statement: Any = write.format(task.id)
                await session.execute(text(statement) if hasattr(session, "add") else statement)
            assert bank.state(task) == "succeeded" and await task.wait(PATIENCE) == 7
    with ExitStack() as stack:
        sync_pool = stack.enter_context(ConnectionPool(url, min_size=1, kwargs={"autocommit": True}))
        for sync_database in (None, engine, sessionmaker(engine), sync_pool):
            work = running(bank, task := bank.enqueue(flow_apps.transfer.call(1)))
            work.result = 8
            with Transaction[Any](work, sync_database) as session:
                statement = write.format(task.id)
                session.execute(text(statement) if hasattr(session, "add") else statement)
            assert bank.state(task) == "succeeded"
    assert bank.rows("SELECT count(*) AS n FROM transfers")[0]["n"] == 9
    await async_engine.dispose()
    await asyncpg.dispose()
    engine.dispose()


async def test_a_stale_attempts_transaction_rolls_back_whole(bank: Fleet) -> None:
    work = running(bank, task := bank.enqueue(flow_apps.transfer.call(1)))
    work.result = 1
    events = bank.count("task_events")
    for field, wrong in (("attempt", 2), ("session", work.session + 1)):
        right = getattr(work, field)
        setattr(work, field, wrong)
        with pytest.raises(StaleAttempt, match="nothing was written here"):
            async with Transaction[Any](work, None) as connection:
                await connection.execute(f"INSERT INTO transfers VALUES ('{task.id}', '', 1, 1)")
                await flow_apps.receipt.enqueue(connection, str(task.id))
        with pytest.raises(StaleAttempt):
            async with Step[Any](work, "s", None):
                pass
        setattr(work, field, right)
    assert bank.rows("SELECT * FROM transfers") == [] and bank.count("task_steps") == 0
    assert (bank.count("tasks"), bank.count("task_events"), bank.state(task)) == (1, events, "running")


async def test_an_error_in_the_block_or_a_wrong_result_rolls_back(bank: Fleet) -> None:
    work = running(bank, task := bank.enqueue(flow_apps.transfer.call(1)))
    for error, result in ((ZeroDivisionError, 1), (ResultUnserialisable, None)):
        work.result = result
        with pytest.raises(error):
            async with Transaction[Any](work, None) as connection:
                await connection.execute(f"INSERT INTO transfers VALUES ('{task.id}', '', 1, 1)")
                assert error is not ZeroDivisionError or 1 / 0
    assert bank.rows("SELECT * FROM transfers") == [] and bank.state(task) == "running" and not work.completed


class _LosesAnswers(AsyncConnectionPool[Any]):
    """The commit happens, or does not, and its answer is lost."""

    commits = True

    def connection(self, timeout: float | None = None) -> Any:
        inner, commits = super().connection(timeout), self.commits

        class Lossy:
            async def __aenter__(self) -> Any:
                self.connection = await inner.__aenter__()
                return self.connection

            async def __aexit__(self, *error: Any) -> None:
                if error[0] is not None or commits:
                    await inner.__aexit__(*error)
                else:
                    await self.connection.close()
                if error[0] is None:
                    raise psycopg.OperationalError("the connection is lost")

        return Lossy()


async def test_a_commit_whose_answer_was_lost_is_read_again(bank: Fleet) -> None:
    async with _LosesAnswers(bank.settings.database_url or "", min_size=1, open=False) as pool:
        for commits in (True, False):
            pool.commits = commits
            work = running(bank, task := bank.enqueue(flow_apps.transfer.call(1)))
            work.result = 1
            insert = f"INSERT INTO transfers VALUES ('{task.id}', '', 1, 1)"
            if commits:
                async with Transaction[Any](work, pool) as connection:
                    await connection.execute(insert)
            else:
                with pytest.raises(psycopg.OperationalError):
                    async with Transaction[Any](work, pool) as connection:
                        await connection.execute(insert)
            assert work.completed == commits
            assert (bank.state(task) == "succeeded") == commits
    assert len(bank.rows("SELECT * FROM transfers")) == 1


@pytest.mark.parametrize("how", ["fail_after", "exit_after"])
async def test_a_retry_goes_on_after_the_last_finished_step(bank: Fleet, how: str) -> None:
    bank.configure(lease=timedelta(seconds=2))
    await bank.relay()
    task = bank.enqueue(flow_apps.in_steps.call(3, **{how: "take"}))
    if how == "exit_after":
        process = bank.process("worker", "tests.fixtures.flow_apps:app", "-c", "2")
        assert await process.ended() == 9
    await bank.worker(app)
    assert await task.wait(PATIENCE) == ["take in attempt 1", "give in attempt 2"]
    assert balances(bank.connection) == (-3, 3)
