"""The checker finds nothing in a true story and finds each kind of lie."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import tuple_row

from state import audit
from state.ids import new_id

S, Q, R, T, OK, BAD = 2, 3, 4, 5, 6, 7
Event = tuple[int | None, int, int, int | None, int | None]
"""from, to, attempt, reason, session"""

SUCCESS: list[Event] = [(None, Q, 1, None, None), (Q, R, 1, None, 9), (R, OK, 1, None, 9)]
TRUE_STORIES: list[tuple[list[Event], dict[str, int]]] = [
    (SUCCESS, {"tries": 1}),
    ([(None, S, 1, None, None), (S, Q, 1, None, None)], {}),
    ([(None, Q, 1, None, None), (Q, R, 1, None, 9)], {"tries": 1}),
    (  # an error, then success
        [*SUCCESS[:2], (R, T, 1, 11, 9), (T, Q, 2, None, None), (Q, R, 2, None, 8), (R, OK, 2, None, 8)],
        {"attempt": 2, "tries": 2},
    ),
    (  # snoozed and released: both tries given back
        [*SUCCESS[:2], (R, S, 1, 12, 9), (S, Q, 2, None, None), (Q, R, 2, None, 9), (R, Q, 2, 13, 9)],
        {"attempt": 3, "tries": 0},
    ),
    (  # failed, tried again by a person, succeeded
        [*SUCCESS[:2], (R, BAD, 1, 1, 9), (BAD, Q, 2, 7, None), (Q, R, 2, None, 9), (R, OK, 2, None, 9)],
        {"attempt": 2, "tries": 1, "generation": 2},
    ),
]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, row_factory=tuple_row) as opened:
        # the lies must get past the constraints that exist to refuse them
        opened.execute("ALTER TABLE dispatcher.task_events DROP CONSTRAINT task_events_move_legal")
        opened.execute("ALTER TABLE dispatcher.task_events DROP CONSTRAINT task_events_created_is_first")
        opened.execute("ALTER TABLE dispatcher.tasks DROP CONSTRAINT tasks_tries_bounded")
        yield opened
        opened.rollback()


def _tell(connection: psycopg.Connection, events: list[Event], numbers: dict[str, int]) -> UUID:
    """Write one task and its events; the row follows the last event unless ``numbers`` says otherwise."""
    task_id = new_id()
    for seq, (before, after, attempt, reason, session) in enumerate(events, 1):
        connection.execute(
            "INSERT INTO dispatcher.task_events (task_id, seq, from_state, to_state, attempt, reason, session_id)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [task_id, seq, before, after, attempt, reason, session],
        )
    last = events[-1]
    row = {"attempt": 1, "tries": 0, "generation": 1, "seq": len(events), "state": last[1], **numbers}
    connection.execute(
        "INSERT INTO dispatcher.tasks (id, queue_id, lane_id, type_id, max_tries, args, created_at, state, attempt,"
        " tries, generation, seq, session_id, reason, started_at, due_at, finished_at)"
        " VALUES (%(id)s, 1, 1, 1, 3, '', now(), %(state)s, %(attempt)s, %(tries)s, %(generation)s, %(seq)s,"
        " %(session)s, 1, now(), now(), CASE WHEN %(state)s >= 6 THEN now() END)",
        {**row, "id": task_id, "session": last[4] if row["state"] == R else None},
    )
    return task_id


def _found(connection: psycopg.Connection) -> dict[str, set[UUID]]:
    found: dict[str, set[UUID]] = {}
    for name, task_id, what in connection.execute(audit.VIOLATIONS.psycopg()):
        assert what
        found.setdefault(name, set()).add(task_id)
    return found


def test_true_stories_pass(connection: psycopg.Connection) -> None:
    for events, numbers in TRUE_STORIES:
        _tell(connection, events, numbers)
    assert _found(connection) == {}


@pytest.mark.parametrize(
    ("name", "events", "numbers"),
    [
        ("legal", [(None, Q, 1, None, None), (Q, OK, 1, None, None)], {"tries": 1}),
        ("legal", [(None, R, 1, None, 9)], {"tries": 1}),
        ("continuous", [(None, Q, 1, None, None), (S, Q, 1, None, None)], {}),
        ("agrees_with_task", SUCCESS, {"tries": 1, "state": Q}),
        ("agrees_with_task", SUCCESS, {"tries": 1, "seq": 4}),
        ("one_final_per_generation", [*SUCCESS, (R, OK, 1, None, 9)], {"tries": 1}),
        ("one_final_per_generation", SUCCESS, {"tries": 1, "generation": 2}),
        ("one_final_per_generation", [*SUCCESS[:2], (R, BAD, 1, 1, 9), (BAD, Q, 2, 7, None)], {"attempt": 2}),
        ("tries_bounded", SUCCESS, {"tries": 2}),
        ("one_claim_per_attempt", [*SUCCESS[:2], (R, Q, 1, 3, 9), (Q, R, 1, None, 8)], {"tries": 2}),
        ("one_claim_per_attempt", [*SUCCESS[:2], (R, OK, 1, None, 8)], {"tries": 1}),
        ("one_claim_per_attempt", [(None, Q, 2, None, None), (Q, R, 1, None, 9)], {"tries": 1}),
    ],
)
def test_each_lie_is_found(
    connection: psycopg.Connection, name: str, events: list[Event], numbers: dict[str, int]
) -> None:
    honest = _tell(connection, SUCCESS, {"tries": 1})
    liar = _tell(connection, events, numbers)
    found = _found(connection)
    assert found[name] == {liar}
    assert honest not in set().union(*found.values())


def test_more_tries_than_allowed_are_found(connection: psycopg.Connection) -> None:
    events: list[Event] = [(None, Q, 1, None, None)]
    for attempt in range(1, 5):
        events += [(Q, R, attempt, None, 9), (R, Q, attempt, 3, 9)]
    liar = _tell(connection, events, {"attempt": 5, "tries": 4})
    assert _found(connection) == {"tries_bounded": {liar}}


def test_a_missing_event_is_found(connection: psycopg.Connection) -> None:
    liar = _tell(connection, SUCCESS, {"tries": 1})
    connection.execute("DELETE FROM dispatcher.task_events WHERE task_id = %s AND seq = 2", [liar])
    found = _found(connection)
    assert found["gapless"] == {liar}
    assert found["continuous"] == {liar}


@pytest.mark.parametrize("kept", ["tasks", "task_events"])
def test_rows_without_events_and_events_without_rows_are_found(connection: psycopg.Connection, kept: str) -> None:
    liar = _tell(connection, SUCCESS, {"tries": 1})
    other, key = ("task_events", "task_id") if kept == "tasks" else ("tasks", "id")
    connection.execute(f"DELETE FROM dispatcher.{other} WHERE {key} = %s", [liar])
    assert liar in _found(connection)["agrees_with_task"]


def test_tasks_made_by_the_create_function_pass(connection: psycopg.Connection) -> None:
    for delay in (None, 60):
        connection.execute(
            "SELECT * FROM dispatcher.create_task(%s, 'mail.send', 'mail', 'default', 'x', 3, 0, NULL, %s, NULL, NULL,"
            " NULL, NULL, NULL)",
            [new_id(), delay],
        )
    assert connection.execute("SELECT count(*) FROM dispatcher.task_events").fetchone() == (2,)
    assert _found(connection) == {}
