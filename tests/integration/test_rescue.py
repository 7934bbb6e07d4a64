"""The guards of the rescue: only what a dead session still holds, and never what a living one does."""

from __future__ import annotations

import threading
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


def test_a_rescue_gives_back_as_a_new_attempt_with_a_new_message(steps: Protocol) -> None:
    session, task = steps.open(), steps.create()
    steps.take()
    steps.claim(session, task)
    steps.expire(session)
    assert steps.rescue() == {task: State.QUEUED}
    row = steps.row(task)
    assert (row["attempt"], row["tries"], row["session_id"]) == (2, 1, None)
    assert steps.take() == [(task, 2, 1)]
    assert not steps.succeed(session, task, 1)
    assert steps.rescue() == {}


def test_a_session_that_has_just_renewed_is_not_rescued(steps: Protocol, database_url: str) -> None:
    """While it is being renewed its row is skipped, and afterwards it does not match."""
    session, task = steps.open(), steps.create()
    steps.claim(session, task)
    steps.expire(session)
    with psycopg.connect(database_url) as worker:
        worker.execute("UPDATE dispatcher.sessions SET expires_at = now() + interval '1 h' WHERE id = %s", [session])
        assert steps.rescue() == {}  # the row is locked by the renewal
    assert steps.rescue() == {}  # and renewed now
    assert steps.state(task) is State.RUNNING


def test_a_claim_under_way_is_waited_for_and_rescued_too(steps: Protocol, database_url: str) -> None:
    session, task = steps.open(), steps.create()
    with psycopg.connect(database_url) as connection:
        worker = Protocol(connection)
        assert worker.claim(session, task) == [task]  # not committed yet
        done = threading.Event()

        def expire_and_rescue() -> None:
            with psycopg.connect(database_url, autocommit=True) as other:
                rescuer = Protocol(other)
                rescuer.expire(session)
                while not rescuer.rescue():
                    pass
                done.set()

        thread = threading.Thread(target=expire_and_rescue)
        thread.start()
        assert not done.is_set()
        connection.commit()
    thread.join(10)
    assert done.is_set()
    assert (steps.state(task), steps.row(task)["attempt"]) == (State.QUEUED, 2)


def test_only_tasks_that_still_run_under_the_dead_session_move(steps: Protocol) -> None:
    dead, alive = steps.open(), steps.open()
    tasks = [steps.create() for _ in range(4)]
    steps.claim(dead, *tasks)
    steps.succeed(dead, tasks[0], 1)
    steps.leave(dead, tasks[1], 1, State.RETRYING, 11)
    steps.leave(dead, tasks[2], 1, State.QUEUED, 13, refund=1)
    steps.claim(alive, tasks[2])
    steps.expire(dead)
    assert steps.rescue() == {tasks[3]: State.QUEUED}
    assert steps.state(tasks[2]) is State.RUNNING and steps.succeed(alive, tasks[2], 2)


def test_a_rescued_task_without_tries_left_fails(steps: Protocol) -> None:
    session, task = steps.open(), steps.create(tries=1)
    steps.claim(session, task)
    steps.expire(session)
    assert steps.rescue() == {task: State.FAILED}
    assert (steps.row(task)["reason"], steps.row(task)["attempt"]) == (3, 1)


def test_a_rescued_task_that_was_asked_to_stop_is_cancelled(steps: Protocol) -> None:
    session, task = steps.open(), steps.create()
    steps.claim(session, task)
    steps.cancel(task)
    steps.expire(session)
    assert steps.rescue() == {task: State.CANCELLED}
    assert steps.sql("SELECT count(*) FROM dispatcher.cancel_requests") == [(0,)]


def test_after_a_start_of_the_database_every_lease_gets_its_time(steps: Protocol) -> None:
    """A database that was away longer than a lease would otherwise find the whole fleet dead."""
    session = steps.open()
    steps.sql(
        "UPDATE dispatcher.sessions SET expires_at = now() - interval '1 s', lease = '10 years' WHERE id = %s", session
    )
    assert steps.rescue() == {} and steps.end_expired() == []


def test_a_session_that_still_holds_a_claim_is_not_closed(steps: Protocol) -> None:
    from state.sessions import CLOSE

    session, task = steps.open(), steps.create()
    steps.claim(session, task)
    assert steps.run(CLOSE, session=session, batches=[]) == []
    steps.succeed(session, task, 1)
    assert steps.run(CLOSE, session=session, batches=[1]) == [(session,)]
