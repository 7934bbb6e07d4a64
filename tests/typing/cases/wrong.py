"""Every line with ``# error`` must be rejected by mypy --strict and by pyright, and no other line."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from dispatcher import Dispatcher, Retry, Task, context, group


class Receipt(BaseModel):
    order_id: int


app = Dispatcher("shop")


@app.task(queue="billing")
async def charge(order_id: int, *, currency: str = "EUR") -> Receipt:
    return Receipt(order_id=order_id)


@app.task
async def ship(receipt: Receipt, address: str) -> str:
    return address


@app.task
def thumbnail(path: str) -> bytes:
    return path.encode()


def synchronous(session: Session, raw: psycopg.Connection[Any]) -> None:
    charge.enqueue(session, "one")  # error: wrong type of an argument
    charge.enqueue(session)  # error: an argument is missing
    charge.enqueue(1)  # error: the session was forgotten
    charge.enqueue("postgresql://", 1)  # error: no session
    charge.enqueue(session, 1, curency="USD")  # error: misspelt argument
    charge.enqueue(session, 1, "USD")  # error: keyword-only argument by position
    charge.enqueue(session, 1).wait_blocking().total  # error: no such field of the result
    charge.call("one")  # error: wrong type of an argument
    charge.options(qeue="x")  # error: misspelt option
    charge.options(delay="5")  # error: wrong type of an option
    charge.options(max_attempts="5")  # error: wrong type of an option
    charge.call(1).options(keyy="x")  # error: misspelt option
    app.enqueue_many(session, [charge])  # error: a task type is no call
    app.get(session, 5)  # error: no task id
    app.list(session, status="failed")  # error: misspelt filter
    thumbnail(5)  # error: wrong type of an argument
    value: str = charge.enqueue(raw, 1).result(session)  # error: the result is a Receipt
    print(value)


async def asynchronous(session: AsyncSession, sync: Session) -> None:
    charge.enqueue(session, 1)  # error: not awaited
    app.enqueue_many(session, [charge.call(1)])  # error: not awaited
    charge(1)  # error: not awaited
    await charge.enqueue(sync, 1)  # error: nothing to await
    task = await charge.enqueue(session, 1)
    task.wait()  # error: not awaited
    await thumbnail("a")  # error: nothing to await
    app.cancel(session, task.id)  # error: not awaited


@app.task(queu="x")  # error: misspelt option
def misspelt() -> None: ...


@app.task(retry=3)  # error: a number is no policy
def no_policy() -> None: ...


Retry(max_attempt=3)  # error: misspelt option
RUN_AT: datetime = charge.call(1).enqueue  # error: a method


def compositions(session: Session) -> None:
    charge.call(1).then(thumbnail)  # error: a Receipt is no file name
    charge.call(1).then(ship, adress="x")  # error: misspelt argument
    charge.call(1).then(ship)  # error: an argument is missing
    group(charge.call(1)).then(ship, address="x")  # error: a list of Receipts is no Receipt
    group(charge, charge)  # error: task types are no calls
    charge.call(1).then(ship.call(1))  # error: its first argument is no number
    value: Task[int] = charge.call(1).then(ship, address="x").enqueue(session)  # error: the result is text
    print(value)


async def asynchronous_compositions(session: AsyncSession) -> None:
    group(charge.call(1)).enqueue(session)  # error: not awaited
    with context().transaction(create_engine("")) as sync:
        sync.executee()  # error: no such method of a Session
