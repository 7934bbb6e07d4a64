"""Starting a coroutine as a task of the event loop, at once where Python can."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

__all__ = ["started"]


def started(loop: asyncio.AbstractEventLoop, run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Since Python 3.12 a coroutine that waits for nothing is done when this returns, without a turn of the loop."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(run, loop=loop, eager_start=True)
    return loop.create_task(run)
