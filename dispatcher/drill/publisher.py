"""What every publishing process of a drill does: create what it was told to, and write down what became of it.

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol
from uuid import UUID

import psycopg

from dispatcher.dev.ledger import Mark, Writer, read
from dispatcher.errors import OutboxFull

__all__ = ["AWAY", "Made", "Publisher", "main"]

AWAY = (psycopg.OperationalError, psycopg.InterfaceError)
"""What a database raises that cannot be reached, or has ended the session."""
AGAIN_SECONDS = 0.2


class Made(Protocol):
    """What was enqueued: the handle of a task or of a flow."""

    @property
    def id(self) -> UUID:
        """Of the task or flow."""
        ...


class Publisher:
    """Publishes until ``tasks`` tasks are known to be committed; how, its subclasses say."""

    table: ClassVar[str] = "tasks"
    """Where the ids of what was enqueued are found."""

    def __init__(self, folder: Path, plan: Mapping[str, Any], database_url: str) -> None:
        before = list(read(folder, "client"))
        self.plan = plan
        """Of the drill, as it is kept."""
        self._ledger = Writer(folder, "client")
        self.url, self._schema, self._tasks = database_url, plan["schema"], plan["tasks"]
        self.made = sum(self.size(line.order) for line in before if line.mark == Mark.COMMITTED)
        """Tasks that are known to be committed."""
        self.order = max((line.order for line in before), default=0)
        """The last one that was given out."""
        self.dice = random.Random(f"{plan['seed']} {self.order}")
        self._allowed = 0
        self._connection: psycopg.Connection[Any] | None = None

    # for subclasses -------------------------------------------------------------------------------------------------

    def size(self, order: int) -> int:
        """How many tasks an order stands for."""
        return 1

    def create(self, most: int) -> None:
        """Create something, at most so many tasks if that can be helped."""
        raise NotImplementedError

    def step(self) -> bool:
        """Anything else that is due; returns whether there was."""
        return False

    @property
    def busy(self) -> bool:
        """Whether there is something left to do besides creating."""
        return False

    # the loop -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until everything is made and nothing else is left to do."""
        while self.made < self._tasks or self.busy:
            self._listen(wait=self.made >= self._allowed)
            try:
                if not self.step() and self.made < (most := min(self._allowed, self._tasks)):
                    self.create(most - self.made)
            except OutboxFull:
                time.sleep(AGAIN_SECONDS)
            except AWAY:
                self.lose()

    def _listen(self, *, wait: bool) -> None:
        """Read how many tasks may be made by now."""
        if select.select([0], [], [], 0.05 if wait else 0.0)[0]:
            lines = os.read(0, 65536).split()
            if not lines:
                sys.exit(0)  # whoever told us is gone
            self._allowed = int(lines[-1])

    def lose(self) -> None:
        """Give the connection up, and wait a moment."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        time.sleep(AGAIN_SECONDS)

    def open(self) -> psycopg.Connection[Any]:
        """The connection, a new one if need be."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self.url, application_name="drill client", connect_timeout=5)
        return self._connection

    def patiently(self, work: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        """One transaction, again and again until it is committed."""
        while True:
            try:
                connection = self.open()
                result = work(connection)
                connection.commit()
                return result
            except AWAY:
                self.lose()

    # one transaction ------------------------------------------------------------------------------------------------

    def transaction(
        self,
        orders: list[int],
        enqueue: Callable[[psycopg.Connection[Any]], Sequence[Any]],
        *,
        rolls_back: bool = False,
    ) -> Sequence[Any]:
        """One transaction; an unknown outcome is read again by the ids.  Returns what is certainly committed."""
        connection = self.open()
        try:
            made = enqueue(connection)
        except AWAY:
            return self._nothing(Mark.FAILED, [None] * len(orders), orders)  # no COMMIT was sent
        self.write(Mark.TRY, made, orders)
        if rolls_back:
            connection.rollback()
            return self._nothing(Mark.ROLLED_BACK, made, orders)
        try:
            connection.commit()
        except AWAY:
            self.write(Mark.UNKNOWN, made, orders)
            self.lose()
            return self._read_again(made, orders)
        return self._committed(made, orders)

    def _read_again(self, made: Sequence[Made], orders: list[int]) -> Sequence[Made]:
        """Found is committed; not found stays unknown, since the lost commit may still be on its way."""
        ids = [one.id for one in made]
        find = f"SELECT count(*) FROM {self._schema}.{self.table} WHERE id = ANY (%s)".encode()
        found = self.patiently(lambda connection: connection.execute(find, (ids,)).fetchone())
        return self._committed(made, orders) if found == (len(ids),) else []

    def _committed(self, made: Sequence[Made], orders: list[int]) -> Sequence[Made]:
        self.write(Mark.COMMITTED, made, orders)
        self.made += sum(map(self.size, orders))
        return made

    # ledger ---------------------------------------------------------------------------------------------------------

    def write(self, mark: str, made: Sequence[Made | None], orders: list[int]) -> None:
        """One line for each; without an id where nothing was made."""
        for one, order in zip(made, orders, strict=True):
            self._ledger.write(mark, one and one.id, 1, order)

    def _nothing(self, mark: str, made: Sequence[Made | None], orders: list[int]) -> list[Any]:
        self.write(mark, made, orders)
        return []


def main(publisher: type[Publisher]) -> None:
    """``python -m … DIR``: publish for the drill in that folder."""
    root = Path(sys.argv[1])
    plan = json.loads((root / "drill.json").read_text())
    url = os.environ["DISPATCHER_DATABASE_URL"]
    publisher(root / "ledger", plan, url).run()
