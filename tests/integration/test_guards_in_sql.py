"""The statements accept exactly what the table of guards allows, case by case; and a dropped guard is noticed.

For each statement every combination of row and request is put into the database, many at once, and the set of rows
that the real statement moved is compared with ``state.protocol.guards``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest

from state import claims, reconcile, rescue, settle, timers
from state.machine import State
from state.protocol.guards import allowed
from state.protocol.rows import Ask, Row
from state.sql import Sql
from tests.integration.protocol_steps import Protocol

FOREIGN = 987_654_321


class Case(NamedTuple):
    row: Row
    ask: Ask


@pytest.fixture
def steps(database_url: str) -> Iterator[Protocol]:
    with psycopg.connect(database_url, autocommit=False) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        yield Protocol(connection)
        connection.rollback()


def cases(session: int) -> list[Case]:
    """Rows that the tables can hold (running and a session go together), asked with right and wrong numbers."""
    found = []
    for state, cancel, expired, tries, attempt, holder, dispatch in product(
        State, (False, True), (False, True), (1, 2), (2, 3), (session, FOREIGN), (1, 2)
    ):
        mine = holder if state is State.RUNNING else 0
        row = Row(state, 2, 1, tries, 2, cancel=cancel, session=mine, expired=expired)
        found.append(Case(row, Ask(attempt, session, dispatch)))
    return list(dict.fromkeys(found))


def put(steps: Protocol, rows: list[Case]) -> list[UUID]:
    """The rows as they stand, their audit trail included as far as the statements need it."""
    tasks = [steps.create(queue="guards", tries=2) for _ in rows]
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
    steps.sql("DELETE FROM dispatcher.outbox")
    return tasks


def moved(steps: Protocol, move: str, sql: Sql, session: int, tasks: list[UUID], rows: list[Case]) -> set[int]:
    """Run the statement once over all of them; the places of those it changed."""
    ids, attempts = list(tasks), [ask.attempt for _, ask in rows]
    before = read(steps)
    params: dict[str, Any] = {"session": session, "ids": ids, "attempts": attempts}
    if move.startswith("claim"):
        claim(steps, sql, params, size=1 if move == "claim one" else len(ids))
    elif move == "settle":
        steps.run(sql, **params, results=[b"1"] * len(ids), batches=[])
    elif move == "expire":
        steps.run(sql, ids=ids, attempts=attempts)
    elif move == "rescue":
        steps.sql("INSERT INTO dispatcher.claims VALUES (%s, 1, %s, %s)", session, ids, attempts)
        steps.run(sql, sessions=[session])
    elif move == "timer":
        for task, attempt in zip(ids, attempts, strict=True):
            steps.sql("INSERT INTO dispatcher.timers VALUES (%s, 1, %s, now() - interval '1 s')", task, attempt)
        steps.run(sql, most=10_000)
    elif move == "reconcile":
        steps.sql(
            "INSERT INTO dispatcher.dispatch_log (lane_id, task_ids, attempts, dispatches) VALUES (%s, %s, %s, %s)",
            steps.row(ids[0])["lane_id"], ids, attempts, [ask.dispatch for _, ask in rows],
        )  # fmt: skip
        steps.run(sql, lane=steps.row(ids[0])["lane_id"], upto=1 << 60, before=None, most=100)
    after = read(steps)
    return {n for n, task in enumerate(tasks) if after[task] != before[task]}


def claim(steps: Protocol, sql: Sql, params: dict[str, Any], size: int) -> None:
    types = steps.types()
    for n in range(0, len(params["ids"]), size):
        some = {name: params[name][n : n + size] for name in ("ids", "attempts")}
        steps.run(sql, **params | some, batch=n, types=types)


def read(steps: Protocol) -> dict[UUID, Any]:
    return dict(steps.sql("SELECT id, (state, attempt, dispatch, tries, seq) FROM dispatcher.tasks"))


STATEMENTS = {
    "claim": claims.CLAIM,
    "claim one": claims.CLAIM_ONE,
    "settle": settle.SUCCEED,
    "expire": claims.EXPIRE,
    "rescue": rescue.GIVE_BACK,
    "timer": timers.PROMOTE,
    "reconcile": reconcile.RECONCILE,
}

# the guard, and the text that is it; dropped from the statement, the comparison must fail
PLANTED = [
    ("claim", "queued", "t.state = 3 AND"),
    ("claim", "attempt", "AND t.attempt = i.attempt"),
    ("claim", "no cancel", "AND t.flags & 1 = 0"),
    ("claim", "tries left", "AND t.tries < t.max_tries"),
    ("claim", "not expired", "AND (t.expires_at IS NULL OR t.expires_at > now())"),
    ("settle", "attempt", "AND t.attempt = i.attempt"),
    ("settle", "session", "AND t.session_id = CAST(:session AS bigint)"),
    ("expire", "waiting", "t.state IN (2, 3, 5) AND"),
    ("expire", "attempt", "AND t.attempt = i.attempt"),
    ("expire", "expired", "AND t.expires_at <= now()"),
    ("rescue", "session", "AND t.session_id = h.session_id"),
    ("rescue", "attempt", "AND t.attempt = h.attempt"),
    ("timer", "waiting", "AND l.state IN (2, 5)"),
    ("timer", "attempt", "AND l.attempt = g.attempt"),
    ("reconcile", "queued", "t.state = 3 AND"),
    ("reconcile", "attempt", "AND t.attempt = e.attempt| AND t.attempt = l.attempt"),
    ("reconcile", "dispatch", "AND t.dispatch = e.dispatch|AND t.dispatch = l.dispatch"),
]


class Undo(Exception):
    """Ends a transaction without keeping anything."""


def disagreements(steps: Protocol, move: str, sql: Sql, session: int, tasks: list[UUID]) -> list[Case]:
    """The cases where statement and table differ."""
    rows, changed = cases(session), set[int]()
    with suppress(Undo), steps.connection.transaction():
        changed = moved(steps, move, sql, session, tasks, rows)
        raise Undo
    return [case for n, case in enumerate(rows) if (n in changed) != allowed(move.removesuffix(" one"), *case)]


def test_statements_move_exactly_what_the_table_of_guards_allows(steps: Protocol) -> None:
    session = steps.open()
    tasks = put(steps, cases(session))
    wrong = {move: disagreements(steps, move, sql, session, tasks) for move, sql in STATEMENTS.items()}
    assert wrong == {move: [] for move in STATEMENTS}


def test_a_guard_dropped_from_a_statement_is_noticed(steps: Protocol) -> None:
    session = steps.open()
    tasks = put(steps, cases(session))
    unnoticed = []
    for move, guard, text in PLANTED:
        planted = STATEMENTS[move].text
        for part in text.split("|"):
            assert part in planted, f"{move} has lost its guard {guard!r}"
            planted = planted.replace(part, "")
        with suppress(psycopg.errors.IntegrityError):  # refused by the database itself: noticed too
            if not disagreements(steps, move, Sql(planted), session, tasks):
                unnoticed.append((move, guard))
    assert unnoticed == []
