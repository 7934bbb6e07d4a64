"""Tasks in every state, made by the real statements, for the tests of requests and status."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import psycopg

from state.claims import CLAIM
from state.create import CREATE_FOR_ANY_DRIVER
from state.ids import new_id
from state.settle import LEAVE, SUCCEED

__all__ = ["Made", "invariants"]

SCHEMA = "dispatcher"
Connection = psycopg.Connection[Any]


class Made:
    """Makes tasks on one autocommit connection, and plays the worker."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.batch = 0
        self.batches: dict[UUID, int] = {}
        row = connection.execute(
            "INSERT INTO dispatcher.sessions (worker, boot_id, lease, expires_at)"
            " VALUES ('w1', %s, '30 s', now() + interval '1 hour') RETURNING id",
            [uuid4()],
        ).fetchone()
        assert row
        self.session: int = row[0]
        connection.execute(
            "INSERT INTO dispatcher.session_log (session_id, worker, boot_id) SELECT id, worker, boot_id"
            " FROM dispatcher.sessions WHERE id = %s",
            [self.session],
        )

    def queued(
        self, queue: str = "q", type: str = "t", delay: float | None = None, tags: tuple[str, ...] = (),
        key: str | None = None, max_tries: int = 5, **meta: Any
    ) -> UUID:  # fmt: skip
        """A queued task, or a scheduled one when ``delay`` is given."""
        task = new_id()
        self.connection.execute(
            CREATE_FOR_ANY_DRIVER.psycopg(SCHEMA),
            {
                "id": task, "type": type, "queue": queue, "lane": "default", "args": b'{"n":1,"token":"s3cret"}',
                "max_tries": max_tries, "flags": 2 if key else 0, "delay": delay,
                "meta": json.dumps({"tags": tags, **meta}) if tags or meta else None, "key": key, "args_hash": b"x",
                "run_at": None, "expires": None, "key_ttl": None,
            },
        )  # fmt: skip
        return task

    def attempt(self, task: UUID) -> int:
        return int(self.row(task)["attempt"])

    def claim(self, *tasks: UUID) -> list[UUID]:
        self.batch += 1
        rows = self.connection.execute(
            CLAIM.psycopg(SCHEMA),
            {
                "session": self.session, "ids": list(tasks), "attempts": [self.attempt(task) for task in tasks],
                "types": [t for (t,) in self.connection.execute("SELECT id FROM dispatcher.types")],
                "batch": self.batch,
            },
        ).fetchall()  # fmt: skip
        claimed = [tasks[row[0] - 1] for row in rows]
        self.batches.update(dict.fromkeys(claimed, self.batch))
        return claimed

    def running(self, **options: Any) -> UUID:
        task = self.queued(**options)
        assert self.claim(task) == [task]
        return task

    def leave(self, task: UUID, to: int, reason: int, delay: float = 60, detail: dict[str, Any] | None = None) -> int:
        """The worker gives the task up; returns the state it went to."""
        row = self.connection.execute(
            LEAVE.psycopg(SCHEMA),
            {
                "session": self.session, "ids": [task], "attempts": [self.attempt(task)], "to": [to],
                "reasons": [reason], "delays": [delay], "refunds": [0], "batches": [self.batches[task]],
                "details": [json.dumps(detail or {"type": "ValueError", "message": "boom", "traceback": "Trace…"})],
            },
        ).fetchone()  # fmt: skip
        assert row is not None
        return int(row[1])

    def retrying(self, **options: Any) -> UUID:
        task = self.running(**options)
        assert self.leave(task, 5, 11) == 5
        return task

    def failed(self, **options: Any) -> UUID:
        task = self.running(**options)
        assert self.leave(task, 7, 2) == 7
        return task

    def succeeded(self, result: bytes = b"42", **options: Any) -> UUID:
        task = self.running(**options)
        self.succeed(task, result)
        return task

    def succeed(self, task: UUID, result: bytes = b"42") -> None:
        done = self.connection.execute(
            SUCCEED.psycopg(SCHEMA),
            {"session": self.session, "ids": [task], "attempts": [self.attempt(task)], "results": [result],
             "batches": [self.batches[task]]},
        ).fetchall()  # fmt: skip
        assert done == [(None,)]  # every outcome was accepted

    def row(self, task: UUID) -> dict[str, Any]:
        cursor = self.connection.execute("SELECT * FROM dispatcher.tasks WHERE id = %s", [task])
        row = cursor.fetchone()
        assert row is not None and cursor.description is not None
        return dict(zip([column.name for column in cursor.description], row, strict=True))

    def count(self, table: str, condition: str = "true", *values: Any) -> int:
        text = f"SELECT count(*) FROM dispatcher.{table} WHERE {condition}"
        row = self.connection.execute(text.encode(), values).fetchone()
        assert row is not None
        return int(row[0])


def invariants(connection: Connection) -> None:
    """What must hold after any request: the audit trail is gapless and legal, counters and side tables fit."""
    broken = {
        "events are gapless": """
            SELECT t.id FROM dispatcher.tasks t LEFT JOIN dispatcher.task_events e ON e.task_id = t.id
            GROUP BY t.id HAVING count(e.seq) <> t.seq OR max(e.seq) <> t.seq""",
        "the last event is the state": """
            SELECT t.id FROM dispatcher.tasks t JOIN dispatcher.task_events e ON e.task_id = t.id AND e.seq = t.seq
            WHERE e.to_state <> t.state""",
        "events join up": """
            SELECT e.task_id FROM dispatcher.task_events e JOIN dispatcher.task_events p
            ON p.task_id = e.task_id AND p.seq = e.seq - 1 WHERE e.from_state IS DISTINCT FROM p.to_state""",
        "moves are legal": """
            SELECT e.task_id FROM dispatcher.task_events e WHERE NOT EXISTS (SELECT 1 FROM dispatcher.task_moves m
            WHERE m.from_state = coalesce(e.from_state, 0) AND m.to_state = e.to_state)""",
        "counters": """
            SELECT * FROM (SELECT queue_id, state, count(*) AS n FROM dispatcher.tasks GROUP BY 1, 2) t
            FULL JOIN (SELECT queue_id, state, sum(n) AS n FROM dispatcher.task_counts
                       GROUP BY 1, 2 HAVING sum(n) <> 0) c
            USING (queue_id, state) WHERE t.n IS DISTINCT FROM c.n""",
        "failures": """
            SELECT t.id FROM dispatcher.tasks t FULL JOIN dispatcher.failures f ON f.task_id = t.id
            WHERE (t.state IN (7, 8)) IS DISTINCT FROM (f.task_id IS NOT NULL) OR f.state <> t.state""",
        "parked are queued": """
            SELECT p.task_id FROM dispatcher.parked p JOIN dispatcher.tasks t ON t.id = p.task_id WHERE t.state <> 3""",
        "timers wait": """
            SELECT x.task_id FROM dispatcher.timers x JOIN dispatcher.tasks t ON t.id = x.task_id
            WHERE x.kind = 1 AND t.state NOT IN (2, 5)""",
    }
    for name, text in broken.items():
        assert connection.execute(text.encode()).fetchall() == [], name
