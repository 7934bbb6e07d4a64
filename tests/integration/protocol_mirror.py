"""The pure steps of ``state.protocol`` beside the real statements: the same action in both, then the same state.

After every step rows, outbox, dispatch log, sessions, claims, side tables and the whole audit trail are compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from state.machine import State
from state.protocol import steps as pure
from state.protocol.guards import allowed
from state.protocol.rows import Ask, Db, Message, Row
from tests.integration.protocol_steps import Protocol

__all__ = ["Mirror"]

_OBSERVED = """
SELECT 'task', ARRAY[t.id::text, t.state::text, t.attempt::text, t.dispatch::text, t.tries::text, t.max_tries::text,
    t.generation::text, (t.flags & 1)::text, coalesce(t.session_id, 0)::text, coalesce(m.attempt, 0)::text,
    coalesce(p.attempt, 0)::text, coalesce((t.expires_at <= now())::int, 0)::text]
FROM dispatcher.tasks t LEFT JOIN dispatcher.timers m ON m.task_id = t.id AND m.kind = 1
    LEFT JOIN dispatcher.parked p ON p.task_id = t.id
UNION ALL SELECT 'outbox', ARRAY[task_id::text, attempt::text, dispatch::text] FROM dispatcher.outbox
UNION ALL SELECT 'log', ARRAY[e.id::text, e.attempt::text, e.dispatch::text]
FROM dispatcher.dispatch_log d, unnest(d.task_ids, d.attempts, d.dispatches) AS e (id, attempt, dispatch)
UNION ALL SELECT 'session', ARRAY[id::text, (expires_at <= now())::int::text] FROM dispatcher.sessions
UNION ALL SELECT 'claim', ARRAY[c.session_id::text, e.id::text, e.attempt::text]
FROM dispatcher.claims c, unnest(c.task_ids, c.attempts) AS e (id, attempt)
UNION ALL SELECT 'progress', ARRAY[task_id::text, attempt::text] FROM dispatcher.progress
UNION ALL SELECT 'event', ARRAY[task_id::text, lpad(seq::text, 6, '0'), coalesce(from_state, 0)::text, to_state::text,
    attempt::text, coalesce(session_id, 0)::text] FROM dispatcher.task_events
UNION ALL SELECT 'paused', ARRAY[paused::int::text] FROM dispatcher.queues
"""


class Mirror:
    """One installation, twice."""

    def __init__(self, real: Protocol) -> None:
        self.real = real
        self.db = Db(tasks=())
        self.ids: list[UUID] = []
        self._history: list[list[tuple[int, ...]]] = []
        self._progress: dict[int, int] = {}
        self._due: set[tuple[int, int]] = set()
        """(task, attempt) of start timers whose time has come."""
        self._over: set[int] = set()
        """Tasks whose expiry timer is due."""
        self._compared = -1

    def number(self, task: UUID) -> int:
        """Its place in the pure world."""
        return self.ids.index(task)

    def row(self, task: UUID) -> Row:
        """What the pure world says about it."""
        return self.db.tasks[self.number(task)]

    def _become(self, after: Db) -> bool:
        """Go on with ``after`` and expect an event for each state that changed; whether anything did."""
        for n, (old, new) in enumerate(zip(self.db.tasks, after.tasks, strict=True)):
            if old.state is not new.state:
                attempt = old.attempt if old.state is State.RUNNING else new.attempt
                self._history[n].append((old.state, new.state, attempt, new.session or old.session))
        changed = after != self.db
        self.db = after
        return changed

    # both at once ---------------------------------------------------------------------------------------------------

    def create(self, tries: int = 3, delay: float | None = None, expires: float | None = None) -> None:
        self.ids.append(self.real.create(tries=tries, delay=delay, expires=expires))
        row = Row(State.QUEUED if delay is None else State.SCHEDULED, max_tries=tries, timer=int(delay is not None))
        message: frozenset[Message] = frozenset({(len(self.db.tasks), 1, 1)} if delay is None else ())
        self._history.append([(0, row.state, 1, 0)])
        self.db = self.db._replace(tasks=(*self.db.tasks, row), outbox=self.db.outbox | message)

    def open(self, worker: str) -> int:
        session = self.real.open(worker)
        self.db = pure.open_session(self.db, session)
        return session

    def renew(self, session: int) -> bool:
        """Whether the session is still there."""
        self.real.sql("UPDATE dispatcher.sessions SET lease = '1 h' WHERE id = %s", session)
        found = bool(self.real.renew(session))
        self.db = pure.renew(self.db, session)
        assert found == ((session, False) in self.db.sessions)
        return found

    def end_lease(self, session: int) -> None:
        self.real.expire(session)
        self.db = pure.end_lease(self.db, session)

    def take(self) -> list[tuple[UUID, int, int]]:
        """One drain."""
        taken = self.real.take()
        for message in self.db.outbox:
            self.db = pure.commit_drain(self.db, message)
        return taken

    def forget(self) -> None:
        """What the relay does some milliseconds after it told workers of tasks."""
        gone, needed = self.real.forget()
        before = self.db.outbox
        for message in before:
            self.db = pure.forget(self.db, message)
        assert gone == len(before) - len(self.db.outbox)
        assert sorted(needed) == sorted(self.ids[task] for task, _, _ in self.db.outbox)

    def deliver(self, session: int, task: UUID, attempt: int) -> bool:
        """A claim; and as a worker does when it gets nothing because the task has expired, its end."""
        n = self.number(task)
        claimed = bool(self.real.claim(session, task, attempts=[attempt]))
        assert claimed == self._become(pure.claim(self.db, n, attempt, session))
        if not claimed and self.db.tasks[n].expired:
            ended = self.real.expire_at_claim(task, attempt)
            assert bool(ended) == self._become(pure.expire(self.db, n, attempt))
        return claimed

    def succeed(self, session: int, task: UUID, attempt: int) -> None:
        accepted = self.real.succeed(session, task, attempt)
        assert accepted == self._become(pure.succeed(self.db, self.number(task), attempt, session))

    def leave(self, session: int, task: UUID, attempt: int, to: State, reason: int, refund: int) -> None:
        goal = self.real.leave(session, task, attempt, to, reason, refund=refund)
        accepted = self._become(pure.leave(self.db, self.number(task), attempt, session, to, refund))
        assert goal == (self.row(task).state if accepted else None)

    def progress(self, session: int, task: UUID, attempt: int) -> None:
        self.real.progress(session, task, attempt)
        if allowed("settle", self.row(task), Ask(attempt, session)):
            self._progress[self.number(task)] = attempt

    def rescue(self) -> None:
        given = self.real.rescue()
        before = self.db
        for session, _ in sorted(item for item in before.sessions if item[1]):
            self._become(pure.rescue(self.db, session))
        pairs = zip(self.ids, before.tasks, self.db.tasks, strict=True)
        assert given == {task: new.state for task, old, new in pairs if old.state is not new.state}

    def time_passes(self, task: UUID, kind: int) -> None:
        """A start timer (1) or an expiry (2) comes due, if there is one."""
        n = self.number(task)
        if self.real.due(task, kind) and kind == 2:
            self._over.add(n)
            tasks = (*self.db.tasks[:n], self.db.tasks[n]._replace(expired=True), *self.db.tasks[n + 1 :])
            self.db = self.db._replace(tasks=tasks)
        elif kind == 1 and self.db.tasks[n].timer:
            self._due.add((n, self.db.tasks[n].timer))

    def promote(self) -> None:
        """What the leader does with due timers."""
        self.real.promote()
        for n, row in enumerate(self.db.tasks):
            if (n, row.timer) in self._due:
                self._become(pure.promote(self.db, n))
        self.real.expire_due()
        for n in self._over:
            self._become(pure.expire(self.db, n, self.db.tasks[n].attempt))
        self._over.clear()

    def reconcile(self) -> None:
        """As if every message were gone."""
        self.real.reconcile()
        for entry in sorted(self.db.log):
            self._become(pure.reconcile(self.db, entry))

    def cancel(self, task: UUID) -> None:
        (said,) = self.real.cancel(task)
        after, answer = pure.cancel(self.db, self.number(task))
        self._become(after)
        assert said == answer

    def retry(self, task: UUID) -> None:
        (said,) = self.real.retry(task)
        queued = self._become(pure.retry(self.db, self.number(task)))
        assert said == ("queued" if queued else "not_retryable")
        if queued:
            self._progress.pop(self.number(task), None)

    def pause(self) -> None:
        self.real.pause()
        self.db = self.db._replace(paused=True)

    def resume(self) -> None:
        self.real.resume()
        self.db = self.db._replace(paused=False)

    def park(self, task: UUID) -> None:
        attempt = self.row(task).attempt
        parked = self.real.park(task, attempt)
        may = allowed("park", self.row(task), Ask(attempt, paused=self.db.paused))
        self._become(pure.park(self.db, self.number(task), attempt))
        assert parked == ([task] if may else [])

    def unpark(self) -> None:
        self.real.unpark()
        for n in range(len(self.ids)):
            self._become(pure.unpark(self.db, n))

    # comparing ------------------------------------------------------------------------------------------------------

    def agree(self) -> None:
        """Raises ``AssertionError`` where the two differ; looks only if a statement has run since."""
        if self.real.ran == self._compared:
            return
        found: dict[str, list[tuple[str, ...]]] = {}
        for kind, values in self.real.sql(_OBSERVED):
            found.setdefault(kind, []).append(tuple(values))
        expected = {kind: rows for kind, rows in self._expected().items() if rows}
        assert {kind: sorted(rows) for kind, rows in found.items()} == expected
        self._compared = self.real.ran

    def _expected(self) -> dict[str, list[tuple[str, ...]]]:
        db, ids = self.db, self.ids
        return {
            "task": _texts((ids[n], row.state, *_numbers(row)) for n, row in enumerate(db.tasks)),
            "outbox": _texts((ids[n], attempt, dispatch) for n, attempt, dispatch in db.outbox),
            "log": _texts((ids[n], attempt, dispatch) for n, attempt, dispatch in db.log),
            "session": _texts(db.sessions),
            "claim": _texts((session, ids[n], attempt) for session, n, attempt in db.claims),
            "progress": _texts((ids[n], attempt) for n, attempt in self._progress.items()),
            "event": _texts(
                (ids[n], f"{seq:06}", *event) for n, events in enumerate(self._history)
                for seq, event in enumerate(events, 1)
            ),
            "paused": _texts([(db.paused,)]),
        }  # fmt: skip


def _numbers(row: Row) -> tuple[Any, ...]:
    return (
        row.attempt, row.dispatch, row.tries, row.max_tries, row.generation, row.cancel, row.session, row.timer,
        row.parked, row.expired,
    )  # fmt: skip


def _texts(rows: Iterable[tuple[Any, ...]]) -> list[tuple[str, ...]]:
    """As the database writes them, in order."""
    return sorted(tuple(str(int(v)) if isinstance(v, bool | int) else str(v) for v in row) for row in rows)
