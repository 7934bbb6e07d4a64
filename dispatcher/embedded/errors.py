"""What can go wrong with the embedded servers: one class, one line that names the cure."""

from __future__ import annotations

from dispatcher.errors import DispatcherError

__all__ = ["EmbeddedError"]


class EmbeddedError(DispatcherError):
    """A server could not be found, started or stopped; the message says what to do about it."""
