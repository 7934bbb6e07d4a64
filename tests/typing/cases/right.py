"""Every use on this page must be accepted by mypy --strict and pyright."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, assert_type
from uuid import UUID

import psycopg
from pydantic import BaseModel, SecretStr
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from dispatcher import (
    AttemptLog,
    Call,
    Cancel,
    Dispatcher,
    Flow,
    FlowInfo,
    Resource,
    Retry,
    RetryIn,
    Secret,
    Snooze,
    Task,
    TaskInfo,
    TaskType,
    context,
    group,
)


class Receipt(BaseModel):
    order_id: int


app = Dispatcher("shop")


@app.task(queue="billing", retry=Retry(max_attempts=5, on=(OSError,)), timeout=30)
async def charge(order_id: int, *, currency: str = "EUR") -> Receipt:
    if order_id < 0:
        raise Cancel("no such order")
    if order_id == 0:
        raise RetryIn(30)
    return Receipt(order_id=order_id)


@app.task
def thumbnail(path: str, size: tuple[int, int] = (64, 64)) -> bytes:
    raise Snooze(timedelta(minutes=1))


@app.task()
def login(user: str, password: SecretStr, token: Annotated[str, Secret] = "") -> None: ...


def synchronous(
    session: Session,
    scoped: scoped_session[Session],
    connection: Connection,
    raw: psycopg.Connection[Any],
    rows: psycopg.Connection[dict[str, Any]],
) -> None:
    assert_type(charge.enqueue(session, 1), Task[Receipt])
    assert_type(charge.enqueue(scoped, 1, currency="USD"), Task[Receipt])
    assert_type(thumbnail.enqueue(connection, "a.png"), Task[bytes])
    assert_type(thumbnail.enqueue(raw, "a.png", (1, 2)), Task[bytes])
    assert_type(login.enqueue(rows, "u", password=SecretStr("x")), Task[None])
    task = charge.options(key="order-1", delay=timedelta(minutes=1), tags=["a"]).enqueue(session, 1)
    assert_type(task, Task[Receipt])
    assert_type(task.id, UUID)
    assert_type(task.created, bool)
    assert_type(task.wait_blocking(timeout=10), Receipt)
    assert_type(task.result(session), Receipt)
    assert_type(app.enqueue_many(session, (charge.call(i) for i in range(3))), list[Task[Receipt]])
    assert_type(app.enqueue_many(raw, [thumbnail.call("a")]), list[Task[bytes]])
    assert_type(app.get(session, task.id), TaskInfo)
    app.list(session, state="failed", limit=10)
    app.cancel(session, task.id)
    assert_type(app.logs(session, task.id), tuple[AttemptLog, ...])
    mixed: list[Call[Any]] = [charge.call(1), thumbnail.call("a")]
    assert_type(app.enqueue_many(session, mixed), list[Task[Any]])


async def asynchronous(
    session: AsyncSession,
    scoped: async_scoped_session[AsyncSession],
    connection: AsyncConnection,
    raw: psycopg.AsyncConnection[Any],
) -> None:
    assert_type(await charge.enqueue(session, 1), Task[Receipt])
    assert_type(await charge.enqueue(scoped, 1, currency="USD"), Task[Receipt])
    assert_type(await thumbnail.enqueue(connection, "a.png"), Task[bytes])
    task = await charge.options(run_at=datetime.now(UTC)).enqueue(raw, 1)
    assert_type(await task.wait(timeout=timedelta(seconds=1)), Receipt)
    assert_type(await task.result(session), Receipt)
    assert_type(await app.enqueue_many(session, [charge.call(1)]), list[Task[Receipt]])
    assert_type(await app.get(session, task.id), TaskInfo)
    await app.retry(connection, task.id)
    assert_type(await app.logs(connection, task.id), tuple[AttemptLog, ...])
    await asyncio.gather(charge.enqueue(session, 1), charge.enqueue(session, 2))
    later: Coroutine[Any, Any, Task[Receipt]] = charge.enqueue(session, 1)
    await later
    assert_type(await charge(1), Receipt)
    await app.close()


def calls() -> None:
    call = charge.call(1, currency="USD")
    assert_type(call, Call[Receipt])
    assert_type(call.options(queue="fast", lane="high", max_attempts=1), Call[Receipt])
    assert_type(call.statement(), tuple[str, list[Any]])
    call.statement(style="format")
    assert_type(thumbnail("a"), bytes)
    assert_type(charge.handle("01a20297-6d34-759c-868e-6eb6c00352d6"), Task[Receipt])


@app.resource
async def pool() -> AsyncIterator[Receipt]:
    yield Receipt(order_id=1)


@app.resource
def model() -> Iterator[int]:
    yield 1


@app.on_worker_start
async def warm_up() -> None: ...


@app.on_worker_stop
def cool_down() -> None: ...


@app.task(pool="process", soft_timeout=5, timeout=10, deadline=timedelta(hours=1))
def render(page: int) -> bytes:
    assert_type(pool.get(), Receipt)
    assert_type(model.get(), int)
    assert_type(pool, Resource[Receipt])
    cool_down()
    return b""


def generic(task_type: TaskType[[int], Receipt, Receipt], session: Session) -> Task[BaseModel]:
    return task_type.enqueue(session, 1)


@app.task
async def ship(receipt: Receipt, address: str) -> str:
    return address


@app.task
def total(receipts: list[Receipt]) -> int:
    return len(receipts)


def compositions(session: Session) -> None:
    chain = charge.call(1).then(ship, address="x")
    assert_type(chain.enqueue(session), Task[str])
    both = group(charge.call(1), charge.options(queue="q").call(2))
    assert_type(both.enqueue(session), Task[list[Receipt]])
    assert_type(both.then(total).enqueue(session), Task[int])
    assert_type(group(charge.call(i) for i in range(3)).then(total).enqueue(session), Task[int])
    assert_type(group(both, both).enqueue(session), Task[list[list[Receipt]]])
    assert_type(both.on_failure(thumbnail.call("a")).then(total).enqueue(session), Task[int])
    flow = Flow("order").add("a", charge.call(1)).add("b", ship.partial(address="x"), takes={"receipt": "a"})
    flow.add("c", both, after=["a"]).add("d", chain)
    assert_type(flow.enqueue(session), Task[dict[str, Any]])
    assert_type(app.flows.get(session, flow.enqueue(session).id), FlowInfo)


async def effects(engine: AsyncEngine) -> Receipt:
    receipt = Receipt(order_id=1)
    async with context().transaction(engine) as session:
        assert_type(session, AsyncSession)
        await charge.enqueue(session, 1)
        return context().returns(receipt)


async def steps() -> list[Receipt]:
    async with context().step("once") as step:
        if not step.done:
            step.result = 1
    return await context().gather("parts", charge.call(1), charge.call(2))
