"""The service that publishes random compositions: ``python -m dispatcher.drill.flow_client DIR``."""

from __future__ import annotations

from typing import Any

import psycopg

from dispatcher import Task
from dispatcher.drill.flow_shapes import shape_of
from dispatcher.drill.publisher import Publisher, main

__all__ = ["Client"]

_BATCH = 4


class Client(Publisher):
    """Publishes compositions, one or several in a transaction; some of them are rolled back."""

    table = "flows"

    def size(self, order: int) -> int:
        """As many tasks as the composition of that number has."""
        return len(shape_of(self.plan["seed"], order).jobs)

    def create(self, most: int) -> None:
        """Some compositions in one transaction."""
        orders = [self.order + 1 + i for i in range(_BATCH if self.dice.random() < 0.1 else 1)]
        self.order = orders[-1]
        self.transaction(orders, lambda connection: self._enqueue(connection, orders),
                         rolls_back=self.dice.random() < 0.06)  # fmt: skip

    def _enqueue(self, connection: psycopg.Connection[Any], orders: list[int]) -> list[Task[Any]]:
        return [shape_of(self.plan["seed"], order).composed.enqueue(connection) for order in orders]


if __name__ == "__main__":
    main(Client)
