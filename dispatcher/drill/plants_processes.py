"""Planted bugs in what relay, worker and client do around the statements; each changes methods of one process."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

__all__ = [
    "ack_first", "commit_at_once", "create_again", "few_deliveries", "few_reconnects", "id_without_dispatch",
    "mark_before_confirmed", "nak_stale", "no_reconciler", "only_higher_ids",
]  # fmt: skip

_A_MOMENT = 0.3
"""Seconds that a window stays open, so that a fault finds it."""
_RECONNECTS = 3


def no_reconciler() -> None:
    """The second line behind lost messages: nobody looks for them."""
    reconciler = import_module("dispatcher.relay.reconcile").Reconciler

    async def nothing(*_: Any, **__: Any) -> int:
        return 0

    reconciler._judge = nothing


def ack_first() -> None:
    """M2: messages are acknowledged before the claim is committed."""
    claimer = import_module("workers.claimer").Claimer
    claim = claimer._claim

    async def acking(self: Any, batch: Any) -> int:
        for delivery in batch:
            await self._bus.ack([parcel.reply for parcel in delivery.parcels])
        await asyncio.sleep(_A_MOMENT)
        return int(await claim(self, batch))

    claimer._claim = acking


def only_higher_ids() -> None:
    """M4: the relay goes on behind the highest id that it has seen."""
    drain = import_module("dispatcher.relay.drain").Drain
    batch, outgoing = drain._batch, drain._outgoing
    highest: dict[int, int] = {}

    async def remembering(self: Any) -> Any:
        self._full_look_at, self._low = float("inf"), highest.get(id(self), 0)
        return await batch(self)

    async def noting(self: Any, rows: list[Any]) -> Any:
        highest[id(self)] = rows[-1][0] + 1
        return await outgoing(self, rows)

    drain._batch, drain._outgoing = remembering, noting


def id_without_dispatch() -> None:
    """M5: a message that is sent again looks like the one before."""
    drain: Any = import_module("dispatcher.relay.drain")
    drain.message_id = lambda task, attempt, dispatch: f"{task.hex}:{attempt}"
    decode = import_module("dispatcher.wire").decode
    drain.message_id_of_all = lambda body: "+".join(f"{task.hex}:{attempt}" for task, attempt, _ in decode(body))


def mark_before_confirmed() -> None:
    """M6: the outbox is committed before the stream has confirmed anything."""
    drain: Any = import_module("dispatcher.relay.drain")
    batch = drain.Drain._batch

    async def early(self: Any) -> Any:
        bus, kept = self._bus, []

        class Later:
            async def store(self, messages: Any, _: float) -> None:
                kept.extend(messages)

            async def publish(self, *message: Any) -> bool:  # hints, which nobody confirms anyway
                return bool(await bus.publish(*message))

        self._bus = Later()
        try:
            number = await batch(self)
        finally:
            self._bus = bus
        if kept:
            await asyncio.sleep(_A_MOMENT)
            await bus.store(kept, drain._PUBLISH_SECONDS)
        return number

    drain.Drain._batch = early


def commit_at_once() -> None:
    """M9: tasks are created in a transaction of their own, not in that of the caller."""
    dispatcher: Any = import_module("dispatcher.app").Dispatcher
    enqueue_many = dispatcher.enqueue_many

    def committed(self: Any, connection: Any, calls: Any) -> Any:
        tasks = enqueue_many(self, connection, calls)
        connection.commit()
        return tasks

    dispatcher.enqueue_many = committed


def few_deliveries() -> None:
    """M11: the server gives a message up after three deliveries."""
    wanted: Any = import_module("dispatcher.streams.wanted")
    document = wanted.consumer_document

    def limited(*arguments: Any) -> Any:
        return {**document(*arguments), "max_deliver": 3}

    wanted.consumer_document = limited


def nak_stale() -> None:
    """M14: a message that has nothing to say any more is refused instead of acknowledged, again and again."""
    claimer = import_module("workers.claimer").Claimer

    async def again(self: Any, session: Any, deliveries: Any) -> None:
        for delivery in deliveries:
            await self._bus.nak([parcel.reply for parcel in delivery.parcels], 0.1)

    claimer._stale = again


def few_reconnects() -> None:
    """M17: the connection to NATS is given up after some tries; as many as fit into an outage of a drill."""
    bus: Any = import_module("dispatcher.bus").Bus
    opened = bus._open

    async def limited(self: Any, settings: Any, name: str) -> None:
        await opened(self, settings, name)
        self._client.options["max_reconnect_attempts"] = _RECONNECTS

    bus._open = limited


def create_again() -> None:
    """M18: a service that does not know whether its commit was done does it once more, without looking."""
    publisher: Any = import_module("dispatcher.drill.publisher").Publisher
    transaction = publisher.transaction

    def remembering(self: Any, orders: Any, enqueue: Any, *, rolls_back: bool = False) -> Any:
        self.asked = orders, enqueue
        return transaction(self, orders, enqueue, rolls_back=rolls_back)

    publisher.transaction = remembering
    publisher._read_again = lambda self, made, orders: self.transaction(*self.asked)
