"""The guards of timers and of the reconciler."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from state.machine import State
from tests.fixtures.fleet import assert_sound
from tests.integration.protocol_steps import Protocol


@pytest.fixture
def steps(database_url: str) -> Iterator[Protocol]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Protocol(connection)
        assert_sound(connection)


def test_a_due_timer_queues_its_task_once(steps: Protocol) -> None:
    task = steps.create(delay=60)
    assert steps.promote() == (0, 0)
    steps.due(task)
    assert steps.promote() == (1, 1)
    assert steps.promote() == (0, 0)
    assert steps.take() == [(task, 1, 1)]


def test_a_timer_of_an_older_attempt_is_dropped(steps: Protocol) -> None:
    session, task = steps.open(), steps.create()
    steps.claim(session, task)
    steps.leave(session, task, 1, State.RETRYING, 11)
    steps.sql("UPDATE dispatcher.timers SET attempt = 1")
    steps.due(task)
    before = steps.row(task)
    assert steps.promote() == (1, 0)
    assert steps.row(task) == before


@pytest.mark.parametrize("state", ["queued", "running", "cancelled"])
def test_a_timer_of_a_task_that_does_not_wait_is_dropped(steps: Protocol, state: str) -> None:
    session, task = steps.open(), steps.create()
    if state == "running":
        steps.claim(session, task)
    elif state == "cancelled":
        steps.cancel(task)
    steps.sql("INSERT INTO dispatcher.timers VALUES (%s, 1, 1, now() - interval '1 s')", task)
    before = steps.row(task)
    assert steps.promote() == (1, 0)
    assert steps.row(task) == before


def test_a_timer_whose_task_is_locked_stays(steps: Protocol, database_url: str) -> None:
    task = steps.create(delay=60)
    steps.due(task)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT 1 FROM dispatcher.tasks WHERE id = %s FOR UPDATE", [task])
        assert steps.promote() == (0, 0)
    assert steps.promote() == (1, 1)


def test_a_cancel_takes_the_timer_away(steps: Protocol) -> None:
    session, task, retrying = steps.open(), steps.create(delay=60, expires=60), steps.create()
    steps.claim(session, retrying)
    steps.leave(session, retrying, 1, State.RETRYING, 11)
    assert steps.cancel(task, retrying) == ["cancelled", "cancelled"]
    assert steps.sql("SELECT count(*) FROM dispatcher.timers") == [(0,)]


def test_an_expiry_ends_what_was_never_started_and_nothing_else(steps: Protocol) -> None:
    session = steps.open()
    waiting, later, running = (steps.create(expires=60, delay=delay) for delay in (None, 30, None))
    steps.claim(session, running)
    for task in (waiting, later, running):
        steps.due(task, kind=2)
    assert set(steps.expire_due()) == {waiting, later}
    assert steps.state(running) is State.RUNNING
    assert steps.succeed(session, running, 1)


def test_a_lost_message_is_sent_again_with_the_next_dispatch(steps: Protocol) -> None:
    task = steps.create()
    assert steps.take() == [(task, 1, 1)]
    assert steps.reconcile() == (1, 1, 1)
    assert steps.take() == [(task, 1, 2)]


def test_the_reconciler_leaves_alone_what_is_not_lost(steps: Protocol) -> None:
    session = steps.open()
    running, done, parked, resent, newer, paused = (steps.create(queue=q) for q in ("q", "q", "q", "q", "q", "q"))
    steps.take()
    steps.claim(session, running, done, newer)
    steps.succeed(session, done, 1)
    steps.leave(session, newer, 1, State.QUEUED, 13, refund=1)  # another attempt, in the outbox
    steps.sql("UPDATE dispatcher.tasks SET dispatch = 2 WHERE id = %s", resent)  # another dispatch, as a resume does
    steps.pause()
    assert steps.park(parked, 1) == [parked] and steps.park(paused, 1) == [paused]
    before = [steps.row(task) for task in (running, done, parked, resent, newer, paused)]
    assert steps.reconcile() == (1, 1, 0)
    assert [steps.row(task) for task in (running, done, parked, resent, newer, paused)] == before


def test_an_entry_with_a_locked_row_stays_for_the_next_look(steps: Protocol, database_url: str) -> None:
    tasks = [steps.create() for _ in range(2)]
    steps.take()
    with psycopg.connect(database_url) as other:
        other.execute("SELECT 1 FROM dispatcher.tasks WHERE id = %s FOR UPDATE", [tasks[0]])
        assert steps.reconcile() == (1, 0, 1)
    assert steps.reconcile() == (1, 1, 1)
    assert sorted(steps.take()) == sorted([(tasks[0], 1, 2), (tasks[1], 1, 2)])
