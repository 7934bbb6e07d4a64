"""Before processes can work: tables in PostgreSQL, streams on NATS; and afterwards: are the workers there?"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from dispatcher.bus import Bus
from dispatcher.database import connect_sync
from dispatcher.errors import WaitError
from dispatcher.settings import Settings
from dispatcher.streams.apply import apply
from dispatcher.streams.config import load
from dispatcher.streams.registry import register_queues
from dispatcher.subjects import Subjects
from state.migrate import upgrade

__all__ = ["prepare", "wait_for_workers"]


def prepare(settings: Settings) -> None:
    """Migrate, then make streams and queues as streams.conf says.  Safe to repeat."""
    direct = settings.direct().database_url
    assert direct is not None
    upgrade(direct, settings.db_schema)
    config = load(settings.streams_conf)
    with connect_sync(settings, "dispatcher prepare") as connection:
        register_queues(connection, config, settings.db_schema)

    async def make_streams() -> None:
        bus = await Bus.connect(settings, name="dispatcher prepare", timeout=10.0)
        try:
            await apply(config, bus, Subjects(settings.namespace))
        finally:
            await bus.close()

    asyncio.run(make_streams())


async def wait_for_workers(settings: Settings, number: int, patience: float) -> list[dict[str, Any]]:
    """Ask until ``number`` workers answer, at most ``patience`` seconds.  Raises ``WaitError``."""
    bus = await Bus.connect(settings, name="dispatcher ready?", timeout=10.0)
    try:
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            answers = await bus.request_many(Subjects(settings.namespace).workers, b"", wait=0.2)
            if len(answers) >= number:
                return [json.loads(answer) for answer in answers]
            if asyncio.get_running_loop().time() > deadline:
                raise WaitError(f"{len(answers)} of {number} workers answered within {patience:g} s")
    finally:
        await bus.close()
