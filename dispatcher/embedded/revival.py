"""A supervisor of embedded servers: whichever ends by itself is started again, over an empty NATS store if need be."""

from __future__ import annotations

import time
from typing import Final

from dispatcher.embedded.errors import EmbeddedError
from dispatcher.embedded.servers import EmbeddedServers

__all__ = ["Revival"]

_SOON_SECONDS = 60.0
_READY_SECONDS = 15.0
"""A healthy nats-server is ready in a fraction of a second."""
_NAMES: Final = {"postgres": "PostgreSQL", "nats": "nats-server"}


class Revival:
    """Of one pair of servers.

    nats-server 2.15.1 may end by a panic over a damaged file of its store: at its start, or whenever the stream of the
    damaged file is made again, which its clients do as soon as it is back.  The tasks are in PostgreSQL, so a store
    that is in the way is set aside, and what was queued is sent again.
    """

    def __init__(self, servers: EmbeddedServers) -> None:
        self._servers = servers
        self._ended_at = float("-inf")

    def look(self) -> list[str]:
        """Start again what has ended, and return when it accepts clients; returns what was done, for people."""
        try:
            fallen = self._servers.fallen()
        except EmbeddedError as error:  # their guard is gone
            return [str(error)]
        return [self._revive(name, code) for name, code in fallen.items()]

    def _revive(self, name: str, code: int) -> str:
        try:
            if name == "postgres":
                self._servers.restart_postgres()
            elif not self._revive_nats(code):
                return "nats-server ended again over its store; started with an empty one, the old one is nats.damaged"
        except EmbeddedError as error:
            return f"{_NAMES[name]} did not start: {error}"
        return f"{_NAMES[name]} was gone and has been started again"

    def _revive_nats(self, code: int) -> bool:
        """Whether it could be started over its store."""
        before, now = self._ended_at, time.monotonic()
        if code >= 0:  # not by a signal: nobody killed it
            self._ended_at = now
        if code < 0 or now - before > _SOON_SECONDS:
            try:
                self._servers.restart_nats(patience=_READY_SECONDS)
                return True
            except EmbeddedError:
                pass  # it panics, or searches a damaged block for ever
        self._servers.restart_nats(set_aside=True)
        return False
