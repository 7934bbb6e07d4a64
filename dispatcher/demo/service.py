"""The service that publishes: ``python -m dispatcher.demo.service DIR``, a process of its own.

It writes orders into its own table and tasks into ours, in one transaction each, and rolls some back on purpose.
First a warm-up and some paced transactions for the latency, then as many as it can; before its last tenth it waits for
a line on standard input, so that all kills fall into its work.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from dispatcher import Task
from dispatcher.demo.tasks import TYPES, app
from dispatcher.demo.work import kind_of
from dispatcher.dev.ledger import Mark, Writer

__all__ = ["PACED", "WARM_UP", "Service", "phases"]

WARM_UP = 40
PACED = 200
_PACE_SECONDS = 0.02
_BATCH = 25
_HELD_BACK = 0.1


class Declined(Exception):
    """The reason for a rollback: the customer's card was declined."""


class Order(NamedTuple):
    """One order: a file and what is to be made of it."""

    id: int
    file: str


def phases(tasks: int) -> tuple[int, int, int]:
    """How many tasks are for warming up, for measuring the latency, and for the bulk."""
    warm_up = min(WARM_UP, tasks // 10)
    paced = min(PACED, tasks // 2)
    return warm_up, paced, tasks - warm_up - paced


class Service:
    """Publishes until ``tasks`` orders are committed."""

    def __init__(self, root: Path, tasks: int, seed: int, database_url: str, shop: str) -> None:
        self._dice = random.Random(seed)
        self._files = sorted(path.name for path in (root / "files").iterdir())
        self._ledger = Writer(root / "ledger", "service")
        self._ids = count(1)
        self._tasks = tasks
        self._insert = f"INSERT INTO {shop}.orders (id, file, task_id) VALUES (%s, %s, %s)".encode()
        self._insert_named = text(f"INSERT INTO {shop}.orders (id, file, task_id) VALUES (:id, :file, :task)")
        self._connection: psycopg.Connection[Any] = psycopg.connect(database_url, application_name="demo service")
        plain = database_url.replace("postgresql://", "postgresql+psycopg://", 1)
        self._engine = create_engine(plain, pool_size=1)

    def run(self) -> None:
        """All three phases."""
        warm_up, paced, bulk = phases(self._tasks)
        for number in range(warm_up):
            self._paced(Mark.COMMITTED, time.monotonic() + (_PACE_SECONDS if number else 0.0))
        start = time.monotonic()
        for number in range(paced):
            self._paced(Mark.PACED, start + number * _PACE_SECONDS)
        done, told = 0, False
        while done < bulk:
            if done >= bulk * (1 - _HELD_BACK) and not told:
                print("waiting", flush=True)
                sys.stdin.readline()
                told = True
            done += self._transaction(bulk - done)

    def _order(self) -> Order:
        return Order(next(self._ids), self._dice.choice(self._files))

    def _paced(self, mark: str, at: float) -> None:
        order = self._order()
        time.sleep(max(0.0, at - time.monotonic()))
        with self._connection.transaction():
            task = self._write(self._connection, order)
        self._ledger.write(mark, task.id, 1, order.id)  # first thing after the commit returned

    def _transaction(self, most: int) -> int:
        """One transaction of a random kind, and sometimes its rollback; returns how many orders were committed."""
        dice = self._dice.random()
        if dice < 0.12:
            orders = [self._order() for _ in range(min(_BATCH, most))]
            return self._batch(orders)
        order = self._order()
        if dice < 0.25:
            return self._with_sqlalchemy(order)
        if dice < 0.40:
            return self._with_key(order)
        return self._single(order)

    def _declined(self) -> bool:
        return self._dice.random() < 0.06

    def _write(self, connection: psycopg.Connection[Any], order: Order, **options: Any) -> Task[str]:
        """The task first and the order second, or the other way round: in one transaction it is all the same."""
        task = TYPES[kind_of(order.file)].options(**options).enqueue(connection, order.id, order.file)
        connection.execute(self._insert, (order.id, order.file, task.id))
        return task

    def _single(self, order: Order) -> int:
        task: Task[str] | None = None
        try:
            with self._connection.transaction():
                if order.id % 2 and self._declined():
                    raise Declined  # before anything was written
                task = self._write(self._connection, order)
                if self._declined():
                    raise Declined
        except Declined:
            return self._rolled_back([order], [task])
        return self._committed([order], [task])

    def _with_key(self, order: Order) -> int:
        """The same request twice, as from a client that tried again: the second finds the first one's task."""
        key = f"order-{order.id}"
        kind = TYPES[kind_of(order.file)]
        with self._connection.transaction():
            task = self._write(self._connection, order, key=key)
        self._committed([order], [task])
        with self._connection.transaction():
            again = kind.options(key=key).enqueue(self._connection, order.id, order.file)
        same = again.id == task.id and not again.created
        self._ledger.write(Mark.SAME_KEY if same else Mark.OTHER_TASK, again.id, 1, order.id)
        return 1

    def _with_sqlalchemy(self, order: Order) -> int:
        task: Task[str] | None = None
        try:
            with Session(self._engine) as session, session.begin():
                task = TYPES[kind_of(order.file)].enqueue(session, order.id, order.file)
                session.execute(self._insert_named, {"id": order.id, "file": order.file, "task": task.id})
                if self._declined():
                    raise Declined
        except Declined:
            return self._rolled_back([order], [task])
        return self._committed([order], [task])

    def _batch(self, orders: list[Order]) -> int:
        tasks: list[Task[str]] = []
        try:
            with self._connection.transaction():
                calls = (TYPES[kind_of(order.file)].call(order.id, order.file) for order in orders)
                tasks = app.enqueue_many(self._connection, calls)
                rows = [(order.id, order.file, task.id) for order, task in zip(orders, tasks, strict=True)]
                self._connection.cursor().executemany(self._insert, rows)
                if self._declined():
                    raise Declined
        except Declined:
            return self._rolled_back(orders, tasks)
        return self._committed(orders, tasks)

    def _committed(self, orders: list[Order], tasks: list[Any]) -> int:
        for order, task in zip(orders, tasks, strict=True):
            self._ledger.write(Mark.COMMITTED, task.id, 1, order.id)
        return len(orders)

    def _rolled_back(self, orders: list[Order], tasks: list[Any]) -> int:
        for order, task in zip(orders, tasks, strict=True):
            self._ledger.write(Mark.ROLLED_BACK, task and task.id, 1, order.id)
        return 0


def _main(root: Path) -> None:
    plan = json.loads((root / "demo.json").read_text())
    url = os.environ["DISPATCHER_DATABASE_URL"]
    Service(root, plan["tasks"], plan["seed"], url, plan["shop"]).run()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
