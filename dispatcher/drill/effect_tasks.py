"""The application of the drill ``effects``: handlers that move money between two accounts of their own tables.

What they write, the end of their task and the receipt that is to follow are one commit.
"""

from __future__ import annotations

import asyncio
import random
from typing import Annotated

from dispatcher import Dispatcher, Secret, context
from dispatcher.drill.sink import MARK
from dispatcher.drill.tasks import QUEUE, RETRY, noted

__all__ = ["BALANCE", "SCHEMA", "TABLES", "amount_of", "app", "transfer", "transfer_plain", "transfer_steps"]

SCHEMA = "drill_bank"
BALANCE = 1_000_000
"""Of each account at the beginning."""
TABLES = f"""
CREATE SCHEMA {SCHEMA};
COMMENT ON SCHEMA {SCHEMA} IS '{MARK}';
CREATE TABLE {SCHEMA}.accounts (name text PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO {SCHEMA}.accounts VALUES ('a', {BALANCE}), ('b', {BALANCE});
CREATE TABLE {SCHEMA}.transfers (
    task_id uuid NOT NULL, part text NOT NULL, attempt int NOT NULL, amount bigint NOT NULL);
CREATE TABLE {SCHEMA}.receipts (transfer uuid NOT NULL, task_id uuid NOT NULL, attempt int NOT NULL);
"""
"""No unique keys: what is applied twice must show, not fail."""
_MOVE = f"UPDATE {SCHEMA}.accounts SET balance = balance + %s WHERE name = %s"
_NOTE = f"INSERT INTO {SCHEMA}.transfers VALUES (%s, %s, %s, %s)"
_RECEIPT = f"INSERT INTO {SCHEMA}.receipts VALUES (%s, %s, %s)"
_PAUSE_SECONDS = 0.05
"""At most; inside the transaction, before everybody else has to wait for the accounts."""
app = Dispatcher("drill")


def amount_of(order: int) -> int:
    """How much the transfer of an order moves; its result too."""
    return 1 + order * 7919 % 97


@app.task(name="transfer", queue=QUEUE, retry=RETRY)
async def transfer(order: int, canary: Annotated[str, Secret]) -> int:
    """A coroutine, in one transaction."""
    with noted(order) as task:
        amount = amount_of(order)
        async with task.transaction() as connection:
            await connection.execute(_NOTE, (task.task_id, "", task.attempt, amount))
            await receipt.enqueue(connection, str(task.task_id))
            await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS))
            await connection.execute(_MOVE, (-amount, "a"))
            await connection.execute(_MOVE, (amount, "b"))
            task.returns(amount)
        return amount


@app.task(name="transfer_plain", queue=QUEUE, retry=RETRY)
def transfer_plain(order: int, canary: Annotated[str, Secret]) -> int:
    """A plain function, in a thread."""
    with noted(order) as task:
        amount = amount_of(order)
        with task.transaction() as connection:
            connection.execute(_NOTE, (task.task_id, "", task.attempt, amount))
            receipt.enqueue(connection, str(task.task_id))
            connection.execute(_MOVE, (-amount, "a"))
            connection.execute(_MOVE, (amount, "b"))
            task.returns(amount)
        return amount


@app.task(name="transfer_steps", queue=QUEUE, retry=RETRY)
async def transfer_steps(order: int, canary: Annotated[str, Secret]) -> int:
    """In two steps; the receipt belongs to the second one."""
    with noted(order) as task:
        amount = amount_of(order)
        for part, account, sign in (("take", "a", -1), ("give", "b", 1)):
            async with task.step(part) as step:
                if not step.done:
                    await step.session.execute(_NOTE, (task.task_id, part, task.attempt, amount))
                    if part == "give":
                        await receipt.enqueue(step.session, str(task.task_id))
                    await step.session.execute(_MOVE, (sign * amount, account))
            await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS))
        return amount


@app.task(name="receipt", queue=QUEUE, retry=RETRY)
async def receipt(transfer: str) -> None:
    """What follows each transfer."""
    async with context().transaction() as connection:
        await connection.execute(_RECEIPT, (transfer, context().task_id, context().attempt))
