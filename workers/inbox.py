"""Flow control that stays push: bounded buffers per lane, and refusals with a growing, jittered delay when full.

The subscriptions stay up all the time.  UNSUB and SUB to pause the flow lose deliveries until their ack timer ends
(measured); refusing with 2 to 64 ms lets a free worker take the message within milliseconds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

from dispatcher.bus import Bus, Message
from dispatcher.wire import decode
from workers.attempt import Delivery

__all__ = ["Inbox", "deliveries_of"]

_FIRST_DELAY, _LONGEST_DELAY, _SATURATED_DELAY = 0.002, 0.064, 1.0
_SATURATED_AFTER = 1.0
_LEAVING_DELAY = 0.25
_SILENCE_SECONDS, _SILENCE_TRIES = 0.02, 10


def deliveries_of(reply: str) -> int:
    """How often the server delivered this message, this time included: a token of its reply subject.

    ``$JS.ACK.<stream>.<consumer>.<delivered>…`` or, since 2.10 with a domain, two tokens more before the stream.
    """
    tokens = reply.split(".")
    try:
        return int(tokens[4] if len(tokens) == 9 else tokens[6])
    except (IndexError, ValueError):
        return 1


class Inbox:
    """Messages that wait here to be claimed, the most urgent lane first."""

    def __init__(
        self, bus: Bus, unreadable: Callable[[Message, str], Coroutine[Any, Any, None]], limit: Callable[[], int]
    ) -> None:
        self._bus, self._unreadable, self._limit = bus, unreadable, limit
        self._lanes: dict[int, deque[Delivery]] = {}
        self._waiting: dict[tuple[UUID, int], Delivery] = {}
        self.closed = False
        """Whether everything is refused: the worker drains."""
        self.arrived = asyncio.Event()
        self.refused = 0
        self._full_since: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def receiver(self, priority: int) -> Callable[[Message], Coroutine[Any, Any, None]]:
        """The callback for the subscription of a lane; the smaller ``priority`` goes first."""
        lane = self._lanes.setdefault(priority, deque())
        self._lanes = dict(sorted(self._lanes.items()))

        async def receive(message: Message) -> None:
            try:
                reference = decode(message.data)
            except ValueError as error:
                await self._unreadable(message, str(error))
                return
            key = (reference.task_id, reference.attempt)
            twin = self._waiting.get(key)
            if twin is not None:
                twin.join([message.reply])
            elif self.closed:
                await self._bus.nak([message.reply], _LEAVING_DELAY)
                self.refused += 1
            elif len(self._waiting) < self._limit():
                self._full_since = None
                self._keep(lane, Delivery(*key, message.reply, message.subject, time.monotonic()))
            elif await self._made_room(priority):
                self._keep(lane, Delivery(*key, message.reply, message.subject, time.monotonic()))
            else:
                await self._refuse(message.reply)

        return receive

    def _keep(self, lane: deque[Delivery], delivery: Delivery) -> None:
        self._waiting[delivery.task_id, delivery.attempt] = delivery
        lane.append(delivery)
        self.arrived.set()

    async def _made_room(self, priority: int) -> bool:
        """Give back the newest of the least urgent that wait, if they are less urgent than ``priority``.

        Otherwise an urgent message that finds us full of others would compete with all of them for each free place.
        """
        for other, lane in reversed(self._lanes.items()):
            if other <= priority:
                return False
            if lane:
                given = lane.pop()
                del self._waiting[given.task_id, given.attempt]
                await self._refuse(*given.replies)
                return True
        return False

    async def _refuse(self, *replies: str) -> None:
        self.refused += 1
        now = time.monotonic()
        self._full_since = self._full_since or now
        longest = _SATURATED_DELAY if now - self._full_since > _SATURATED_AFTER else _LONGEST_DELAY
        delay = min(longest, _FIRST_DELAY * 2 ** min(deliveries_of(replies[0]) - 1, 16))
        await self._bus.nak(replies, delay * random.uniform(0.75, 1.25))

    async def close(self) -> None:
        """Refuse what waits and whatever comes; return when nothing is on its way here any more, or 0.2 s later.

        The server loses sight of a message that it pushes into a group whose last member has just left: it would come
        again after its ack_wait only.  So all that is refused while we leave is refused for a moment (0.25 s), and
        only in the silence after that we unsubscribe.  Where others of the group go on, nothing is lost without it.
        """
        self.closed = True
        for delivery in self.take(len(self)):
            await self._bus.nak(delivery.replies, _LEAVING_DELAY)
        for _ in range(_SILENCE_TRIES):
            before = self.refused
            await asyncio.sleep(_SILENCE_SECONDS)
            if self.refused == before:
                return

    def find(self, task_id: UUID) -> Delivery | None:
        """The delivery of that task which waits here, if one does."""
        return next((delivery for key, delivery in self._waiting.items() if key[0] == task_id), None)

    def take(self, most: int) -> list[Delivery]:
        """Up to ``most`` deliveries, urgent lanes first."""
        taken: list[Delivery] = []
        for lane in self._lanes.values():
            while lane and len(taken) < most:
                delivery = lane.popleft()
                del self._waiting[delivery.task_id, delivery.attempt]
                taken.append(delivery)
        if not self._waiting:
            self.arrived.clear()
        return taken

    def take_older(self, moment: float) -> list[Delivery]:
        """The deliveries that wait since before ``moment`` (monotonic seconds)."""
        taken: list[Delivery] = []
        for lane in self._lanes.values():
            while lane and lane[0].received_at < moment:
                delivery = lane.popleft()
                del self._waiting[delivery.task_id, delivery.attempt]
                taken.append(delivery)
        return taken
