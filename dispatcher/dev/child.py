"""Child processes of our own: started with settings in their environment, ended by the kernel when we die."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from dispatcher.settings import Settings

__all__ = ["command_line", "environment", "how_it_ended", "popen_options"]

_PR_SET_PDEATHSIG = 1


def command_line(*args: str) -> list[str]:
    """``dispatcher ARGS`` with this very interpreter."""
    return [sys.executable, "-m", "dispatcher", *args]


def environment(settings: Settings, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment with every setting in it.  Not on the command line, where other users could read passwords."""
    found = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        variable = f"DISPATCHER_{name.upper()}"
        found.pop(variable, None)
        found.pop(f"{variable}_FILE", None)  # it has been read: both would contradict each other
        if value is not None and name != "metrics_port":  # of several children only one could have it
            found[variable] = str(value.total_seconds() if isinstance(value, timedelta) else value)
    return {**found, **(extra or {})}


def popen_options() -> dict[str, Any]:
    """For ``subprocess``: a session of its own, so that Ctrl-C reaches us alone, and an end when ours comes.

    The end is a SIGKILL, because our servers go at the same moment and nothing could be settled any more; what a worker
    held comes back after its lease.  Only Linux can do that: elsewhere a child outlives a parent that was killed.
    """
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform.startswith("linux"):
        # loaded before the fork, because a child may not load libraries
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        parent = os.getpid()

        def die_with_parent() -> None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        options["preexec_fn"] = die_with_parent
    return options


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
