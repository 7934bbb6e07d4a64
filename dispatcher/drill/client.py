"""The service that publishes: ``python -m dispatcher.drill.client DIR``, a process of its own that may be killed.

It writes down what it is about to commit, and afterwards what became of it: committed, rolled back, certainly failed,
or unknown because the answer was lost.  It creates as many tasks as it was told on standard input, one number a line.
Started again it goes on behind the last order in its ledgers; what was under way when it died stays unknown.
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from dispatcher import Call, Task
from dispatcher.dev.ledger import Mark, Writer, read
from dispatcher.drill.tasks import CANARY, TYPES, app
from dispatcher.errors import OutboxFull

__all__ = ["Client", "main"]

_AWAY = (psycopg.OperationalError, psycopg.InterfaceError)
_AGAIN_SECONDS = 0.2
_BATCH = 25
_KINDS = ("work", "plain", "flaky", "sleepy", "long")
_WEIGHTS = (62, 20, 10, 5, 3)
_CANCEL_AFTER_SECONDS = 0.3


class Client:
    """Publishes until ``tasks`` orders are known to be committed."""

    def __init__(self, folder: Path, tasks: int, seed: int, slow: float, schema: str, database_url: str) -> None:
        before = list(read(folder, "client"))
        self._ledger = Writer(folder, "client")
        self._url, self._schema, self._tasks, self._slow = database_url, schema, tasks, slow
        self._made = sum(1 for line in before if line.mark == Mark.COMMITTED)
        self._order = max((line.order for line in before), default=0)
        self._dice = random.Random(f"{seed} {self._order}")
        self._allowed = 0
        self._connection: psycopg.Connection[Any] | None = None
        self._to_cancel: deque[tuple[float, Task[int], int]] = deque()

    def run(self) -> None:
        """Until everything is made and everything to be cancelled was."""
        while self._made < self._tasks or self._to_cancel:
            self._listen(wait=self._made >= self._allowed)
            try:
                if self._to_cancel and self._to_cancel[0][0] <= time.monotonic():
                    self._cancel(*self._to_cancel.popleft()[1:])
                elif self._made < min(self._allowed, self._tasks):
                    self._create(min(self._allowed, self._tasks) - self._made)
            except OutboxFull:
                time.sleep(_AGAIN_SECONDS)
            except _AWAY:
                self._lose()

    def _listen(self, *, wait: bool) -> None:
        """Read how many tasks may be made by now."""
        if select.select([0], [], [], 0.05 if wait else 0.0)[0]:
            lines = os.read(0, 65536).split()
            if not lines:
                sys.exit(0)  # whoever told us is gone
            self._allowed = int(lines[-1])

    def _lose(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        time.sleep(_AGAIN_SECONDS)

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._url, application_name="drill client", connect_timeout=5)
        return self._connection

    # creating -------------------------------------------------------------------------------------------------------

    def _create(self, most: int) -> None:
        dice = self._dice.random()
        number = min(_BATCH, most) if dice < 0.1 else 1
        calls = [self._call() for _ in range(number)]
        if dice > 0.8 and number == 1:
            self._keyed(*calls[0])
            return
        rolls_back = self._dice.random() < 0.06
        tasks = self._transaction(calls, rolls_back)
        self._made += len(tasks)
        for task, (order, call) in zip(tasks, calls, strict=False):
            if call.name == "long":
                self._to_cancel.append((time.monotonic() + _CANCEL_AFTER_SECONDS, task, order))

    def _call(self) -> tuple[int, Call[int]]:
        self._order += 1
        kind = self._dice.choices(_KINDS, _WEIGHTS)[0]
        seconds = self._dice.uniform(0.8, 2.0) if self._dice.random() < self._slow else self._dice.uniform(0.01, 0.3)
        call = TYPES[kind].call(self._order, round(seconds, 3), CANARY)
        return self._order, call.options(delay=0.4) if self._dice.random() < 0.04 else call

    def _transaction(self, calls: list[tuple[int, Call[int]]], rolls_back: bool = False) -> list[Task[int]]:
        """One transaction; an unknown outcome is read again by the tasks' ids.  Returns what is certainly committed."""
        connection = self._open()
        orders = [order for order, _ in calls]
        try:
            tasks = app.enqueue_many(connection, [call for _, call in calls])
        except _AWAY:
            return self._note(Mark.FAILED, [None] * len(orders), orders)  # nothing was committed: no COMMIT was sent
        self._write(Mark.TRY, tasks, orders)
        if rolls_back:
            connection.rollback()
            return self._note(Mark.ROLLED_BACK, tasks, orders)
        try:
            connection.commit()
        except _AWAY:
            self._write(Mark.UNKNOWN, tasks, orders)
            self._lose()
            return self._read_again(tasks, orders)
        self._write(Mark.COMMITTED, tasks, orders)
        return tasks

    def _read_again(self, tasks: list[Task[int]], orders: list[int]) -> list[Task[int]]:
        """Found is committed; not found stays unknown, since the lost commit may still be on its way."""
        ids = [task.id for task in tasks]
        find = f"SELECT count(*) FROM {self._schema}.tasks WHERE id = ANY (%s)".encode()
        found = self._patiently(lambda connection: connection.execute(find, (ids,)).fetchone())
        if found != (len(ids),):
            return []
        self._write(Mark.COMMITTED, tasks, orders)
        return tasks

    def _patiently(self, work: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        while True:
            try:
                connection = self._open()
                result = work(connection)
                connection.commit()
                return result
            except _AWAY:
                self._lose()

    def _keyed(self, order: int, call: Call[int]) -> None:
        """With a key a lost answer costs nothing: the same call again finds the task or makes it."""
        connection = self._open()
        keyed = call.options(key=f"order-{order}")
        try:
            task = keyed.enqueue(connection)
            self._write(Mark.TRY, [task], [order])
            connection.commit()
        except _AWAY:
            self._lose()
            task = self._patiently(lambda again: self._tried(keyed.enqueue(again), order))
        self._write(Mark.COMMITTED, [task], [order])
        self._made += 1
        again = self._patiently(keyed.enqueue)
        same = again.id == task.id and not again.created
        self._write(Mark.SAME_KEY if same else Mark.OTHER_TASK, [again], [order])

    def _tried(self, task: Task[int], order: int) -> Task[int]:
        self._write(Mark.TRY, [task], [order])
        return task

    # cancelling -----------------------------------------------------------------------------------------------------

    def _cancel(self, task: Task[int], order: int) -> None:
        """The answer counts when its commit did; a lost one is asked for again by whoever wants to know."""
        connection = self._open()
        [answer] = app.cancel(connection, task.id, actor="drill")
        connection.commit()
        if answer.outcome == "cancelled":
            self._write(Mark.CANCELLED, [task], [order])
        elif answer.outcome == "cancel_requested":
            self._write(Mark.CANCEL_ASKED, [task], [order])

    # ledger ---------------------------------------------------------------------------------------------------------

    def _write(self, mark: str, tasks: list[Task[int]], orders: list[int]) -> None:
        for task, order in zip(tasks, orders, strict=True):
            self._ledger.write(mark, task.id, 1, order)

    def _note(self, mark: str, tasks: list[Any], orders: list[int]) -> list[Task[int]]:
        for task, order in zip(tasks, orders, strict=True):
            self._ledger.write(mark, task and task.id, 1, order)
        return []


def main(root: Path) -> None:
    """Publish what the drill in ``root`` plans."""
    plan = json.loads((root / "drill.json").read_text())
    url = os.environ["DISPATCHER_DATABASE_URL"]
    Client(root / "ledger", plan["tasks"], plan["seed"], plan["slow"], plan["schema"], url).run()


if __name__ == "__main__":
    from dispatcher.drill import client  # by its name, under which a planted bug changes it

    client.main(Path(sys.argv[1]))
