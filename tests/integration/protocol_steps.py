"""Logical workers, a relay and a person, each step one of the real statements on one connection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg

from state import chores, claims, outbox, reconcile, requests, rescue, sessions, settle, timers
from state.ids import new_id
from state.machine import State
from state.sql import Sql

__all__ = ["Protocol"]

SCHEMA = "dispatcher"


class Protocol:
    """Autocommit: every method is one transaction of its own."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.boots: dict[int, UUID] = {}
        self.batches: dict[tuple[UUID, int], int] = {}
        self.left: dict[int, int] = {}
        self.batch = 0
        self.ran = 0
        """How many statements."""

    def run(self, sql: Sql, **params: Any) -> list[Any]:
        self.ran += 1
        cursor = self.connection.execute(sql.psycopg(SCHEMA).encode(), params or None)
        return cursor.fetchall() if cursor.description else []

    def sql(self, text: str, *params: Any) -> list[Any]:
        self.ran += 1
        cursor = self.connection.execute(text.encode(), params or None)
        return cursor.fetchall() if cursor.description else []

    # reading --------------------------------------------------------------------------------------------------------

    def row(self, task: UUID) -> dict[str, Any]:
        cursor = self.connection.execute("SELECT * FROM dispatcher.tasks WHERE id = %s", [task])
        row = cursor.fetchone()
        assert row is not None and cursor.description is not None
        return dict(zip([column.name for column in cursor.description], row, strict=True))

    def state(self, task: UUID) -> State:
        return State(self.row(task)["state"])

    def snapshot(self) -> list[Any]:
        """Every table that a refused write must leave alone."""
        names = (
            "tasks task_events outbox timers parked failures task_counts claims cancel_requests progress sessions"
            " dispatch_log"
        )
        return [sorted(map(str, self.sql(f"SELECT * FROM dispatcher.{name}"))) for name in names.split()]

    def types(self) -> list[int]:
        return [row[0] for row in self.sql("SELECT id FROM dispatcher.types ORDER BY id")]

    # a service ------------------------------------------------------------------------------------------------------

    def create(
        self,
        *,
        queue: str = "q",
        type: str = "t",
        tries: int = 3,
        delay: float | None = None,
        expires: float | None = None,
    ) -> UUID:
        task = new_id()
        self.sql(
            "SELECT dispatcher.create_task(%s, %s, %s, 'default', '{}', %s, 0, NULL, %s, %s)",
            task, type, queue, tries, delay, expires,
        )  # fmt: skip
        return task

    # workers --------------------------------------------------------------------------------------------------------

    def open(self, worker: str = "w", lease: float = 3600) -> int:
        boot = uuid4()
        session = int(self.run(sessions.OPEN, worker=worker, boot=boot, lease=lease)[0][0])
        self.boots[session] = boot
        return session

    def renew(self, session: int, boot: UUID | None = None) -> list[Any]:
        return self.run(sessions.RENEW, session=session, boot=boot or self.boots[session])

    def expire(self, session: int) -> None:
        """The lease ends now."""
        self.sql(
            "UPDATE dispatcher.sessions SET expires_at = now() - interval '1 s', lease = '1 ms' WHERE id = %s", session
        )

    def claim(
        self, session: int, *tasks: UUID, attempts: Sequence[int] | None = None, types: list[int] | None = None
    ) -> list[UUID]:
        self.batch += 1
        numbers = list(attempts) if attempts is not None else [self.row(task)["attempt"] for task in tasks]
        rows = self.run(
            claims.CLAIM, session=session, batch=self.batch, ids=list(tasks), attempts=numbers,
            types=self.types() if types is None else types,
        )  # fmt: skip
        places = sorted(row[0] - 1 for row in rows)
        for place in places:
            self.batches[tasks[place], numbers[place]] = self.batch
        self.left[self.batch] = len(places)
        return [tasks[place] for place in places]

    def look(self, session: int, task: UUID, attempt: int, types: list[int] | None = None) -> Any:
        params = {"session": session, "types": self.types() if types is None else types}
        return self.run(claims.LOOK, ids=[task], attempts=[attempt], **params)[0]

    def succeed(self, session: int, task: UUID, attempt: int, result: bytes = b"1") -> bool:
        params = {"session": session, "ids": [task], "attempts": [attempt]}
        (row,) = self.run(settle.SUCCEED, **params, results=[result], batches=self._batch(task, attempt))
        return row[0] is None  # otherwise the places of those that were accepted

    def leave(
        self, session: int, task: UUID, attempt: int, to: State, reason: int, *, refund: int = 0, delay: float = 60
    ) -> State | None:
        rows = self.run(
            settle.LEAVE, session=session, ids=[task], attempts=[attempt], to=[int(to)], reasons=[reason],
            delays=[delay], refunds=[refund], details=[json.dumps({"type": "E", "message": "m"})],
            batches=self._batch(task, attempt),
        )  # fmt: skip
        return State(rows[0][1]) if rows else None

    def _batch(self, task: UUID, attempt: int) -> list[int]:
        """The claim's batch if this attempt is its last one."""
        batch = self.batches.pop((task, attempt), 0)
        self.left[batch] = self.left.get(batch, 0) - 1
        return [batch] if self.left[batch] == 0 else []

    def progress(self, session: int, task: UUID, attempt: int, fraction: float = 0.5) -> None:
        params = {"session": session, "ids": [task], "attempts": [attempt]}
        self.run(settle.PROGRESS, **params, fractions=[fraction], messages=[None])

    # the leader -----------------------------------------------------------------------------------------------------

    def end_expired(self) -> list[int]:
        return [row[0] for row in self.run(rescue.END_EXPIRED)]

    def rescue(self) -> dict[UUID, State]:
        with self.connection.transaction():
            ended = self.end_expired()
            rows = self.run(rescue.GIVE_BACK, sessions=ended) if ended else []
        return {row[0]: State(row[1]) for row in rows}

    def due(self, task: UUID, kind: int = 1) -> bool:
        """The timer's time has come; whether there is one."""
        moved = self.sql(
            "UPDATE dispatcher.timers SET due_at = now() - interval '1 s' WHERE task_id = %s AND kind = %s RETURNING 1",
            task, kind,
        )  # fmt: skip
        if kind == 2 and moved:
            self.sql("UPDATE dispatcher.tasks SET expires_at = now() - interval '1 s' WHERE id = %s", task)
        return bool(moved)

    def promote(self) -> tuple[int, int]:
        (row,) = self.run(timers.PROMOTE, most=100)
        return row[0], row[1]

    def expire_due(self) -> list[UUID]:
        due = self.run(timers.EXPIRE_DUE, most=100)
        rows = self.run(claims.EXPIRE, ids=[row[0] for row in due], attempts=[row[1] for row in due])
        return [row[0] for row in rows]

    def expire_at_claim(self, task: UUID, attempt: int) -> list[UUID]:
        return [row[0] for row in self.run(claims.EXPIRE, ids=[task], attempts=[attempt])]

    def take(self) -> list[tuple[UUID, int, int]]:
        """One drain: messages of (task, attempt, dispatch)."""
        return [(row[1], row[2], row[3]) for row in self.run(outbox.TAKE, low=0, most=1000, k1=7, k2=7)]

    def forget(self) -> tuple[int, list[UUID]]:
        """Entries that need no message are dropped: how many, and the tasks of the others."""
        (row,) = self.run(outbox.FORGET, most=1000)
        return row[0], row[1]

    def lane(self) -> int:
        return int(self.sql("SELECT id FROM dispatcher.lanes WHERE name = 'default' ORDER BY id LIMIT 1")[0][0])

    def reconcile(self) -> tuple[int, int, int]:
        """Judge every entry of the log as if all its messages were gone: (entries, dropped entries, sent again)."""
        (row,) = self.run(reconcile.RECONCILE, lane=self.lane(), upto=1 << 60, before=None, most=100)
        return row[0], row[1], row[2]

    def cancels(self) -> list[Any]:
        return self.run(chores.CANCELS)

    # a person -------------------------------------------------------------------------------------------------------

    def cancel(self, *tasks: UUID) -> list[str]:
        with self.connection.transaction():
            self.run(requests.LOCK, ids=list(tasks))
            return [row[1] for row in self.run(requests.CANCEL, ids=list(tasks), actor="test")]

    def retry(self, *tasks: UUID) -> list[str]:
        with self.connection.transaction():
            self.run(requests.LOCK, ids=list(tasks))
            return [row[1] for row in self.run(requests.RETRY, ids=list(tasks), actor="test")]

    def park(self, task: UUID, attempt: int) -> list[UUID]:
        return [row[0] for row in self.run(requests.PARK, ids=[task], attempts=[attempt])]

    def unpark(self) -> tuple[int, int]:
        (row,) = self.run(requests.UNPARK_ANY, most=100)
        return row[0], row[1]

    def pause(self, queue: str = "q") -> None:
        self.sql("UPDATE dispatcher.queues SET paused = true, paused_at = now() WHERE name = %s", queue)

    def resume(self, queue: str = "q") -> None:
        self.sql("UPDATE dispatcher.queues SET paused = false, paused_at = NULL WHERE name = %s", queue)
