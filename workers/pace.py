"""How much a worker takes at a time: slots, plus a little more the faster its tasks are.

By Little's law, what a worker can settle in 50 ms may be claimed ahead of its slots, and what it can settle in 150 ms
may wait in its inbox.  Thousands of tasks a second come in batches whose claims and settles take longer, and should
overlap: there it may claim up to twice as much.  Both shrink where a slot needs longer than 15 ms for a task: there is
time enough to fetch the next one meanwhile, and what a slow worker holds is the end that everybody waits for.  Tasks of
milliseconds get hundreds, long tasks get none, without asking for types or settings.
"""

from __future__ import annotations

import time

__all__ = ["Pace"]

_AHEAD_SECONDS = 0.05
_LARGE_RATE = 10_000
_INBOX_SECONDS = 0.15
_SHORT_SECONDS = 0.015
"""Of a slot for a task: fetching another one takes a few milliseconds, on a busy machine ten (measured)."""
_MOST_AHEAD = 1000
_MOST_INBOX = 2000
_WINDOW_SECONDS = 0.05
_RISE_SECONDS, _FALL_SECONDS = 0.1, 4.0


class Pace:
    """Fed with settled tasks; its figures are tasks."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.rate = 0.0
        """Tasks settled per second while busy: follows a rise within 0.1 s, a fall within some seconds."""
        self.ahead = 0
        """Tasks that may be claimed beyond the slots."""
        self.want = 0
        """Messages outstanding at this worker, over all its lanes: claimed ones, and a few in wait for a free slot."""
        self._counted = 0
        self._since = time.monotonic()
        self._tune()

    def resume(self) -> None:
        """Work starts after a pause, which says nothing about how fast it goes."""
        self._counted, self._since = 0, time.monotonic()

    def settled(self, count: int, *, more: bool) -> None:
        """So many tasks were settled just now; ``more`` says whether others still waited for their turn."""
        self._counted += count
        now = time.monotonic()
        passed = now - self._since
        if passed < _WINDOW_SECONDS:
            return
        seen = self._counted / passed
        if seen > self.rate:
            self.rate += min(1.0, passed / _RISE_SECONDS) * (seen - self.rate)
        elif more:  # with nothing left to do a low figure says nothing about how fast work goes
            self.rate += min(1.0, passed / _FALL_SECONDS) * (seen - self.rate)
        self._counted, self._since = 0, now
        self._tune()

    def _tune(self) -> None:
        """Set the two figures that follow the rate: they are read for every message."""
        short = min(1.0, self.rate * _SHORT_SECONDS / self.slots)
        waiting = max(self.slots // 4, 1, min(_MOST_INBOX, int(self.rate * _INBOX_SECONDS * short)))
        batches = 1 + min(1.0, self.rate / _LARGE_RATE)
        self.ahead = min(_MOST_AHEAD, int(self.rate * _AHEAD_SECONDS * batches * short))
        self.want = self.slots + self.ahead + waiting
