"""Tasks in every combination of what a row can hold and what can be asked, for the comparison with the guard table."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple
from uuid import UUID

from state.machine import Flag, State
from state.protocol.rows import Ask, Row
from tests.integration.protocol_steps import Protocol

__all__ = ["QUEUE", "Batch", "Case", "cases", "in_flows", "put"]

FOREIGN = 987_654_321
QUEUE = "guards"


class Case(NamedTuple):
    row: Row
    ask: Ask


class Batch(NamedTuple):
    """The cases as they stand in the database."""

    session: int
    ids: list[UUID]
    cases: list[Case]

    @property
    def asked(self) -> dict[str, Any]:
        """Ids and attempts, as most statements take them."""
        return {"ids": self.ids, "attempts": [ask.attempt for _, ask in self.cases]}

    @property
    def held(self) -> dict[str, Any]:
        """The same for those that name a session."""
        return {"session": self.session, **self.asked}

    def all_of(self, value: object) -> list[object]:
        """The value once for each case."""
        return [value] * len(self.ids)


def cases(session: int) -> list[Case]:
    """Rows that the tables can hold (running and a session go together), asked with right and wrong numbers."""
    found = []
    for state, cancel, expired, tries, attempt, other in product(
        State, (False, True), (False, True), (1, 2), (2, 3), (False, True)
    ):
        holder = (FOREIGN if other else session) if state is State.RUNNING else 0
        queued = state is State.QUEUED and other
        for parked, dispatch in ((2, 1), (0, 2)) if queued else ((0, 1),):
            row = Row(state, 2, 1, tries, 2, cancel=cancel, session=holder, expired=expired, parked=parked)
            found.append(Case(row, Ask(attempt, session, dispatch)))
    return list(dict.fromkeys(found))


def put(steps: Protocol, session: int) -> Batch:
    """The rows as they stand, their audit trail included as far as the statements need it."""
    rows = cases(session)
    tasks = [steps.create(queue=QUEUE, tries=2) for _ in rows]
    with steps.connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.executemany(
            "UPDATE dispatcher.tasks SET state = %s, attempt = %s, dispatch = %s, tries = %s, flags = %s,"
            " session_id = %s, expires_at = now() + CASE WHEN %s THEN -1 ELSE 1 END * interval '1 h',"
            " reason = 2, due_at = now(), started_at = now(), finished_at = CASE WHEN %s THEN now() END WHERE id = %s",
            [
                (int(r.state), r.attempt, r.dispatch, r.tries, int(r.cancel), r.session or None, r.expired,
                 r.state >= State.SUCCEEDED, task)
                for (r, _), task in zip(rows, tasks, strict=True)
            ],
        )  # fmt: skip
    steps.sql(
        "INSERT INTO dispatcher.parked (task_id, attempt, gate, gate_key)"
        " SELECT t.id, 2, 1, t.queue_id FROM dispatcher.tasks t WHERE t.id = ANY (%s)",
        [task for (row, _), task in zip(rows, tasks, strict=True) if row.parked],
    )
    steps.sql("DELETE FROM dispatcher.outbox")
    return Batch(session, tasks, rows)


def in_flows(steps: Protocol, batch: Batch) -> None:
    """Every task is part of a flow now."""
    steps.sql("UPDATE dispatcher.tasks SET flags = flags | %s WHERE id = ANY (%s)", int(Flag.IN_FLOW), batch.ids)
