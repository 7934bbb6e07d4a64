"""Cancel tasks until they have really ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["cancel_all"]

_AGAIN_SECONDS = 0.5


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel and wait; what they raise stays with them.

    Asks again every half second: ``asyncio.wait_for`` of Python 3.11, which nats-py uses, loses a cancellation that
    arrives together with its result, and a loop that goes on would keep the whole process.
    """
    tasks = list(tasks)
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen: nobody else will ask
