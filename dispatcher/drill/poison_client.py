"""The service of the drill ``poison``: ``python -m dispatcher.drill.poison_client DIR``.

It decides for itself when to create tasks: it keeps so many ordinary ones waiting that no worker is without work.  At
first there are no others; then poison tasks come, one after the end of another, until as many workers have died as were
asked for.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from dispatcher.dev.ledger import Mark, read
from dispatcher.drill.poison_tasks import NAME, app, poison
from dispatcher.drill.publisher import Publisher, main
from dispatcher.drill.tasks import CANARY, plain, work

__all__ = ["Client"]

_BACKLOG = 64
"""Ordinary tasks that wait at any time: twice the slots, so that messages in the hands of the dead leave enough."""
_BATCH = 25
_LOOK_SECONDS = 0.05
_SECONDS = (0.3, 0.9)
"""That an ordinary task takes: slots are to be scarce, not the machine."""
_DEADLY_SECONDS = (0.2, 0.8)
"""Until poison ends its process."""
_BEFORE_SECONDS = 7.0
"""Without poison at least, from the first success on."""
_LOOK = """
SELECT count(*) FILTER (WHERE y.name <> %(poison)s AND t.state = 3), count(*) FILTER (WHERE t.state = 6),
       count(*) FILTER (WHERE y.name = %(poison)s), count(*) FILTER (WHERE y.name = %(poison)s AND t.state < 6)
FROM {s}.tasks t JOIN {s}.types y ON y.id = t.type_id
"""


class _Seen(NamedTuple):
    waiting: int
    """Ordinary tasks."""
    succeeded: int
    poison: int
    """Poison tasks there are."""
    alive: int
    """Those that have not ended."""


class Client(Publisher):
    """Publishes a steady stream of ordinary tasks, and after a while poison beside it."""

    def __init__(self, folder: Path, plan: Any, database_url: str) -> None:
        super().__init__(folder, plan, database_url)
        self._folder = folder
        self._look_at = _LOOK.format(s=plan["schema"]).encode()
        self._begun: float | None = None
        """When the first success was seen."""
        self._through = False

    @property
    def busy(self) -> bool:
        """Whether poison is still to come or under way."""
        return not self._through

    def step(self) -> bool:
        """Look what there is, and create what is missing."""
        seen = self._look()
        self._through = self._through or (seen.poison > 0 and not seen.alive and self._deaths() >= self.plan["kills"])
        if self._poison_due(seen):
            self._poison()
        elif seen.waiting < _BACKLOG:
            self.create(_BACKLOG - seen.waiting)
        else:
            time.sleep(_LOOK_SECONDS)
        return True

    def create(self, most: int) -> None:
        """Some ordinary tasks in one transaction."""
        orders = [self.order + 1 + i for i in range(min(_BATCH, most))]
        self.order = orders[-1]
        kinds = self.dice.choices((work, plain), (3, 1), k=len(orders))
        calls = [
            kind.call(order, round(self.dice.uniform(*_SECONDS), 3), CANARY)
            for kind, order in zip(kinds, orders, strict=True)
        ]
        rolls_back = self.dice.random() < 0.06
        self.transaction(orders, lambda connection: app.enqueue_many(connection, calls), rolls_back=rolls_back)

    def _poison(self) -> None:
        self.order += 1
        call = poison.call(self.order, round(self.dice.uniform(*_DEADLY_SECONDS), 3), CANARY)
        self.transaction([self.order], lambda connection: [call.enqueue(connection)])

    # looking --------------------------------------------------------------------------------------------------------

    def _look(self) -> _Seen:
        connection = self.open()
        row = connection.execute(self._look_at, {"poison": NAME}).fetchone()
        connection.commit()
        assert row is not None
        return _Seen(*row)

    def _poison_due(self, seen: _Seen) -> bool:
        """Whether the next one is to come: with the second half of the tasks, and only one at a time."""
        if self._begun is None and seen.succeeded:
            self._begun = time.monotonic()
        if self._begun is None or time.monotonic() - self._begun < _BEFORE_SECONDS:
            return False
        return not self._through and not seen.alive and 2 * seen.succeeded >= self.plan["tasks"]

    def _deaths(self) -> int:
        """Workers that say that they die of poison."""
        return len({line.pid for line in read(self._folder, "worker") if line.mark == Mark.FAULT})


if __name__ == "__main__":
    main(Client)
