"""The service that publishes: ``python -m dispatcher.drill.client DIR``, a process of its own that may be killed.

It creates single tasks one by one, in bulk and with keys, rolls some transactions back, and cancels some tasks.
Now and then it makes a mistake: an ``await`` that is forgotten, arguments that do not fit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from dispatcher import Call, Task
from dispatcher.dev.ledger import Mark
from dispatcher.drill.mistakes import enqueue_unfit, forget_await
from dispatcher.drill.publisher import AWAY, Publisher, main
from dispatcher.drill.tasks import CANARY, TYPES, app

__all__ = ["Client"]

_BATCH = 25
_KINDS = ("work", "plain", "flaky", "sleepy", "long")
_WEIGHTS = (62, 20, 10, 5, 3)
_CANCEL_AFTER_SECONDS = 0.3
_MISTAKES = 20
"""Of so many transactions one has a forgotten await, and another one arguments that do not fit."""


class Client(Publisher):
    """Publishes single tasks of every kind."""

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self._to_cancel: deque[tuple[float, Task[int], int]] = deque()
        self._turn = 0

    @property
    def busy(self) -> bool:
        """Whether something is still to be cancelled."""
        return bool(self._to_cancel)

    def step(self) -> bool:
        """Cancel what is due."""
        if not self._to_cancel or self._to_cancel[0][0] > time.monotonic():
            return False
        self._cancel(*self._to_cancel.popleft()[1:])
        return True

    # creating -------------------------------------------------------------------------------------------------------

    def create(self, most: int) -> None:
        """One task, or a handful; alone, in bulk, or with a key; or a mistake."""
        self._turn += 1
        if self._turn % (_MISTAKES // 2) == 0:
            (self._forget if self._turn % _MISTAKES else self._misfit)()
            return
        dice = self.dice.random()
        number = min(_BATCH, most) if dice < 0.1 else 1
        calls = [self._call() for _ in range(number)]
        if dice > 0.8 and number == 1:
            self._keyed(*calls[0])
            return
        tasks = self.transaction(
            [order for order, _ in calls],
            lambda connection: app.enqueue_many(connection, [call for _, call in calls]),
            rolls_back=self.dice.random() < 0.06,
        )
        for task, (order, call) in zip(tasks, calls, strict=False):
            if call.name == "long":
                self._to_cancel.append((time.monotonic() + _CANCEL_AFTER_SECONDS, task, order))

    def _forget(self) -> None:
        """Two tasks, of which one is not awaited: whatever happens, neither may be there."""
        (kept, first), (lost, second) = self._call(), self._call()
        tried: list[Task[int]] = []

        def try_(task: Task[int]) -> None:
            tried.append(task)
            self.write(Mark.TRY, tried, [kept])

        try:
            asyncio.run(forget_await(self.url, first, second, try_))
        finally:
            self.write(Mark.ROLLED_BACK, tried or [None], [kept])
            self.write(Mark.ROLLED_BACK, [None], [lost])

    def _misfit(self) -> None:
        self.order += 1
        self.write(Mark.UNFIT, [None], [self.order])
        self.transaction([self.order], lambda connection: [enqueue_unfit(connection, self.plan["schema"], self.order)])

    def _call(self) -> tuple[int, Call[int]]:
        self.order += 1
        kind = self.dice.choices(_KINDS, _WEIGHTS)[0]
        seconds = (
            self.dice.uniform(0.8, 2.0) if self.dice.random() < self.plan["slow"] else self.dice.uniform(0.01, 0.3)
        )
        call = TYPES[kind].call(self.order, round(seconds, 3), CANARY)
        return self.order, call.options(delay=0.4) if self.dice.random() < 0.04 else call

    def _keyed(self, order: int, call: Call[int]) -> None:
        """With a key a lost answer costs nothing: the same call again finds the task or makes it."""
        connection = self.open()
        keyed = call.options(key=f"order-{order}")
        try:
            task = keyed.enqueue(connection)
            self.write(Mark.TRY, [task], [order])
            connection.commit()
        except AWAY:
            self.lose()
            task = self.patiently(lambda again: self._tried(keyed.enqueue(again), order))
        self.write(Mark.COMMITTED, [task], [order])
        self.made += 1
        again = self.patiently(keyed.enqueue)
        same = again.id == task.id and not again.created
        self.write(Mark.SAME_KEY if same else Mark.OTHER_TASK, [again], [order])

    def _tried(self, task: Task[int], order: int) -> Task[int]:
        self.write(Mark.TRY, [task], [order])
        return task

    # cancelling -----------------------------------------------------------------------------------------------------

    def _cancel(self, task: Task[int], order: int) -> None:
        """The answer counts when its commit did; a lost one is asked for again by whoever wants to know."""
        connection = self.open()
        [answer] = app.cancel(connection, task.id, actor="drill")
        connection.commit()
        if answer.outcome == "cancelled":
            self.write(Mark.CANCELLED, [task], [order])
        elif answer.outcome == "cancel_requested":
            self.write(Mark.CANCEL_ASKED, [task], [order])


if __name__ == "__main__":
    main(Client)
