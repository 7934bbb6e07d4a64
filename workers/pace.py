"""How much a worker takes at a time: slots, plus a little more the faster its tasks are.

By Little's law, what a worker can settle in 25 ms may be claimed ahead of its slots, and what it can settle in 100 ms
may wait in its inbox.  Tasks of milliseconds get hundreds, long tasks get none, without asking for types or settings.
"""

from __future__ import annotations

import time

__all__ = ["Pace"]

_AHEAD_SECONDS = 0.025
_INBOX_SECONDS = 0.1
_MOST_AHEAD = 500
_MOST_INBOX = 2000
_WINDOW_SECONDS = 0.05
_IDLE_SECONDS = 2.0
_RISE_SECONDS, _FALL_SECONDS = 0.1, 1.0


class Pace:
    """Fed with settled tasks; its figures are tasks."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.rate = 0.0
        """Tasks settled per second while busy: follows a rise within 0.1 s, a fall within a second."""
        self._counted = 0
        self._since = time.monotonic()

    def settled(self, count: int) -> None:
        """So many tasks were settled just now."""
        self._counted += count
        now = time.monotonic()
        passed = now - self._since
        if passed < _WINDOW_SECONDS:
            return
        if passed < _IDLE_SECONDS:  # a pause says nothing about how fast work goes when there is some
            seen = self._counted / passed
            inertia = _RISE_SECONDS if seen > self.rate else _FALL_SECONDS
            self.rate += min(1.0, passed / inertia) * (seen - self.rate)
        self._counted, self._since = 0, now

    @property
    def ahead(self) -> int:
        """Tasks that may be claimed beyond the slots."""
        return min(_MOST_AHEAD, int(self.rate * _AHEAD_SECONDS))

    @property
    def want(self) -> int:
        """Messages outstanding at this worker, claimed ones and, waiting, no fewer than slots."""
        return self.slots + self.ahead + max(self.slots, min(_MOST_INBOX, int(self.rate * _INBOX_SECONDS)))
