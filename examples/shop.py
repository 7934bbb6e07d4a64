"""A small shop: orders and tasks in one transaction, from synchronous and from asynchronous code.

    dispatcher dev shop:app                       # terminal 1, in this folder: servers, relay, worker
    eval "$(dispatcher dev --env)"                # terminal 2, in this folder
    python shop.py

The first order is committed and charged, the second rolls back: neither the order nor its task ever existed.
"""

from __future__ import annotations

import asyncio
import os

from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dispatcher import Dispatcher, Retry, Task, context

app = Dispatcher("shop")


class Receipt(BaseModel):
    order_id: int
    cents: int
    tries: int


@app.task(queue="billing", retry=Retry(max_attempts=5, backoff=0.2), timeout=30)
async def charge(order_id: int, cents: int) -> Receipt:
    """A coroutine: runs on the worker's event loop."""
    context().progress(0.5, "talking to the bank")
    await asyncio.sleep(0.01)
    return Receipt(order_id=order_id, cents=cents, tries=context().tries)


@app.task(queue="mail")
def send_mail(to: str, subject: str) -> str:
    """A plain function: runs in a thread of the worker."""
    return f"sent {subject!r} to {to}"


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "example_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    cents: Mapped[int]


def database_url() -> str:
    url = os.environ["DISPATCHER_DATABASE_URL"]
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def place_order(session: Session, customer: str, cents: int) -> Task[Receipt]:
    """Order and task in the caller's transaction: both or neither."""
    order = Order(customer=customer, cents=cents)
    session.add(order)
    session.flush()
    send_mail.enqueue(session, customer, f"Your order {order.id}")
    return charge.options(key=f"order-{order.id}").enqueue(session, order.id, cents)


async def place_order_async(session: AsyncSession, customer: str, cents: int) -> Task[Receipt]:
    """The same with asynchronous SQLAlchemy; a forgotten await would make the commit raise."""
    order = Order(customer=customer, cents=cents)
    session.add(order)
    await session.flush()
    await send_mail.enqueue(session, customer, f"Your order {order.id}")
    return await charge.options(key=f"order-{order.id}").enqueue(session, order.id, cents)


def synchronous() -> None:
    engine = create_engine(database_url())
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        task = place_order(session, "ada@example.org", 4200)
    receipt = task.wait_blocking(timeout=30)
    print(f"charged {receipt.cents} cents for order {receipt.order_id}")

    try:
        with Session(engine) as session, session.begin():
            lost = place_order(session, "bob@example.org", 100)
            raise RuntimeError("the card was declined")
    except RuntimeError as error:
        print(f"rolled back ({error}): task {str(lost.id)[:8]} never existed")
    engine.dispose()


async def asynchronous() -> None:
    engine = create_async_engine(database_url())
    async with AsyncSession(engine) as session, session.begin():
        task = await place_order_async(session, "eve@example.org", 700)
    receipt = await task.wait(timeout=30)
    print(f"charged {receipt.cents} cents for order {receipt.order_id}, asynchronously")
    async with AsyncSession(engine) as session:
        info = await app.get(session, task.id)
        print(f"{info.type}: {info.state} after {info.tries} try")
    await engine.dispose()


if __name__ == "__main__":
    synchronous()
    asyncio.run(asynchronous())
    app.close_blocking()
