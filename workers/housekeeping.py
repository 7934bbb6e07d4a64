"""What a worker does four times a second: keep messages quiet, give back what does not get its turn, weigh children."""

from __future__ import annotations

import asyncio
import random
import time

from dispatcher.bus import Bus
from workers.attempt import Stop
from workers.executor import Executor
from workers.inbox import Inbox
from workers.lanes import Lanes
from workers.messages import give_back

__all__ = ["keep_house"]

_SECONDS = 0.25
_LONGEST_AHEAD_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 1.0


async def keep_house(bus: Bus, lanes: Lanes, inbox: Inbox, executor: Executor) -> None:
    """Run until cancelled."""
    while True:
        await asyncio.sleep(_SECONDS)
        now = time.monotonic()
        quiet: list[str] = []
        for attempt in list(executor.running.values()):
            for parcel in attempt.delivery.parcels:
                overdue = now - max(parcel.shown_at, parcel.received_at) > lanes.quiet_seconds
                if overdue and parcel.reply and not parcel.gone:
                    parcel.shown_at = now
                    quiet.append(parcel.reply)
        await bus.in_progress(quiet)
        if executor.processes is not None:
            executor.processes.check_memory()
        for attempt in [a for a in executor.ready if now - a.claimed_at > _LONGEST_AHEAD_SECONDS]:
            executor.stop_one(attempt, Stop.RELEASE)
        for delivery in inbox.take_older(now - _LONGEST_WAIT_SECONDS):  # another worker may have a slot
            await give_back(bus, [delivery], random.uniform(0.1, 1.0))
