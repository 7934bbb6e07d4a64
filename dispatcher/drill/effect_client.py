"""The service that publishes transfers: ``python -m dispatcher.drill.effect_client DIR``."""

from __future__ import annotations

from dispatcher.drill.effect_tasks import app, transfer, transfer_plain, transfer_steps
from dispatcher.drill.publisher import Publisher, main
from dispatcher.drill.tasks import CANARY

__all__ = ["Client"]

_BATCH = 25


class Client(Publisher):
    """Publishes transfers, one by one or in bulk; some of them are rolled back."""

    def create(self, most: int) -> None:
        """Some transfers in one transaction."""
        orders = [self.order + 1 + i for i in range(min(_BATCH, most) if self.dice.random() < 0.1 else 1)]
        self.order = orders[-1]
        kinds = self.dice.choices((transfer, transfer_plain, transfer_steps), (5, 3, 2), k=len(orders))
        calls = [kind.call(order, CANARY) for kind, order in zip(kinds, orders, strict=True)]
        rolls_back = self.dice.random() < 0.06
        self.transaction(orders, lambda connection: app.enqueue_many(connection, calls), rolls_back=rolls_back)


if __name__ == "__main__":
    main(Client)
