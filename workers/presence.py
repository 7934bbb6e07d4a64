"""Presence and control over core NATS: who is here, what it wants, which attempt to stop.  PostgreSQL is not asked."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from dispatcher.bus import Bus, Message, Subscription
from dispatcher.subjects import Subjects
from dispatcher.wire import decode_cancel

__all__ = ["Presence"]

_log = logging.getLogger("dispatcher.presence")

_ANNOUNCE_SECONDS = 10.0
_LOOK_SECONDS = 0.1
_SMALLEST_CHANGE = 0.25


class Presence:
    """Announces the worker's demand every 10 s and on every change by a quarter; answers who asks for workers."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        describe: Callable[[], dict[str, Any]],
        more: Callable[[Mapping[str, Any]], dict[str, Any]],
        want: Callable[[], int],
        received: Callable[[], tuple[int, int]],
        cancel: Callable[[UUID, int], None],
        control: Callable[[Message], Awaitable[None]],
    ) -> None:
        self._bus, self._subjects = bus, subjects
        self._describe, self._more, self._want, self._cancel = describe, more, want, cancel
        self._control, self._received = control, received
        self._before, self._mean, self._together = (0, 0), 1.0, 1.0
        self._subscriptions: list[Subscription] = []
        self.announced = want()
        """What the leader was told last, and may still count on."""
        self.announced_at = 0.0
        """Unix time of the last announcement."""

    async def start(self) -> None:
        """Listen for questions, cancel requests and control."""
        self._subscriptions = [
            await self._bus.subscribe(self._subjects.workers, self._asked),
            await self._bus.subscribe(self._subjects.cancel, self._cancelled),
            await self._bus.subscribe(self._subjects.control, self._control),
        ]

    async def run(self) -> None:
        """Announce until cancelled."""
        silent = _ANNOUNCE_SECONDS
        while True:
            want, together = self._want(), self._tasks_in_a_message()
            if (
                silent >= _ANNOUNCE_SECONDS
                or abs(want - self.announced) > _SMALLEST_CHANGE * self.announced
                or abs(together - self._together) > _SMALLEST_CHANGE * self._together
            ):
                self._together = together
                await self._announce(want)
                self.announced, silent = want, 0.0
            await asyncio.sleep(_LOOK_SECONDS)
            silent += _LOOK_SECONDS

    def _tasks_in_a_message(self) -> float:
        """A mean in which the last 0.1 s count half."""
        before, self._before = self._before, self._received()
        messages, tasks = self._before[0] - before[0], self._before[1] - before[1]
        if messages:
            self._mean += (tasks / messages - self._mean) / 2
        return self._mean

    async def _announce(self, want: int) -> None:
        about = self._describe()
        body = {
            "worker": f"{about['worker']}/{about['boot_id']}",
            "want": want,
            "queues": about["queues"],
            "together": round(self._together, 1),
        }
        await self._bus.publish(self._subjects.demand, json.dumps(body).encode())
        self.announced_at = time.time()

    async def _asked(self, message: Message) -> None:
        if message.reply:
            answer = self._describe() | self._more(_question(message.data))
            await self._bus.publish(message.reply, json.dumps(answer).encode())

    async def _cancelled(self, message: Message) -> None:
        with suppress(ValueError):
            for task_id, attempt in decode_cancel(message.data):
                self._cancel(task_id, attempt)

    async def stop(self) -> None:
        """Say good-bye, so that the leader need not wait for the silence."""
        await self._announce(0)
        for subscription in self._subscriptions:
            await subscription.unsubscribe()


def _question(body: bytes) -> Mapping[str, Any]:
    """What is asked for beyond the description; anything unreadable asks for nothing more."""
    try:
        question = json.loads(body) if body else None
    except ValueError:
        return {}
    return question if isinstance(question, dict) else {}
