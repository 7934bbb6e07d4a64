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
from dispatcher.wire import Reference, decode
from workers.attempt import Delivery
from workers.messages import Held, Parcel, give_back

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
        self.messages, self.tasks = 0, 0
        """What was received since the start, refused or not."""
        self._full_since: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def receiver(self, priority: int) -> Callable[[Message], Coroutine[Any, Any, None]]:
        """The callback for the subscription of a lane; the smaller ``priority`` goes first."""
        lane = self._lanes.setdefault(priority, deque())
        self._lanes = dict(sorted(self._lanes.items()))

        async def receive(message: Message) -> None:
            try:
                references = decode(message.data)
            except ValueError as error:
                await self._unreadable(message, str(error))
                return
            parcel = Parcel(message.reply, message.subject, time.monotonic(), len(references))
            if not message.reply:
                self._take_hint(lane, references, parcel)
                return
            self.messages += 1
            self.tasks += len(references)
            new = [found for found in references if not self._joins(found, parcel)]
            if not new:
                return
            if self.closed:
                await give_back(self._bus, [parcel], _LEAVING_DELAY)
                self.refused += 1
            elif len(self._waiting) < self._limit():
                self._full_since = None
                self._keep(lane, new, parcel)
            elif await self._made_room(priority, len(new)):
                self._keep(lane, new, parcel)
            else:
                await self._refuse(parcel)

        return receive

    def _take_hint(self, lane: deque[Delivery], references: list[Reference], parcel: Parcel) -> None:
        """The relay tells of a task before publishing it.  Without room it is dropped: its message follows."""
        if not self.closed and len(self._waiting) < self._limit():
            self._keep(lane, [found for found in references if found[:2] not in self._waiting], parcel)

    def _joins(self, found: Reference, parcel: Parcel) -> bool:
        """A second message for an attempt that waits here: it shares the fate of the first."""
        twin = self._waiting.get((found.task_id, found.attempt))
        if twin is None:
            return False
        twin.join((parcel,))
        return True

    def _keep(self, lane: deque[Delivery], references: list[Reference], parcel: Parcel) -> None:
        parcels = (parcel,)
        for task_id, attempt, _ in references:
            delivery = self._waiting[task_id, attempt] = Delivery(task_id, attempt, parcels)
            lane.append(delivery)
        self.arrived.set()

    async def _made_room(self, priority: int, places: int) -> bool:
        """Give back the newest of the least urgent that wait, if they are less urgent than ``priority``.

        Otherwise an urgent message that finds us full of others would compete with all of them for each free place.
        """
        given: list[Delivery] = []
        for other, lane in reversed(self._lanes.items()):
            while other > priority and lane and len(given) < places:
                given.append(lane.pop())
        for delivery in given:
            del self._waiting[delivery.task_id, delivery.attempt]
            await self._refuse(delivery)
        return bool(given)

    async def _refuse(self, held: Held) -> None:
        self.refused += 1
        now = time.monotonic()
        self._full_since = self._full_since or now
        longest = _SATURATED_DELAY if now - self._full_since > _SATURATED_AFTER else _LONGEST_DELAY
        delay = min(longest, _FIRST_DELAY * 2 ** min(deliveries_of(held.parcels[0].reply) - 1, 16))
        await give_back(self._bus, [held], delay * random.uniform(0.75, 1.25))

    async def close(self) -> None:
        """Refuse what waits and whatever comes; return when nothing is on its way here any more, or 0.2 s later.

        The server loses sight of a message that it pushes into a group whose last member has just left: it would come
        again after its ack_wait only.  So all that is refused while we leave is refused for a moment (0.25 s), and
        only in the silence after that we unsubscribe.  Where others of the group go on, nothing is lost without it.
        """
        self.closed = True
        await give_back(self._bus, self.take(len(self)), _LEAVING_DELAY)
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
            while lane and lane[0].parcels[0].received_at < moment:
                delivery = lane.popleft()
                del self._waiting[delivery.task_id, delivery.attempt]
                taken.append(delivery)
        return taken
