"""Settles finished attempts in batches: one guarded statement per session, then the acknowledgements.

The acknowledgement comes after the commit.  A lost one is harmless: the task is delivered again, its row says no, and
the message is acknowledged then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow

from dispatcher.bus import Bus
from dispatcher.database import Database, Transient, pause_before_retry
from dispatcher.subjects import Subjects
from dispatcher.wire import encode_settled
from state import claims, settle
from state.machine import FINAL, Flag, Reason, State
from workers.attempt import Attempt, Outcome
from workers.messages import acknowledge, give_back
from workers.session import Session
from workers.sessions import Sessions

__all__ = ["BATCH", "Settler"]

_log = logging.getLogger("dispatcher.settle")

BATCH = 500
_PROGRESS_SECONDS = 0.5
_SKIPPED_SECONDS = 0.005
_SUCCEED = {
    ("plain", False): settle.SUCCEED,
    ("plain", True): settle.SUCCEED_LOGGED,
    ("in_flow", False): settle.SUCCEED_IN_FLOW,
    ("in_flow", True): settle.SUCCEED_IN_FLOW_LOGGED,
}
"""By what is settled, and whether a handler logged."""
_WAITING = frozenset({State.BLOCKED, State.SCHEDULED, State.QUEUED, State.RETRYING})


class Settler:
    """``finished`` and ``progress`` are called in the event loop's thread or, ``progress``, in any."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        subjects: Subjects,
        sessions: Sessions,
        done: Callable[[list[Attempt], Mapping[UUID, State]], None],
    ) -> None:
        self._database, self._bus, self._subjects, self._sessions = database, bus, subjects, sessions
        self._done = done
        self._waiting: list[Attempt] = []
        self._progress: dict[UUID, tuple[Attempt, float, str | None]] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._next_progress = 0.0
        self._loop = asyncio.get_running_loop()
        self.refused = 0
        """Outcomes that came too late and changed nothing."""

    def finished(self, attempt: Attempt) -> None:
        """Take an attempt whose outcome is set."""
        self._waiting.append(attempt)
        self._idle.clear()
        self._wake.set()

    def progress(self, attempt: Attempt, fraction: float, message: str | None) -> None:
        """Remember the last progress of an attempt; written soon, together with others.  Any thread."""
        self._progress[attempt.task_id] = (attempt, fraction, message)
        if not self._wake.is_set():
            self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Settle until cancelled; while the database is away outcomes wait here."""
        tries = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                await self._settle_all(batch)
                await self._write_progress()
                tries = 0
            except Transient as error:
                # What was committed before the connection broke is refused at the second try and then read.
                tries += 1
                _log.warning("settle failed, the database is away: %s", str(error).strip().split("\n")[0])
                self._put_back(batch)
                await self._database.close()
                await pause_before_retry(tries)
            except psycopg.Error as error:
                await self._isolate(batch, error)
            if self._waiting:
                self._wake.set()
            else:
                self._idle.set()

    def _put_back(self, batch: list[Attempt]) -> None:
        """Try again what is not decided; some of it may wait for its second try already."""
        again = set(map(id, self._waiting))
        self._waiting[:0] = [held for held in batch if not held.decided and id(held) not in again]
        self._wake.set()

    async def _isolate(self, batch: list[Attempt], error: psycopg.Error) -> None:
        """One outcome cannot be written: find it, and let it fail alone instead of ending the worker."""
        undecided = [attempt for attempt in batch if not attempt.decided]
        if len(undecided) == 1:
            _log.error("the outcome of task %s cannot be written: %s", undecided[0].task_id, error)
            undecided[0].outcome = Outcome(State.FAILED, reason=Reason.UNSERIALISABLE, detail=_unwritable(error))
            undecided[0].lines = None
        for attempt in undecided:
            try:
                await self._settle_all([attempt])
            except Transient:
                self._put_back(undecided)
                return
            except psycopg.Error as alone:
                if len(undecided) == 1:
                    raise
                await self._isolate([attempt], alone)

    async def flushed(self) -> None:
        """Wait until everything that finished is settled."""
        await self._idle.wait()

    async def _settle_all(self, batch: list[Attempt]) -> None:
        groups: dict[tuple[Session, str], list[Attempt]] = {}
        for attempt in batch:
            groups.setdefault((attempt.session, _kind(attempt)), []).append(attempt)
        for (session, kind), attempts in groups.items():
            if kind == "committed":
                if logged := _logged(attempts):
                    await self._database.run(settle.LOG, logged)
                await self._announce(session, attempts, {a.task_id: a.outcome.to for a in attempts if a.outcome})
                continue
            done_batches = list(session.done_batches)
            params = self._params(session, attempts, kind != "left")
            params["batches"] = done_batches
            accepted = await (self._leave(params) if kind == "left" else self._succeed(attempts, params, kind))
            session.done_batches = session.done_batches[len(done_batches) :]
            settled = attempts
            if len(accepted) < len(attempts):
                settled = await self._refusals(session, attempts, accepted)
            await self._announce(session, settled, accepted)

    async def _succeed(self, attempts: list[Attempt], params: dict[str, Any], kind: str) -> dict[UUID, State]:
        [(positions, *_)] = await self._database.run(_SUCCEED[kind, "log_ids" in params], params)
        taken = attempts if positions is None else [attempts[n - 1] for n in positions]
        return {attempt.delivery.task_id: State.SUCCEEDED for attempt in taken}

    async def _leave(self, params: dict[str, Any]) -> dict[UUID, State]:
        sql = settle.LEAVE_LOGGED if "log_ids" in params else settle.LEAVE
        return {row[0]: State(row[1]) for row in await self._database.run(sql, params)}

    @staticmethod
    def _params(session: Session, attempts: list[Attempt], succeeded: bool) -> dict[str, Any]:
        params: dict[str, Any] = {
            "session": session.id,
            "ids": [attempt.delivery.task_id for attempt in attempts],
            "attempts": [attempt.delivery.attempt for attempt in attempts],
        }
        params |= _logged(attempts)
        outcomes = [attempt.outcome for attempt in attempts if attempt.outcome is not None]
        if succeeded:
            params["results"] = [outcome.result for outcome in outcomes]
            return params
        return params | {
            "to": [int(outcome.to) for outcome in outcomes],
            "reasons": [None if outcome.reason is None else int(outcome.reason) for outcome in outcomes],
            "delays": [outcome.delay for outcome in outcomes],
            "refunds": [outcome.refund for outcome in outcomes],
            "details": [None if outcome.detail is None else json.dumps(outcome.detail) for outcome in outcomes],
        }

    async def _refusals(self, session: Session, attempts: list[Attempt], accepted: dict[UUID, State]) -> list[Attempt]:
        """Rows that were locked are tried again; for the others read what is true.  Returns those that are decided."""
        left = [attempt for attempt in attempts if attempt.task_id not in accepted]
        params = {
            "session": session.id,
            "types": [],
            "ids": [a.task_id for a in left],
            "attempts": [a.number for a in left],
        }
        rows: dict[UUID, TupleRow] = {row[0]: row for row in await self._database.run(claims.LOOK, params)}
        skipped = set()
        for attempt in left:
            _, number, row_attempt, state, mine, *_, flags = rows[attempt.task_id]
            if state == State.RUNNING and mine and row_attempt == number:
                skipped.add(attempt.task_id)
                attempt.in_flow = bool(flags & Flag.IN_FLOW)
                self._waiting.append(attempt)
            elif state == State.QUEUED and row_attempt == number:
                # the claim itself is gone (a database that lost its last commits): the message is needed again
                await give_back(self._bus, [attempt.delivery], 0)
            else:
                self.refused += 1
                if state is not None:  # it may be our own outcome whose answer was lost: say it now
                    await self.tell({attempt.task_id: State(state)})
        if skipped:
            await asyncio.sleep(_SKIPPED_SECONDS)
        return [attempt for attempt in attempts if attempt.task_id not in skipped]

    async def _announce(self, session: Session, settled: list[Attempt], accepted: dict[UUID, State]) -> None:
        """Acknowledge, free what the attempts held, and tell whoever waits for a result."""
        await acknowledge(self._bus, [attempt.delivery for attempt in settled])
        for batch, count in Counter([attempt.batch for attempt in settled]).items():
            session.settled(batch, count)
        await self.tell(accepted)
        if self._progress:
            for attempt in settled:
                self._progress.pop(attempt.task_id, None)
        self._done(settled, accepted)
        for attempt in settled:
            attempt.decided = True
        self._sessions.finished(session)

    async def tell(self, states: Mapping[UUID, State]) -> None:
        """Tell whoever waits which tasks have ended, and whoever watches which of them wait again."""
        ended = [(task, int(state)) for task, state in states.items() if state in FINAL]
        if ended:
            await self._bus.publish(self._subjects.settled, encode_settled(ended))
        if len(ended) < len(states):
            if waits := [(task, int(state)) for task, state in states.items() if state in _WAITING]:
                await self._bus.publish(self._subjects.waits, encode_settled(waits))

    async def _write_progress(self) -> None:
        """At most twice a second; the last value of each attempt wins."""
        now = time.monotonic()
        if not self._progress:
            return
        if now < self._next_progress:
            self._loop.call_later(self._next_progress - now, self._wake.set)
            return
        self._next_progress = now + _PROGRESS_SECONDS
        taken, self._progress = self._progress, {}
        by_session: dict[Session, list[tuple[Attempt, float, str | None]]] = {}
        for item in taken.values():
            by_session.setdefault(item[0].session, []).append(item)
        for session, items in by_session.items():
            params = {
                "session": session.id,
                "ids": [item[0].task_id for item in items],
                "attempts": [item[0].number for item in items],
                "fractions": [item[1] for item in items],
                "messages": [item[2] for item in items],
            }
            await self._database.run(settle.PROGRESS, params)


def _logged(attempts: list[Attempt]) -> dict[str, Any]:
    """The parameters with log lines, if there are any."""
    logged = [(attempt, *attempt.lines.packed()) for attempt in attempts if attempt.lines is not None]
    if not logged:
        return {}
    return {
        "log_ids": [attempt.task_id for attempt, _, _ in logged],
        "log_attempts": [attempt.number for attempt, _, _ in logged],
        "log_dropped": [dropped for _, dropped, _ in logged],
        "log_lines": [lines for _, _, lines in logged],
    }


def _kind(attempt: Attempt) -> str:
    """Which statement settles it."""
    outcome = attempt.outcome
    assert outcome is not None
    if outcome.committed:
        return "committed"
    if outcome.to is not State.SUCCEEDED:
        return "left"
    return "in_flow" if attempt.in_flow or (attempt.meta and "flow" in attempt.meta) else "plain"


def _unwritable(error: psycopg.Error) -> dict[str, str]:
    """What is stored instead: the kind of refusal, never the value."""
    return {"type": type(error).__name__, "message": "the outcome of the handler cannot be stored"}
