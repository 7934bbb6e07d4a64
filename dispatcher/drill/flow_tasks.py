"""The application of the drill ``flows``: tasks that do little, some of which fail for good, as they were told."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import Annotated, Any

from dispatcher import Dispatcher, Secret
from dispatcher.dev.ledger import Mark
from dispatcher.drill.tasks import QUEUE, RETRY, note, noted

__all__ = ["app", "leaf", "merge", "merged"]

app = Dispatcher("drill")
_SECONDS = 0.05


class AsPlanned(Exception):
    """A failure that another try cannot mend."""


_RETRY = replace(RETRY, not_on=AsPlanned)


def merged(values: Any) -> int:
    """What a task returns that takes over ``values``."""
    return len(str(values))


@app.task(name="leaf", queue=QUEUE, retry=_RETRY)
async def leaf(order: int, value: int, fails: bool, canary: Annotated[str, Secret]) -> int:
    """A coroutine that takes over nothing."""
    with noted(order):
        await asyncio.sleep(random.uniform(0, _SECONDS))
        _fail(order, fails, canary)
        return value


@app.task(name="merge", queue=QUEUE, retry=_RETRY)
def merge(values: list[Any] | int | None, order: int, fails: bool, canary: Annotated[str, Secret]) -> int:
    """A plain function, in a thread, that takes over a result."""
    with noted(order):
        time.sleep(random.uniform(0, _SECONDS))
        _fail(order, fails, canary)
        return merged(values)


def _fail(order: int, fails: bool, canary: str) -> None:
    if fails:
        note(Mark.FAULT, order)
        raise AsPlanned(f"as planned, and would say {canary}")
