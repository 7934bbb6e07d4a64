"""Follow tasks as they move: announcements pushed over core NATS, completed by one look per batch into the database.

What is announced: publication (``queued``), every end, and every attempt that left its task waiting.  PostgreSQL is
asked only for tasks that were just announced; without announcements it is asked nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from dispatcher.bus import Bus, Message
from dispatcher.database import Database
from dispatcher.subjects import Subjects
from dispatcher.task_info import Shown
from dispatcher.wire import Reference, decode, decode_settled
from state.machine import Reason, State
from state.queries import TOLD

__all__ = ["Move", "Tail"]

_BATCH = 500
_MOST_WAITING = 20_000
_LATELY = 10_000
"""Published references that are remembered: repeats follow within milliseconds, or seconds after an outage."""


class _Announced(NamedTuple):
    task_id: UUID
    state: State
    at: datetime


@dataclass(frozen=True, slots=True)
class Move(Shown):
    """One announced move.  ``seconds`` is how long the last run took, for tasks that ended."""

    at: datetime
    id: UUID
    type: str
    queue: str
    lane: str
    state: str
    reason: str | None
    attempt: int
    tries: int
    max_attempts: int
    due_at: datetime | None
    seconds: float | None
    error: str | None


class Tail:
    """``async for moves in tail.moves()``.  ``missed`` counts announcements that came faster than they were read."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        database: Database,
        *,
        states: Collection[State] = (),
        queues: Collection[str] = (),
        types: Collection[str] = (),
    ) -> None:
        self._bus, self._subjects, self._database = bus, subjects, database
        self._states, self._queues, self._types = frozenset(states), frozenset(queues), frozenset(types)
        self._waiting: deque[_Announced] = deque()
        self._arrived = asyncio.Event()
        self._published_lately: dict[Reference, None] = {}
        self.missed = 0

    async def start(self) -> None:
        """Listen; what is announced from now on will be told."""
        await self._bus.subscribe(self._subjects.settled, self._moved)
        await self._bus.subscribe(self._subjects.waits, self._moved)
        if not self._states or State.QUEUED in self._states:
            await self._bus.subscribe(self._subjects.all_lanes, self._published)
            await self._bus.subscribe(self._subjects.all_hints, self._published)

    async def moves(self) -> AsyncGenerator[list[Move]]:
        """Batches of moves that match every filter, for ever.  Raises one of ``Transient``."""
        while True:
            await self._arrived.wait()
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            if not self._waiting:
                self._arrived.clear()
            found = await self._look(batch)
            if found:
                yield found

    async def _moved(self, message: Message) -> None:
        try:
            told = decode_settled(message.data)
        except ValueError:
            return
        for task_id, state in told:
            self._add(task_id, State(state))

    async def _published(self, message: Message) -> None:
        try:
            references = decode(message.data)
        except ValueError:
            return
        lately = self._published_lately
        for reference in references:
            if reference in lately:  # a message may be sent more than once; the stream drops repeats, we do too
                continue
            lately[reference] = None
            if len(lately) > _LATELY:
                del lately[next(iter(lately))]
            self._add(reference.task_id, State.QUEUED)

    def _add(self, task_id: UUID, state: State) -> None:
        if self._states and state not in self._states:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self.missed += 1
            return
        self._waiting.append(_Announced(task_id, state, datetime.now(UTC)))
        self._arrived.set()

    async def _look(self, batch: list[_Announced]) -> list[Move]:
        rows = await self._database.run(TOLD, {"ids": [announced.task_id for announced in batch]})
        moves = []
        for n, task_id, kind, queue, lane, reason, attempt, tries, most, _, started, finished, due, error in rows:
            if (self._queues and queue not in self._queues) or (self._types and kind not in self._types):
                continue
            announced = batch[n - 1]
            ended = announced.state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)
            took = (finished - started).total_seconds() if ended and finished and started else None
            waits = announced.state in (State.RETRYING, State.SCHEDULED)
            moves.append(
                Move(
                    announced.at, task_id, kind, queue, lane, announced.state.label,
                    None if reason is None or announced.state is State.QUEUED else Reason(reason).label,
                    attempt, tries, most, due if waits else None, took,
                    None if announced.state is State.QUEUED else error,
                )
            )  # fmt: skip
        return moves
