"""How a worker stops: when nothing waits any more (burst), and in which order it takes itself apart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from workers.attempt import Stop
from workers.claimer import Claimer
from workers.control import Patience
from workers.executor import Executor
from workers.inbox import Inbox
from workers.lanes import Lanes
from workers.settler import Settler

__all__ = ["Leaving"]

_log = logging.getLogger("dispatcher.worker")

_CALM_SECONDS = 0.2
_LAST_SECONDS = 2.0


class Leaving:
    """Works on the pieces of one worker."""

    def __init__(self, lanes: Lanes, inbox: Inbox, claimer: Claimer, executor: Executor, settler: Settler) -> None:
        self._lanes, self._inbox = lanes, inbox
        self._claimer, self._executor, self._settler = claimer, executor, settler

    async def when_empty(self, outbox_waits: Callable[[], Awaitable[bool]]) -> None:
        """Burst: return when the lanes are empty and nothing runs, twice in a row."""
        calm = 0
        while calm < 2:
            await asyncio.sleep(_CALM_SECONDS)
            busy = self._executor.running or len(self._inbox) or await self._lanes.waiting() or await outbox_waits()
            calm = 0 if busy else calm + 1

    async def drain(self, patience: Patience, grace: float) -> None:
        """Receive no more, refuse what waits, finish what runs, give back the rest without consuming a try."""
        executor = self._executor
        _log.info("draining: %d tasks held", len(executor.running))
        await self._inbox.close()
        await self._lanes.leave()
        await self._claimer.quiet.wait()
        for attempt in list(executor.ready):
            executor.stop_one(attempt, Stop.RELEASE)
        if not await patience.wait(self._all_settled(grace)):
            for attempt in list(executor.running.values()):
                executor.stop_one(attempt, Stop.RELEASE)
            if not await self._all_settled(_LAST_SECONDS):
                for attempt in list(executor.running.values()):
                    executor.abandon(attempt)
                await self._all_settled(_LAST_SECONDS)

    async def _all_settled(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while self._executor.running:
                    self._claimer.has_room.clear()
                    await self._claimer.has_room.wait()
                await self._settler.flushed()
        except TimeoutError:
            return False
        return True
