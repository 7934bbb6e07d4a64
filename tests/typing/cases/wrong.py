"""Every line with ``# error`` must be rejected by mypy --strict and by pyright, and no other line."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from dispatcher import Dispatcher, Retry


class Receipt(BaseModel):
    order_id: int


app = Dispatcher("shop")


@app.task(queue="billing")
async def charge(order_id: int, *, currency: str = "EUR") -> Receipt:
    return Receipt(order_id=order_id)


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
