"""Claims what has gathered in the inbox, batch by batch, and decides about every message it did not get.

Natural batching: a batch is what arrived while the last statement was in flight.  No timer at low load; a pause of
4 ms only when the last batch had several tasks, which doubles the batches of many small transactions.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from psycopg.rows import TupleRow

from dispatcher.bus import Bus, Message
from dispatcher.database import Database, Transient, pause_before_retry
from dispatcher.task import TaskType
from state import claims, requests
from state.machine import State
from workers.attempt import Attempt, Delivery
from workers.inbox import Inbox, deliveries_of
from workers.messages import Held, Parcel, acknowledge, give_back
from workers.session import Session
from workers.sessions import Sessions

__all__ = ["BATCH", "Claimer"]

_log = logging.getLogger("dispatcher.claim")

BATCH = 500
_LINGER_SECONDS = 0.004
_SMALL = 50
_MOST_AWAY = 2000
_LOCKED_SECONDS = 0.001


class Claimer:
    """``room()`` says how many more tasks may be claimed now; ``start(attempts)`` runs them."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        inbox: Inbox,
        sessions: Sessions,
        types: Mapping[int, TaskType[Any, Any, Any]],
        worker: str,
        room: Callable[[], int],
        start: Callable[[list[Attempt]], None],
        held: Mapping[UUID, Attempt],
        ended: Callable[[Mapping[UUID, State]], Awaitable[None]],
    ) -> None:
        self._database, self._bus, self._inbox, self._sessions = database, bus, inbox, sessions
        self._types, self._type_ids, self._worker = types, list(types), worker
        self._room, self._start, self._held, self._ended = room, start, held, ended
        self._away: dict[UUID, float] = {}
        self.claiming: list[Delivery] = []
        """The batch whose claim is under way."""
        self.has_room = asyncio.Event()
        self.quiet = asyncio.Event()
        """Set while no claim is under way."""
        self.quiet.set()
        self.counts = {"claimed": 0, "stale": 0, "quarantined": 0, "parked": 0, "unknown_type": 0, "expired": 0}
        """What became of deliveries since the start."""

    async def run(self) -> None:
        """Claim until cancelled; outages of the database are waited out with the messages given back."""
        tries = 0
        while True:
            await self._inbox.arrived.wait()
            most = min(BATCH, self._room())
            if most <= 0:
                self.has_room.clear()
                await self.has_room.wait()
                continue
            batch = self.claiming = self._inbox.take(most)
            self.quiet.clear()
            try:
                got = await self._claim(batch)
                tries = 0
            except Transient as error:
                tries += 1
                _log.warning("claim failed, the database is away: %s", str(error).strip().split("\n")[0])
                await self._give_back(batch)
                await self._database.close()
                await pause_before_retry(tries)
                continue
            finally:
                self.claiming = []
                self.quiet.set()
            if 1 < got < _SMALL and not len(self._inbox):
                await asyncio.sleep(_LINGER_SECONDS)

    async def _claim(self, batch: list[Delivery]) -> int:
        held = self._held
        batch = [delivery for delivery in batch if delivery.task_id not in held or not self._joins(delivery)]
        if not batch:
            return 0
        session = await self._sessions.current()
        number, session.next_batch = session.next_batch, session.next_batch + 1
        params = self._params(session, batch)
        params["batch"] = number
        session.claiming += 1
        try:
            rows = await self._database.run(claims.CLAIM if len(batch) > 1 else claims.CLAIM_ONE, params)
        except Transient:
            await self._read_again(session, batch)
            raise
        finally:
            session.claiming -= 1
            if session.doubtful:
                self._sessions.finished(session)
        self._adopt(session, number, rows, batch)
        if len(rows) < len(batch):
            got = {row[0] for row in rows}
            await self._missed(session, [delivery for n, delivery in enumerate(batch, 1) if n not in got])
        return len(rows)

    async def _read_again(self, session: Session, batch: list[Delivery]) -> None:
        """Whether a claim was committed is unknown: read it on another connection and run what it took.

        The session takes no more work: the lost statement may still be committed after our look, and what it takes
        then is found by the rescuer when the session ends.
        """
        session.doubtful = True
        tries = 0
        while not session.lost and time.monotonic() < session.deadline:
            await self._database.close()
            try:
                await self._mine(session, batch)
                break
            except Transient:
                tries += 1
                await pause_before_retry(tries, 1.0)
        self._sessions.doubt(session)

    def _params(self, session: Session, batch: list[Delivery]) -> dict[str, Any]:
        return {
            "session": session.id,
            "ids": [delivery.task_id for delivery in batch],
            "attempts": [delivery.attempt for delivery in batch],
            "types": self._type_ids,
        }

    def _adopt(self, session: Session, number: int, rows: list[TupleRow], batch: list[Delivery]) -> None:
        """Run what the database gave us; each row names its delivery by position, from 1."""
        if not rows:
            return
        types, now = self._types, time.monotonic()
        attempts = [
            Attempt(batch[n - 1], session, number, tries, max_tries, types[type_id], queue_id, args, meta, now, inputs)
            for n, tries, max_tries, type_id, queue_id, args, meta, inputs in rows
        ]
        session.held += len(attempts)
        session.left_in_batch[number] = len(attempts)
        self.counts["claimed"] += len(attempts)
        self._start(attempts)

    def _joins(self, delivery: Delivery) -> bool:
        """A second message for an attempt that runs here: it shares the fate of the first."""
        mine = self._held.get(delivery.task_id)
        if mine is None or mine.number != delivery.attempt or mine.session.lost:
            return False
        mine.delivery.join(delivery.parcels)
        return True

    async def _give_back(self, batch: list[Delivery]) -> None:
        """No database: 1 to 5 s later, to whoever reaches it."""
        for delivery in batch:
            if delivery.task_id not in self._held:
                await give_back(self._bus, [delivery], random.uniform(1.0, 5.0))

    async def _missed(self, session: Session, missed: list[Delivery]) -> None:
        """Decide about each delivery that was not claimed, by what its row says now."""
        missed = [delivery for delivery in missed if not delivery.only_hinted]
        if not missed:
            return
        by_key = {(delivery.task_id, delivery.attempt): delivery for delivery in missed}
        groups: dict[str, list[Delivery]] = {}
        for row in await self._database.run(claims.LOOK, self._params(session, missed)):
            groups.setdefault(_verdict(row), []).append(by_key[row[0], row[1]])
        for verdict, deliveries in groups.items():
            await getattr(self, f"_{verdict}")(session, deliveries)

    async def _stale(self, session: Session, deliveries: list[Delivery]) -> None:
        """Somebody else has it or had it, or it ended: the message has nothing to say any more."""
        self.counts["stale"] += len(deliveries)
        await acknowledge(self._bus, deliveries)

    async def _mine(self, session: Session, deliveries: list[Delivery]) -> None:
        """An earlier claim of this very session whose reply was lost: adopt it."""
        number, session.next_batch = session.next_batch, session.next_batch + 1
        rows = await self._database.run(claims.ADOPT, self._params(session, deliveries) | {"batch": number})
        self._adopt(session, number, rows, deliveries)

    async def _locked(self, session: Session, deliveries: list[Delivery]) -> None:
        """Only skipped because somebody holds its row: again in 2 ms, and later and later while that goes on."""
        for delivery in deliveries:
            times = deliveries_of(delivery.parcels[0].reply)
            await give_back(self._bus, [delivery], min(1.0, _LOCKED_SECONDS * 2 ** min(times, 10)))

    async def _unknown_type(self, session: Session, deliveries: list[Delivery]) -> None:
        """No code for it here: give it to another worker, without haste and without a write.

        The server chooses whom it goes to next, and may choose those without the code many times in a row: the delay
        grows slowly, so that one worker in ten that knows the type is found within half a minute.
        """
        self.counts["unknown_type"] += len(deliveries)
        now = time.monotonic()
        for delivery in deliveries:
            delay = min(30.0, max(1.0, deliveries_of(delivery.parcels[0].reply) / 4) * random.uniform(1.0, 2.0))
            self._away[delivery.task_id] = now + delay + 1.0
            await give_back(self._bus, [delivery], delay)

    @property
    def away(self) -> int:
        """Messages of types unknown here that the server holds back for us.

        They count as outstanding: without room for them beside the others, a few dozen would stop their whole lane.
        """
        if self._away:
            now = time.monotonic()
            self._away = {task: until for task, until in self._away.items() if until > now}
        return min(len(self._away), _MOST_AWAY)

    async def _paused(self, session: Session, deliveries: list[Delivery]) -> None:
        """Its queue is paused: park it, so that the message need not be kept going round."""
        params = self._params(session, deliveries)
        parked = {
            row[0] for row in await self._database.run(requests.PARK, {key: params[key] for key in ("ids", "attempts")})
        }
        self.counts["parked"] += len(parked)
        await acknowledge(self._bus, [delivery for delivery in deliveries if delivery.task_id in parked])
        await self._locked(session, [delivery for delivery in deliveries if delivery.task_id not in parked])

    async def _expired(self, session: Session, deliveries: list[Delivery]) -> None:
        params = self._params(session, deliveries)
        rows = await self._database.run(claims.EXPIRE, {key: params[key] for key in ("ids", "attempts")})
        self.counts["expired"] += len(rows)
        await self._ended({row[0]: State.FAILED for row in rows})
        await self._locked(session, deliveries)

    async def _foreign(self, session: Session, deliveries: list[Delivery]) -> None:
        """No such task, or an attempt that does not exist yet: keep the evidence, never run it."""
        for delivery in deliveries:
            payload = delivery.task_id.bytes + delivery.attempt.to_bytes(4, "big")
            await self._quarantine(delivery, payload, "no such task or attempt")

    async def unreadable(self, message: Message, why: str) -> None:
        """A message that is not one of ours."""
        await self._quarantine(Parcel(message.reply, message.subject, time.monotonic()), message.data[:1000], why)

    async def _quarantine(self, held: Held, payload: bytes, why: str) -> None:
        subject = held.parcels[0].subject
        self.counts["quarantined"] += 1
        _log.warning("message on %s quarantined: %s", subject, why)
        params = {"subject": subject, "payload": bytes(payload), "why": why, "worker": self._worker}
        try:
            await self._database.run(claims.QUARANTINE, params)
        except Transient:
            await give_back(self._bus, [held], random.uniform(1.0, 5.0))
            return
        await acknowledge(self._bus, [held])


def _verdict(row: TupleRow) -> str:
    """What became of one delivery: the name of the method that deals with it."""
    _, attempt, row_attempt, state, mine, known, paused, expired, *_ = row
    if row_attempt is None or attempt > row_attempt:
        return "foreign"
    if attempt < row_attempt or state not in (State.QUEUED, State.RUNNING):
        return "stale"
    if state == State.RUNNING:
        return "mine" if mine else "stale"
    if expired:
        return "expired"
    if not known:
        return "unknown_type"
    return "paused" if paused else "locked"
