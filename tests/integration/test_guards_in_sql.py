"""The statements accept exactly what the table of guards allows, case by case; and a dropped guard is noticed.

For each statement every combination of row and request is put into the database, many at once, and the set of rows
that the real statement moved is compared with ``state.protocol.guards``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest

from state.protocol.guards import GUARDS, allowed
from tests.integration.guard_cases import in_flows, put
from tests.integration.guarded_statements import STATEMENTS, disagreements
from tests.integration.protocol_steps import Protocol


@pytest.fixture
def steps(database_url: str) -> Iterator[Protocol]:
    with psycopg.connect(database_url, autocommit=False) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        yield Protocol(connection)
        connection.rollback()


def test_statements_move_exactly_what_the_table_of_guards_allows(steps: Protocol) -> None:
    batch = put(steps, steps.open())
    wrong = {name: list(disagreements(steps, statement, batch)) for name, statement in STATEMENTS.items()}
    assert wrong == {name: [] for name in STATEMENTS}


def test_a_guard_dropped_from_a_statement_is_noticed(steps: Protocol) -> None:
    batch = put(steps, steps.open())
    unnoticed = []
    for name, statement in STATEMENTS.items():
        for guard, text in statement.planted.items():
            with suppress(psycopg.errors.IntegrityError):  # refused by the database itself: noticed too
                if next(disagreements(steps, statement, batch, text), None) is None:
                    unnoticed.append((name, guard))
    assert unnoticed == []


def test_tasks_of_flows_are_settled_by_the_statements_that_release_others(steps: Protocol) -> None:
    batch = put(steps, steps.open())
    in_flows(steps, batch)
    assert list(disagreements(steps, STATEMENTS["SUCCEED_IN_FLOW"], batch)) == []
    assert list(disagreements(steps, STATEMENTS["SUCCEED_IN_FLOW_LOGGED"], batch)) == []
    for name in ("SUCCEED", "SUCCEED_LOGGED"):
        left = list(disagreements(steps, STATEMENTS[name], batch))
        assert left == [case for case in batch.cases if allowed("settle", *case)] != []
        assert list(disagreements(steps, STATEMENTS[name], batch, "AND t.flags & 16 = 0")) == []


# Where a rule is not the guard of one statement: the rescuer's lease is that of END_EXPIRED, see test_rescue.py.
ELSEWHERE = {("rescue", "lease ended")}


def test_each_guard_of_the_table_is_dropped_from_each_statement_that_has_it() -> None:
    for statement in STATEMENTS.values():
        assert {*statement.planted, *(g for m, g in ELSEWHERE if m == statement.move)} == set(GUARDS[statement.move])
    assert {statement.move for statement in STATEMENTS.values()} == set(GUARDS)
