"""A NATS connection for one command: given up after seconds, and silent, so that stderr has one line at most."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dispatcher.bus import Bus
from dispatcher.errors import BusUnavailable
from dispatcher.settings import Settings

__all__ = ["talking"]

_PATIENCE = 4.0


@asynccontextmanager
async def talking(settings: Settings, command: str) -> AsyncIterator[Bus]:
    """Connect, and close afterwards.  Raises ``BusUnavailable`` when no server answers within a few seconds."""
    log = logging.getLogger("dispatcher.bus")
    before = log.level
    log.setLevel(logging.CRITICAL)  # a process tries again and says so; a command fails and says that
    try:
        try:
            async with asyncio.timeout(_PATIENCE):
                bus = await Bus.connect(settings, name=f"dispatcher {command}", timeout=_PATIENCE - 1)
        except TimeoutError:
            shown = (settings.nats_url or "").rsplit("@", 1)[-1]
            raise BusUnavailable(f"no NATS server answers at {shown}; check --nats-url") from None
        try:
            yield bus
        finally:
            await bus.close()
    finally:
        log.setLevel(before)
