"""Flow control that stays push: how many messages may be outstanding per lane, shared out by demand.

Workers announce how many messages they want (slots plus a prefetch that follows their measured rate).  The sum over
the lanes that a group of workers serves stays within 1 to 2 times that: a limit of slots on each of many lanes is a
storm of refusals (44 deliveries per task at 20 lanes × 30 instead of 3.9 at 20 × 3, reference measurement).

Where workers want many tasks at a time, because these are short, and a batch has many of them, several tasks travel in
one message; the lane may then have so many times fewer messages outstanding.  The leader knows what it publishes, the
workers announce what they receive: after a change of leader the stream still holds what another one published.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dispatcher.bus import Message

__all__ = ["MOST_TOGETHER", "Demand", "Shares", "share_out"]

_log = logging.getLogger("dispatcher.flow")

_FORGET_SECONDS = 30.0
_SMALLEST_CHANGE, _SMALLEST_CHANGE_OF_MANY = 0.25, 1.0
_MANY = 30
_LEAST = 2
MOST_TOGETHER = 16
"""Tasks in one message at most: with more of them the broker's part of a task does not fall much further."""
_SPREAD = 256
"""What a lane may have outstanding lies in at least so many messages, so that free workers find something: with 128 the
messages of a fleet whose tasks take 10 ms were refused more often (1.6 instead of 1.5 deliveries a task)."""
_PIECES = 32
"""So does one batch: a burst goes to all workers."""
_TOGETHER_SECONDS = 5.0
"""For so long after a batch its lane is sized for it; by then workers have announced what they receive."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one worker wants: tasks at a time, over the queues it serves."""

    worker: str
    want: int
    queues: tuple[str, ...]
    together: float = 1.0
    """Tasks in a message that it received lately."""


def share_out(
    demands: list[Demand], lanes: Mapping[str, Mapping[str, bool]], together: Mapping[tuple[str, str], float] = {}
) -> dict[tuple[str, str], int]:
    """The ``max_ack_pending`` of each (queue, lane), given how many tasks its next messages will have at least.

    ``lanes`` says for each queue which of its lanes have messages waiting.  Hungry lanes share the whole want of their
    workers, lanes without work keep a small part of it so that the first message of a burst starts at once.
    """
    limits: dict[tuple[str, str], int] = {}
    for demand in demands:
        mine = [(queue, lane, hungry) for queue in demand.queues for lane, hungry in lanes.get(queue, {}).items()]
        hungry = sum(1 for _, _, is_hungry in mine if is_hungry)
        calm = len(mine) - hungry
        for queue, lane, is_hungry in mine:
            part = demand.want / hungry if is_hungry else demand.want * (0.5 if hungry else 1.0) / calm
            size = max(demand.together, together.get((queue, lane), 1.0))
            limits[queue, lane] = limits.get((queue, lane), 0) + max(_LEAST, round(part / size))
    return limits


class Shares:
    """Keeps what workers announced and what was set, and says what has to change."""

    def __init__(self) -> None:
        self._demands: dict[str, tuple[Demand, float]] = {}
        self._set: dict[tuple[str, str], int] = {}
        self._tasks: dict[tuple[str, str], int] = {}
        self._together: dict[tuple[str, str], tuple[int, float]] = {}
        self.changed = asyncio.Event()

    async def announced(self, message: Message) -> None:
        """One announcement of a worker; ``want`` 0 takes it out."""
        try:
            body = json.loads(message.data)
            demand = Demand(str(body["worker"]), int(body["want"]), tuple(map(str, body["queues"])))
            demand = replace(demand, together=max(1.0, float(body.get("together", 1))))
        except (ValueError, KeyError, TypeError):
            _log.warning("unreadable announcement of a worker ignored")
            return
        before = self._demands.get(demand.worker)
        if before is None or before[0] != demand:
            self.changed.set()
        if demand.want <= 0:
            self._demands.pop(demand.worker, None)
        else:
            self._demands[demand.worker] = (demand, time.monotonic())

    @property
    def queues(self) -> set[str]:
        """Every queue that some live worker serves."""
        return {queue for demand, _ in self._demands.values() for queue in demand.queues}

    def changes(self, lanes: Mapping[str, Mapping[str, bool]]) -> dict[tuple[str, str], int]:
        """Limits, in messages, that differ enough from what was set last; call :meth:`was_set` after each update.

        A quarter is enough, with many lanes twice or half: each update costs the server about a millisecond.
        """
        oldest = time.monotonic() - _FORGET_SECONDS
        self._demands = {name: kept for name, kept in self._demands.items() if kept[1] > oldest}
        self.changed.clear()
        step = 1 + (_SMALLEST_CHANGE if sum(map(len, lanes.values())) < _MANY else _SMALLEST_CHANGE_OF_MANY)
        demands = [demand for demand, _ in self._demands.values()]
        self._tasks = share_out([replace(demand, together=1.0) for demand in demands], lanes)
        wanted = share_out(demands, lanes, {key: self._size(key) for key in self._together})
        return {
            key: limit
            for key, limit in wanted.items()
            if not self._set.get(key, 0) / step <= limit <= self._set.get(key, 0) * step
        }

    def _size(self, key: tuple[str, str]) -> int:
        size, until = self._together.get(key, (1, 0.0))
        return size if time.monotonic() < until else 1

    def together(self, queue: str, lane: str, count: int) -> int:
        """How many of ``count`` tasks that are published at once travel in one message of the lane."""
        key = (queue, lane)
        size = min(MOST_TOGETHER, self._tasks.get(key, 0) // _SPREAD, count // _PIECES)
        if size <= 1:
            return 1
        before = self._size(key)
        self._together[key] = (max(size, before), time.monotonic() + _TOGETHER_SECONDS)
        if size > before:
            self.changed.set()
        return size

    def limit(self, queue: str, lane: str) -> int:
        """How many tasks the lane may have outstanding, 0 if nothing was set yet."""
        return self._tasks.get((queue, lane), 0) if (queue, lane) in self._set else 0

    def was_set(self, key: tuple[str, str], limit: int) -> None:
        """Remember a successful update."""
        self._set[key] = limit

    def forget_limits(self) -> None:
        """The consumers may be new: set every limit again."""
        self._set.clear()
