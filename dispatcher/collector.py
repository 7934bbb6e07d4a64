"""The cyclic garbage collector, set for processes that hold thousands of short-lived objects on purpose."""

from __future__ import annotations

import gc

__all__ = ["calm"]

_YOUNG = 50_000


def calm() -> None:
    """Call once, when everything is imported and before the event loop starts.

    Python looks for cycles after every 700 new objects.  A batch of tasks in flight is many times that, none of it is
    garbage, and every full look walks through all imported modules: a quarter of the worker's CPU on no-op tasks
    (measured with gc.callbacks).  Reference counting, which frees nearly everything, is not affected.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
