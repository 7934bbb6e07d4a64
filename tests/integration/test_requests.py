"""A person's writes: what each does in each state, and that nothing slips through when they meet other writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from dispatcher import status
from dispatcher.errors import OptionError
from state import requests
from state.ids import new_id
from tests.integration.made_tasks import Made, invariants


@pytest.fixture
def made(database_url: str) -> Iterator[Made]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Made(connection)
        invariants(connection)


def cancel(made: Made, *ids: UUID) -> list[tuple[str, str | None]]:
    with made.connection.transaction():
        return [(a.outcome, a.state) for a in status.cancel(made.connection, ids, actor="test")]


def retry(made: Made, *ids: UUID) -> list[tuple[str, str | None]]:
    with made.connection.transaction():
        return [(a.outcome, a.state) for a in status.retry(made.connection, ids, actor="test")]


def park(made: Made, *ids: UUID) -> list[UUID]:
    values = {"ids": list(ids), "attempts": [made.attempt(task) for task in ids]}
    return [row[0] for row in made.connection.execute(requests.PARK.psycopg("dispatcher"), values)]


def unpark_any(made: Made, most: int = 100) -> tuple[int, int]:
    row = made.connection.execute(requests.UNPARK_ANY.psycopg("dispatcher"), {"most": most}).fetchone()
    assert row
    return row[0], row[1]


WAITING: dict[str, Callable[[Made], UUID]] = {
    "scheduled": lambda made: made.queued(delay=60),
    "queued": lambda made: made.queued(),
    "retrying": lambda made: made.retrying(),
}


@pytest.mark.parametrize("state", WAITING)
def test_cancel_ends_a_waiting_task_at_once(made: Made, state: str) -> None:
    task = WAITING[state](made)
    assert cancel(made, task) == [("cancelled", "cancelled")]
    row = made.row(task)
    assert (row["state"], row["reason"], row["finished_at"] is not None) == (8, 7, True)
    assert made.count("timers") == 0
    assert made.count("failures", "task_id = %s AND state = 8", task) == 1
    last = status.history(made.connection, task)[-1]
    assert (last.from_state, last.to_state, last.actor, last.reason) == (state, "cancelled", "test", "by_request")
    assert made.claim(task) == []


def test_cancel_of_a_running_task_is_only_requested(made: Made) -> None:
    task = made.running()
    assert cancel(made, task) == [("cancel_requested", "running")]
    assert cancel(made, task) == [("cancel_requested", "running")]
    assert made.count("cancel_requests", "task_id = %s AND NOT sent", task) == 1
    assert status.get(made.connection, task).cancel_requested
    assert made.leave(task, 5, 11) == 8
    assert cancel(made, task) == [("cancelled", "cancelled")]


def test_cancel_never_says_cancelled_of_another_outcome(made: Made) -> None:
    done, failed = made.succeeded(), made.failed()
    assert cancel(made, done, failed, new_id()) == [
        ("too_late", "succeeded"),
        ("too_late", "failed"),
        ("not_found", None),
    ]


def test_retry_starts_a_new_generation(made: Made) -> None:
    task = made.failed()
    before = made.row(task)
    made.connection.execute("UPDATE dispatcher.tasks SET expires_at = now() WHERE id = %s", [task])
    assert retry(made, task) == [("queued", "queued")]
    row = made.row(task)
    assert (row["state"], row["tries"], row["reason"], row["started_at"], row["expires_at"]) == (3, 0, None, None, None)
    for number in ("attempt", "generation", "dispatch"):
        assert row[number] == before[number] + 1
    assert made.count(
        "outbox", "task_id = %s AND attempt = %s AND dispatch = %s", task, row["attempt"], row["dispatch"]
    )
    assert made.claim(task) == [task]
    made.leave(task, 7, 2)
    assert status.get(made.connection, task).generation == 2


def test_retry_clears_an_old_cancel(made: Made) -> None:
    task = made.running()
    cancel(made, task)
    assert made.leave(task, 7, 2) == 8
    assert retry(made, task, task) == [("queued", "queued")]
    assert not status.get(made.connection, task).cancel_requested
    assert made.claim(task) == [task]


@pytest.mark.parametrize("make", [*WAITING.values(), Made.running, Made.succeeded])
def test_only_failed_and_cancelled_tasks_are_retried(made: Made, make: Callable[[Made], UUID]) -> None:
    task = make(made)
    before = made.row(task)
    assert retry(made, task)[0][0] == "not_retryable"
    assert made.row(task) == before


def test_a_bad_id_changes_nothing(made: Made) -> None:
    task = made.queued()
    with pytest.raises(OptionError, match="'nonsense' is not a UUID"):
        status.cancel(made.connection, [task, "nonsense"])
    assert status.cancel(made.connection, []) == []
    assert made.row(task)["state"] == 3


def test_a_paused_queue_parks_and_resume_sends_everything(made: Made) -> None:
    tasks = [made.queued() for _ in range(5)]
    assert status.pause(made.connection, "q", actor="me") is True
    assert status.pause(made.connection, "q", actor="you") is False
    assert made.claim(*tasks) == []
    assert sorted(park(made, *tasks)) == sorted(tasks)
    assert sorted(park(made, *tasks)) == sorted(tasks)
    (queue,) = [q for q in status.queues(made.connection) if q.name == "q"]
    assert (queue.paused, queue.paused_by, queue.parked, queue.depth) == (True, "me", 5, 5)
    assert status.get(made.connection, tasks[0]).parked
    assert unpark_any(made) == (0, 0), "a paused queue keeps its tasks"
    assert status.resume(made.connection, "q") is True
    assert status.resume(made.connection, "q") is False
    assert made.count("parked") == 0
    assert made.count("outbox", "dispatch = 2") == 5
    assert sorted(made.claim(*tasks)) == sorted(tasks)


def test_only_tasks_of_a_paused_queue_are_parked(made: Made) -> None:
    free, held = made.queued(queue="free"), made.queued(queue="held")
    status.pause(made.connection, "held")
    assert park(made, free, held) == [held]
    status.resume(made.connection, "held")
    assert park(made, held) == []


def test_a_parked_task_can_be_cancelled(made: Made) -> None:
    task = made.queued()
    status.pause(made.connection, "q")
    park(made, task)
    assert cancel(made, task) == [("cancelled", "cancelled")]
    assert made.count("parked") == 0


def test_unpark_any_is_bounded_and_ordered(made: Made) -> None:
    tasks = [made.queued() for _ in range(5)]
    status.pause(made.connection, "q")
    for task in reversed(tasks):
        park(made, task)
    made.connection.execute("UPDATE dispatcher.queues SET paused = false, paused_at = NULL")
    made.connection.execute("DELETE FROM dispatcher.outbox")
    assert [unpark_any(made, 2) for _ in range(4)] == [(2, 2), (2, 2), (1, 1), (0, 0)]
    sent = [row[0] for row in made.connection.execute("SELECT task_id FROM dispatcher.outbox ORDER BY id")]
    assert sent == tasks[::-1]


def test_an_unknown_queue_is_named(made: Made) -> None:
    made.queued(queue="billing")
    for ask in (status.pause, status.resume):
        with pytest.raises(OptionError, match="no queue 'biling'; did you mean 'billing'"):
            ask(made.connection, "biling")


def blocked_by(url: str, work: Callable[[Any], Any]) -> tuple[threading.Thread, list[Any]]:
    """Starts ``work`` on a connection of its own and returns when it waits for a lock."""
    found: list[Any] = []
    connection = psycopg.connect(url)

    def run() -> None:
        with connection:
            found.append(work(connection))

    thread = threading.Thread(target=run)
    thread.start()
    with psycopg.connect(url, autocommit=True) as watch:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        while not watch.execute(waiting, [connection.info.backend_pid]).fetchone():
            assert thread.is_alive(), "did not wait"
    return thread, found


def test_a_cancel_that_waited_for_a_settle_sees_the_timer_it_made(made: Made, database_url: str) -> None:
    task = made.running()
    with made.connection.transaction():
        made.leave(task, 5, 11)
        thread, found = blocked_by(database_url, lambda tx: status.cancel(tx, task))
    thread.join(20)
    assert [answer.outcome for answer in found[0]] == ["cancelled"]
    assert made.count("timers") == 0


def test_a_retry_that_waited_for_a_failure_removes_its_row(made: Made, database_url: str) -> None:
    task = made.running()
    with made.connection.transaction():
        made.leave(task, 7, 2)
        thread, found = blocked_by(database_url, lambda tx: status.retry(tx, task))
    thread.join(20)
    assert [answer.outcome for answer in found[0]] == ["queued"]
    assert made.count("failures") == 0
    made.claim(task)
    assert made.leave(task, 7, 2) == 7


def test_a_park_that_waited_for_a_resume_parks_nothing(made: Made, database_url: str) -> None:
    task = made.queued()
    status.pause(made.connection, "q")
    values = {"ids": [task], "attempts": [1]}
    with made.connection.transaction():
        status.resume(made.connection, "q")
        thread, found = blocked_by(
            database_url, lambda tx: tx.execute(requests.PARK.psycopg("dispatcher"), values).fetchall()
        )
    thread.join(20)
    assert found == [[]]


def test_a_resume_waits_for_a_park_and_sends_what_it_parked(made: Made, database_url: str) -> None:
    task = made.queued()
    status.pause(made.connection, "q")
    with made.connection.transaction():
        assert park(made, task) == [task]
        thread, found = blocked_by(database_url, lambda tx: status.resume(tx, "q"))
    thread.join(20)
    assert found == [True]
    assert made.count("parked") == 0
    assert made.count("outbox", "task_id = %s AND dispatch = 2", task) == 1
