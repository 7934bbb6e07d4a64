"""Failpoints: a named moment at which a process of a test kills or freezes itself.

``DISPATCHER_FAILPOINTS="worker.after_claim=kill@3"`` ends the process at the third time it gets there.  Only together
with ``DISPATCHER_TESTING=1``, otherwise the process refuses to start.  The code itself has no failpoints in it: when
they are asked for, and only then, methods are wrapped once, before anything runs.  Unset, nothing happens at all.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from dispatcher.errors import ConfigurationError

__all__ = ["TESTING", "VARIABLE", "Failpoint", "arm", "armed", "requested", "wrap"]

VARIABLE = "DISPATCHER_FAILPOINTS"
TESTING = "DISPATCHER_TESTING"
_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Failpoint:
    """One moment: acts at the ``count``-th time, exactly once."""

    def __init__(self, name: str, action: signal.Signals, count: int) -> None:
        self.name, self._action, self._left = name, action, count
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Be reached once more."""
        with self._lock:
            self._left -= 1
            due = self._left == 0
        if due:
            os.kill(os.getpid(), self._action)


def requested(environ: Mapping[str, str]) -> dict[str, Failpoint]:
    """The failpoints that the environment asks for, by name.

    Raises ``ConfigurationError`` when they are asked for outside of tests, or not readable.
    """
    text = environ.get(VARIABLE, "")
    if not text:
        return {}
    if environ.get(TESTING) != "1":
        raise ConfigurationError(f"{VARIABLE} is set, but failpoints are for tests only; unset it")
    points = {}
    for part in text.split(","):
        name, _, rest = part.strip().partition("=")
        action, _, count = rest.partition("@")
        if action not in _ACTIONS or not (count or "1").isdigit() or int(count or 1) < 1:
            raise ConfigurationError(f"{VARIABLE}: {part!r} is not NAME=kill@N or NAME=stop@N")
        points[name] = Failpoint(name, _ACTIONS[action], int(count or 1))
    return points


def arm(module: str) -> None:
    """Let ``module.install(points)`` wrap its methods, if failpoints are asked for.  Call it before anything runs."""
    if VARIABLE in os.environ:
        points = requested(os.environ)
        if points:
            importlib.import_module(module).install(points)


def armed(name: str) -> Callable[[], None] | None:
    """The failpoint of that name, ``None`` when it is not asked for."""
    return requested(os.environ).get(name) if VARIABLE in os.environ else None


def wrap(owner: Any, method: str, *, before: Failpoint | None = None, after: Failpoint | None = None) -> None:
    """Reach ``before`` when the method is called and ``after`` when it has returned."""
    original = getattr(owner, method)

    def reach(point: Failpoint | None) -> None:
        if point is not None:
            point()

    @wraps(original)
    def plainly(*args: Any, **kwargs: Any) -> Any:
        reach(before)
        result = original(*args, **kwargs)
        reach(after)
        return result

    @wraps(original)
    async def waiting(*args: Any, **kwargs: Any) -> Any:
        reach(before)
        result = await original(*args, **kwargs)
        reach(after)
        return result

    setattr(owner, method, waiting if iscoroutinefunction(original) else plainly)
