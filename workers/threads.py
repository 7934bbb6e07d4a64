"""Plain functions in threads.  A thread cannot be ended: one that overruns is left alone, its slot goes to another."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

__all__ = ["Threads"]


class Threads:
    """``spare`` threads stand in for those that do not come back."""

    def __init__(self, slots: int, spare: int) -> None:
        self._pool = ThreadPoolExecutor(slots + spare, thread_name_prefix="dispatcher-handler")
        self._loop = asyncio.get_running_loop()

    def start(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> asyncio.Future[Any]:
        """Call the function in a thread, with the context variables of here."""
        call = partial(_call, function, args, kwargs)
        return self._loop.run_in_executor(self._pool, contextvars.copy_context().run, call)

    def close(self) -> None:
        """Let the threads end with the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:  # a future cannot carry it: the attempt would never end
        raise RuntimeError("the handler raised StopIteration") from error
